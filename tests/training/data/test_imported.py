"""Data of the user's own are scaled and cut as all others are, and a factory that brings none is told so in a line."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from bnstudy.errors import UserError
from bnstudy.training.config import DatasetConfig
from bnstudy.training.data import DatasetShape, describe, load_dataset
from bnstudy.training.imported import with_imports
from bnstudy.training.measuring import measure_block
from tests.tiny import tiny
from tests.training import own


def imported(shape: list[int], **args: Any) -> DatasetConfig:
    return DatasetConfig("import", factory="tests.training.own:drawn", args={"shape": shape, **args})


def order(seed: int, samples: int, random: np.random.RandomState | None = None) -> np.ndarray[Any, Any]:
    return (random or np.random.RandomState(seed)).permutation(samples)


@pytest.mark.parametrize("form", ["tuple", "mapping", "tensors"])
@pytest.mark.parametrize("kind", ["float32", "float64", "float16", "int16", "uint8"])
@pytest.mark.parametrize("shape", [[6], [3, 4, 5], [2, 7], [1, 2, 3, 4]])
def test_inputs_are_standardised_by_channel_over_the_training_split_in_the_fixed_order(
    shape: list[int], kind: str, form: str
) -> None:
    config = imported(shape, kind=kind, form=form)
    data = load_dataset(config)
    source = own.drawn(shape, kind=kind)
    train, test = (np.asarray(source[index], np.float64) for index in (0, 2))
    axes = (0, *range(2, train.ndim))
    mean, std = train.mean(axes, keepdims=True), train.std(axes, keepdims=True)
    random = np.random.RandomState(0)
    for split, inputs, labels in ((data.train, train, source[1]), (data.test, test, source[3])):
        rearranged = order(0, len(inputs), random)
        assert split.inputs.dtype == torch.float32
        assert split.targets.dtype == torch.int64
        np.testing.assert_allclose(split.inputs.numpy(), ((inputs - mean) / std)[rearranged], atol=2e-5)
        np.testing.assert_array_equal(split.targets.numpy(), labels[rearranged])
    assert describe(config) == DatasetShape("classification", tuple(shape), 3, 30, 20)


def test_unscaled_inputs_are_what_the_factory_gives() -> None:
    for kind in ("float32", "uint8"):
        data = load_dataset(replace(imported([3, 4, 4], kind=kind), scale=False))
        given = own.drawn([3, 4, 4], kind=kind)[0][order(0, 30)]
        np.testing.assert_array_equal(data.train.inputs.numpy(), given.astype(np.float32))


@pytest.mark.parametrize(("targets", "outputs"), [("one", 1), ("two", 2)])
def test_floats_are_targets_of_a_regression_and_are_standardised(targets: str, outputs: int) -> None:
    config = imported([6], targets=targets)
    data = load_dataset(config)
    assert (data.task, data.outputs, data.target_scaling is None) == ("regression", outputs, False)
    given = np.asarray(own.drawn([6], targets=targets)[1], np.float64).reshape(30, outputs)
    np.testing.assert_allclose(data.train.targets.numpy(), ((given - given.mean(0)) / given.std(0))[order(0, 30)], atol=1e-6)
    measured = measure_block(tiny(dataset=config, probe_batches=8), data, [0, 1])
    assert {"r2", "mse"} <= measured.metrics[0].keys()


def test_subsets_are_prefixes_and_the_split_seed_picks_the_order() -> None:
    whole, part = load_dataset(imported([6])), load_dataset(replace(imported([6]), train_size=11, test_size=7))
    assert torch.equal(part.train.inputs, whole.train.inputs[:11])
    assert torch.equal(part.test.targets, whole.test.targets[:7])
    assert describe(replace(imported([6]), train_size=11)).train_samples == 11
    assert not torch.equal(load_dataset(replace(imported([6]), split_seed=1)).train.inputs, whole.train.inputs)


def test_images_of_one_s_own_are_augmented_like_any_other() -> None:
    config = replace(imported([1, 8, 8]), augment="crop_flip")
    measure_block(tiny(dataset=config, probe_batches=0, epochs=1), load_dataset(config), [0])


def test_describing_and_loading_calls_the_factory_once() -> None:
    config = imported([6], seed=12)
    own.CALLS.clear()
    for _ in range(3):
        describe(config)
    load_dataset(config)
    assert len(own.CALLS) == 1


def test_data_of_one_s_own_are_called_what_their_factory_is_unless_they_are_named() -> None:
    assert with_imports(tiny(dataset=imported([6]))).dataset.name == "tests.training.own:drawn"
    named = with_imports(tiny(dataset=replace(imported([6]), name="mine"))).dataset
    assert named.name == "mine"
    assert load_dataset(named).name == "mine"


MISTAKES = {
    "nothing": ["gives a NoneType", "use a mapping or a tuple of train_inputs, train_targets, test_inputs, test_targets"],
    "three": ["gives 3 values"],
    "keys": ["without train_targets, test_inputs, test_targets (it has 'x', 'train_inputs')"],
    "no inputs": ["gives train_inputs of shape (0, 4)", "one sample or more"],
    "flat": ["gives train_inputs of shape (6,)", "(n, features) or (n, channels, height, width)"],
    "texts": ["gives train_inputs of dtype <U1", "numbers"],
    "ragged": ["gives train_inputs as a list that is no array"],
    "objects": ["gives train_targets of dtype object"],
    "nan": ["gives test_inputs with 4 values that are NaN or infinite", "finite"],
    "infinite targets": ["gives train_targets with 6 values that are NaN or infinite"],
    "fewer targets": ["gives 6 train_inputs and 5 train_targets"],
    "other shape": ["train_inputs of shape (6, 4) and test_inputs of shape (6, 5)"],
    "two dtypes": ["train_targets of dtype int64 and test_targets of dtype float64", "floats for a regression"],
    "one-hot": ["gives train_targets of shape (6, 6) and dtype int64", "(n,) class numbers, or floats"],
    "from one": ["gives targets of the classes 1, 2", "0 to K−1 without gaps"],
    "one class": ["gives targets of the classes 0; use 0 to K−1"],
    "a tensor of outputs": ["gives train_targets of shape (6, 2, 2)", "(n,) or (n, outputs)"],
    "outputs differ": ["gives test_targets of shape (6, 3)"],
    "misspelt": ["raises KeyError: 'misspelt' (own.py, line ", "it is called as load(**dataset.args)"],
}


@pytest.mark.parametrize("what", MISTAKES)
def test_a_factory_that_gives_something_else_is_told_so_in_one_line(what: str) -> None:
    config = DatasetConfig("import", factory="tests.training.own:broken", args={"what": what})
    for function in (describe, load_dataset):
        with pytest.raises(UserError) as caught:
            function(config)
        text = str(caught.value)
        assert text.startswith("dataset.factory: 'tests.training.own:broken' ")
        assert len(text.splitlines()) == 1
        for part in MISTAKES[what]:
            assert part in text


@pytest.mark.parametrize(
    ("config", "text"),
    [
        (DatasetConfig("import"), "dataset.factory: null names no function; dataset=import needs dataset.factory="),
        (
            DatasetConfig(factory="data:load"),
            "dataset.factory: 'data:load' is nothing to dataset 'digits'; use dataset=import",
        ),
        (DatasetConfig(args={"a": 1}), "dataset.args: {'a': 1} is nothing to dataset 'digits'"),
        (DatasetConfig(scale=False), "dataset.scale: false is nothing to dataset 'digits'; use true, or dataset=import"),
        (replace(imported([6]), source="other"), "has changed since the study was planned; run it again"),
        (replace(imported([6]), train_size=31), "dataset.train_size: 31 does not fit 'import'; use 1 to 30"),
        (replace(imported([6]), augment="crop_flip"), "needs images and 'import' has none"),
        (replace(imported([6]), args={"shape": (1, {2})}), "dataset.args: {'shape': (1, {2})} has a value that cannot be"),
    ],
)
def test_a_setting_that_data_cannot_have_is_refused_in_one_line(config: DatasetConfig, text: str) -> None:
    with pytest.raises(UserError) as caught:
        load_dataset(config)
    assert text in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
