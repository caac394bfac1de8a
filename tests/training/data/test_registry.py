"""One entry and one reader make a data set; what the table says of each is what its reader gives."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from bnstudy.errors import UserError
from bnstudy.metric import metrics_for
from bnstudy.sweeps.identity import training_fields
from bnstudy.tracking.dashboards import primary_number
from bnstudy.training.checks import check
from bnstudy.training.config import DatasetConfig
from bnstudy.training.data import DATASETS, DatasetEntry, DatasetShape, describe, load_dataset, require_files
from bnstudy.training.data.arrays import Arrays, cut
from bnstudy.training.measuring import measure_block
from tests.tiny import tiny

REPOSITORY = Path(__file__).parents[3]


def waves(config: DatasetConfig) -> Arrays:
    random = np.random.RandomState(config.split_seed)
    inputs = random.uniform(size=(config.samples, 4))
    return cut(inputs, np.sin(inputs.sum(1, keepdims=True)) + config.noise * random.standard_normal((config.samples, 1)))


@pytest.fixture
def config(monkeypatch: pytest.MonkeyPatch) -> DatasetConfig:
    entry = DatasetEntry(f"{__name__}:waves", "regression", (4,), 1, fields=("samples", "noise"))
    monkeypatch.setitem(DATASETS, "waves", entry)
    return DatasetConfig("waves", samples=100, noise=0.1)


def test_an_entry_and_a_reader_are_all_that_a_data_set_needs(config: DatasetConfig) -> None:
    assert check(tiny(dataset=config)) == describe(config) == DatasetShape("regression", (4,), 1, 80, 20)
    require_files(config)
    data = load_dataset(config)
    np.testing.assert_allclose(data.train.inputs.double().mean(0), 0, atol=1e-6)
    measured = measure_block(tiny(dataset=config, probe_batches=0, epochs=1), data, [0])
    assert set(metrics_for("regression")) <= measured.metrics[-1].keys()

    fields = training_fields(tiny(dataset=config))
    assert (fields["dataset.name"], fields["dataset.samples"], fields["dataset.noise"]) == ("waves", 100, 0.1)
    assert not {"dataset.dimension", "dataset.factory", "dataset.scale"} & fields.keys()
    study = {"study_fields": {}, "cells": [{"fields": fields}]}
    assert primary_number(study) == ("test", "r2")


def test_a_new_data_set_is_offered_and_its_fields_are_checked(config: DatasetConfig) -> None:
    with pytest.raises(UserError, match=r"^dataset\.name: 'wave' is .*; choose one of digits, .*, waves, import$"):
        describe(DatasetConfig("wave"))
    with pytest.raises(UserError, match=r"^dataset\.samples: 5 is too few"):
        describe(DatasetConfig("waves", samples=5))


@pytest.mark.parametrize("name", DATASETS)
def test_an_entry_names_a_task_that_is_measured_and_fields_that_there_are(name: str) -> None:
    entry = DATASETS[name]
    assert metrics_for(entry.task)
    sizes = [size for size in entry.input_shape if isinstance(size, str)]
    assert {*sizes, *entry.fields} <= vars(DatasetConfig()).keys()
    assert set(sizes) <= set(entry.fields)
    assert (entry.samples is None) == ("samples" in entry.fields)


def test_every_data_set_is_a_choice_of_the_command_line() -> None:
    folder = REPOSITORY / "conf" / "dataset"
    named = {re.search(r"^name: (\w+)", path.read_text(), re.MULTILINE)[1] for path in folder.glob("*.yaml")}  # type: ignore[index]
    assert named == {*DATASETS, "import"}
