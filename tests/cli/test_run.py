"""`bnstudy run` from the first cell to the tables."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import bnstudy as package
from tests.cli.conftest import TINY, Command

TABLES = ("metrics", "gaps", "generalisation", "summary")


def read(folder: Path) -> dict[str, pd.DataFrame]:
    return {name: pd.read_parquet(folder / f"{name}.parquet") for name in TABLES}


def test_a_sweep_trains_once_a_side_and_tabulates_every_convention(bnstudy: Command, tmp_path: Path) -> None:
    sweep = ("-m", "name=sweep", "variance=paper,karpathy,flax,inverted", "batch_size=4,16", "seeds=3", *TINY)
    done = bnstudy("run", *sweep)
    assert done.returncode == 0, done.stderr
    # 2 batch sizes, 2 normalising sides, one block of three seeds: four trainings serve eight cells.
    assert "8 cells, 4 jobs: 0 done, 0 failed before, 4 to run" in done.stderr
    assert len(list((tmp_path / "outputs" / "jobs").iterdir())) == 4
    tables = package.load("sweep", tmp_path / "results", tmp_path / "outputs")
    assert set(tables["gaps"]["convention"]) == {"paper", "consistent_unbiased", "consistent_biased", "inverted"}
    assert set(tables["metrics"]["seed"]) == {0, 1, 2}
    terms = tables["gaps"][["lag", "constant", "noise"]].sum(axis=1)
    np.testing.assert_allclose(terms, tables["gaps"]["gap"], atol=1e-12)
    for word in ("mlp on digits", "paper", "consistent_unbiased", "±", "Command:"):
        assert word in done.stdout
    provenance = json.loads((tmp_path / "results" / "sweep" / "provenance.json").read_text())
    assert provenance["runs"] == 12
    assert provenance["seeds"] == [0, 1, 2]

    again = bnstudy("run", *sweep)
    assert "4 done, 0 failed before, 0 to run" in again.stderr
    extended = bnstudy("run", *(argument.replace("seeds=3", "seeds=4") for argument in sweep))
    assert "4 to run" in extended.stderr  # seed 3 alone
    assert set(package.load("sweep", tmp_path / "results")["metrics"]["seed"]) == {0, 1, 2, 3}


def test_the_same_command_twice_gives_identical_tables_bit_for_bit(bnstudy: Command, tmp_path: Path) -> None:
    for folder in ("first", "second"):
        done = bnstudy(
            "run",
            "-m",
            "name=same",
            f"output_dir={folder}",
            f"results_dir={folder}",
            "variance=paper,karpathy",
            "seeds=2",
            *TINY,
        )
        assert done.returncode == 0, done.stderr
    for name in TABLES:
        paths = (tmp_path / folder / "same" / f"{name}.parquet" for folder in ("first", "second"))
        first, second = (path.read_bytes() for path in paths)
        assert first == second, name


def test_a_baseline_without_batchnorm_and_a_regression_are_tabulated(bnstudy: Command, tmp_path: Path) -> None:
    done = bnstudy(
        "run", "-m", "name=mixed", "dataset=diabetes", "dataset.train_size=200", "model.norm=batch,layer,none", "seeds=2",
        "model.width=8", "epochs=1", "variance=paper,inverted",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    tables = package.load("mixed", tmp_path / "results")
    assert set(tables["metrics"]["norm"]) == {"batch", "layer", "none"}
    assert set(tables["gaps"]["norm"]) == {"batch"}
    assert set(tables["gaps"]["metric"]) == {"r2", "mse"}
    assert set(tables["generalisation"]["convention"]) == {"paper", "inverted", "none"}


def test_a_diverged_seed_is_named_and_left_out(bnstudy: Command, tmp_path: Path) -> None:
    done = bnstudy("run", "name=wild", "optimizer.lr=1e30", "seeds=2", *TINY)
    assert done.returncode == 0, done.stderr
    assert ": diverged: seed 0 at step " in done.stdout
    assert "(2 diverged)" in done.stdout
    summary = package.load("wild", tmp_path / "results")["summary"]
    assert (summary["diverged"] == 2).all()
    assert summary["mean"].isna().all()


def test_a_job_that_raises_is_recorded_and_the_others_go_on(bnstudy: Command, tmp_path: Path) -> None:
    sweep = ("-m", "name=half", "seeds=2", "variance=paper", "model=mlp,resnet8", "precision=float64,bfloat16", *TINY[2:])
    folder = tmp_path / "outputs" / "jobs"
    done = bnstudy("run", *sweep, "model.width=4")
    assert done.returncode == 0, done.stderr
    victim = min(folder.iterdir())
    record = json.loads((victim / "job.json").read_text())
    (victim / "job.json").write_text(json.dumps(record | {"status": "failed", "message": "ValueError: planted"}))
    failed = bnstudy("run", *sweep, "model.width=4")
    assert failed.returncode == 1
    assert f"{victim.name}: failed earlier: ValueError: planted" in failed.stderr
    assert "retry_failed=true" in failed.stderr
    retried = bnstudy("run", *sweep, "model.width=4", "retry_failed=true")
    assert retried.returncode == 0, retried.stderr
    assert "1 to run" in retried.stderr


def test_hydra_prints_the_configuration_of_a_cell(bnstudy: Command) -> None:
    done = bnstudy("run", "variance=karpathy", "batch_size=4", "--cfg", "job")
    assert done.returncode == 0
    assert "normalize: unbiased" in done.stdout
    assert "batch_size: 4" in done.stdout


def test_mappings_that_take_any_key_are_overridden_as_they_are_documented(bnstudy: Command) -> None:
    done = bnstudy(
        "run", "--cfg", "job", "engine=slurm", "engine.options={account:lab,qos:high}", "study.family.batch_size=[2,4]"
    )
    assert done.returncode == 0, done.stderr
    assert "  options:\n    account: lab\n    qos: high\n" in done.stdout
    assert "  family:\n    batch_size:\n    - 2\n    - 4\n" in done.stdout


@pytest.mark.parametrize("option", [(), ("--first-m-eff", "2"), ("--momentum", "0.1"), ("--positions", "1"), ("--skip",)])
def test_predict_prints_the_first_layer_s_arithmetic_and_what_deeper_layers_make_of_it(
    bnstudy: Command, option: tuple[str, ...]
) -> None:
    done = bnstudy("predict", "--batch-size", "2", "--depth", "3", *option)
    assert done.returncode == 0, done.stderr
    rows = [
        [cell.strip() for cell in line.strip("│").split("│")] for line in done.stdout.splitlines() if line.startswith("│")
    ]
    assert [row[0] for row in rows] == ["1", "2", "3"] * 2
    ratios, stored = rows[:3], rows[3:]
    # one layer, independent samples: E[1/s²] is left out at m = 2, so that the ratio is normalising over stored divisor
    exact = ["2", "1.000", "2.000", "2.000", "4.000", "1.000"]
    if option != ("--momentum", "0.1"):  # the average's noise, on top
        assert ratios[0][1:] == exact
    assert stored[0][1:] == ["2", "1.000", "1.000", "0.500", "0.500", "1.000"]
    if option != ("--skip",):  # samples of a plain stack's deeper layers are bound by the layer below
        assert [row[1:] for row in stored[1:]] == [["∞", "2.000", "2.000", "1.000", "1.000", "1.000"]] * 2


FAILING = """\
from torch import nn


class Network(nn.Module):
    def __init__(self, features, outputs, width):
        super().__init__()
        self.width = width
        self.layers = nn.Sequential(nn.Linear(features, width), nn.BatchNorm1d(width), nn.Linear(width, outputs))

    def forward(self, x):
        if self.width == 16 and self.training and len(x) == 8:
            raise RuntimeError("planted")
        return self.layers(x)


def build(input_shape, outputs, width=8):
    return Network(input_shape[0], outputs, width)
"""


def test_a_failure_is_told_once_with_what_differs_and_alone_where_quiet(bnstudy: Command, tmp_path: Path) -> None:
    (tmp_path / "failing.py").write_text(FAILING)
    sweep = ["-m", "name=half", "model=import", "model.factory=failing:build", "model.args.width=8,16", "batch_size=4,8"]
    sweep += ["variance=paper,flax", "dataset=diabetes", "dataset.train_size=100", "seeds=2", "epochs=1"]
    done = bnstudy("run", "--quiet", *sweep)
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    job, _, rest = line.partition(" ")
    assert rest == (
        "(batch_size=8, model.args.width=16, paper/consistent_biased, seeds 0–1): failed: RuntimeError: planted; "
        f"its traceback is in outputs/jobs/{job}/job.json"
    )
    assert "planted" in json.loads((tmp_path / "outputs" / "jobs" / job / "job.json").read_text())["traceback"]
