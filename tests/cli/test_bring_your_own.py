"""`bnstudy run` on a network and data of the user's own, written in a file beside the command."""

from __future__ import annotations

from pathlib import Path

import pytest

import bnstudy as package
from bnstudy.sweeps.engines.attempt import attempt_job
from bnstudy.sweeps.identity import job_id, training_id
from bnstudy.sweeps.plan import Job
from bnstudy.sweeps.provenance import source_state
from bnstudy.sweeps.store import Store
from bnstudy.training.config import ModelConfig
from bnstudy.training.imported import with_imports
from tests.cli.conftest import Command, files_under
from tests.tiny import tiny

NETS = """
import torch.nn.functional as F
from torch import nn


class Net(nn.Module):
    def __init__(self, channels, outputs, width, drop):
        super().__init__()
        self.conv = nn.Conv2d(channels, width, 3, padding=1)
        self.bn = nn.BatchNorm2d(width)
        self.head = nn.Linear(width, outputs)
        self.drop = nn.Dropout(drop) if drop else nn.Identity()

    def forward(self, x):
        x = F.relu(self.bn(self.conv(x)))
        return self.head(self.drop(F.adaptive_avg_pool2d(x, 1).flatten(1)))


def build(input_shape, outputs, width=4, drop=0.0):
    return Net(input_shape[0], outputs, width, drop)


def rows(input_shape, outputs):
    return nn.Sequential(nn.Linear(input_shape[0], 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, outputs))


def plain(input_shape, outputs):
    return nn.Linear(input_shape[0], outputs)
"""
DATA = """
from sklearn.datasets import load_wine, load_diabetes
from sklearn.model_selection import train_test_split


def parts(inputs, targets):
    train_inputs, test_inputs, train_targets, test_targets = train_test_split(inputs, targets, random_state=0)
    return train_inputs, train_targets, test_inputs, test_targets


def wine(side=None):
    inputs, targets = load_wine(return_X_y=True)
    return parts(inputs if side is None else inputs[:, : side * side].reshape(-1, 1, side, side), targets)


def sugar():
    return parts(*load_diabetes(return_X_y=True))


def bare():
    return load_wine()
"""
IMPORTS = ("model=import", "dataset=import", "dataset.factory=data:wine", "seeds=2", "epochs=1", "batch_size=8")


@pytest.fixture
def own(tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text(NETS)
    (tmp_path / "data.py").write_text(DATA)


@pytest.mark.usefixtures("own")
def test_a_sweep_over_one_s_own_networks_trains_tabulates_resumes_and_notices_an_edit(
    bnstudy: Command, tmp_path: Path
) -> None:
    sweep = ("-m", "name=mine", *IMPORTS, "dataset.args.side=3", "model.factory=nets:build", "model.args.drop=0,0.2",
             "variance=paper,flax", "probe_batches=8")  # fmt: skip
    planned = bnstudy("plan", *sweep)
    assert planned.returncode == 0, planned.stderr
    # Two networks of which one has dropout: its two seeds are two jobs.
    assert "4 cells, 3 jobs: 0 done, 3 missing, 0 failed" in planned.stdout
    assert "3 from a probe" in planned.stdout
    done = bnstudy("run", *sweep)
    assert done.returncode == 0, done.stderr
    assert "nets:build on data:wine" in done.stdout
    tables = package.load("mine", tmp_path / "results", tmp_path / "outputs")
    metrics, layers = tables["metrics"], tables["layers"]
    assert set(metrics["model"]) == {"nets:build"}
    assert set(metrics["dataset"]) == {"data:wine"}
    assert set(metrics["model_args_drop"]) == {0.0, 0.2}
    assert set(metrics["seed"]) == {0, 1}
    assert set(layers["layer"]) == {"bn"}
    assert set(layers["m"]) == {8 * 9}

    again = bnstudy("run", *sweep)
    assert "3 done, 0 failed before, 0 to run" in again.stderr
    (tmp_path / "nets.py").write_text(NETS + "# another line\n")
    assert "0 done, 0 failed before, 3 to run" in bnstudy("run", *sweep).stderr
    (tmp_path / "nets.py").write_text(NETS)
    assert "3 done, 0 missing" in bnstudy("plan", *sweep).stdout


@pytest.mark.usefixtures("own")
def test_two_data_sets_in_a_sweep_are_told_apart_and_may_be_named(bnstudy: Command, tmp_path: Path) -> None:
    sweep = ("-m", "name=two", *IMPORTS, "model.factory=nets:rows", "probe_batches=0", "model.name=small")
    done = bnstudy("run", *(part.replace("data:wine", "data:wine,data:sugar") for part in sweep))
    assert done.returncode == 0, done.stderr
    tables = package.load("two", tmp_path / "results")
    assert set(tables["metrics"]["dataset"]) == {"data:wine", "data:sugar"}
    assert set(tables["metrics"]["model"]) == {"small"}
    assert set(tables["gaps"]["metric"]) == {"accuracy", "loss", "ece", "r2", "mse"}
    assert "small on data:sugar: R²" in done.stdout


@pytest.mark.usefixtures("own")
def test_an_experiment_may_name_factories_and_vary_their_arguments(bnstudy: Command, tmp_path: Path) -> None:
    (tmp_path / "conf" / "experiments").mkdir(parents=True)
    (tmp_path / "conf" / "experiments" / "widths.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /model: import\n  - override /dataset: import\n"
        "name: widths\nmodel:\n  factory: nets:build\ndataset:\n  factory: data:wine\n  args: {side: 2}\n"
        "hydra:\n  mode: MULTIRUN\n  sweeper:\n    params:\n      model.args.width: 2,3\n"
    )
    planned = bnstudy("plan", f"hydra.searchpath=[file://{tmp_path}/conf]", "+experiments=widths", "seeds=2", "epochs=1")
    assert planned.returncode == 0, planned.stderr
    assert "2 cells, 2 jobs" in planned.stdout


MISTAKES = {
    "no factory": ([], ["model.factory: null names no function", "pkg.module:function"]),
    "another form": (["model.factory=nets.rows"], ["model.factory: 'nets.rows' has not the form", "mean nets:rows?"]),
    "no module": (["model.factory=net:rows"], ["model.factory: there is no module 'net'", "use pkg.module:function"]),
    "no BatchNorm": (["model.factory=nets:plain"], ["'nets:plain' builds no BatchNorm layer", "use BatchNorm1d"]),
    "an unknown argument": (
        ["model.factory=nets:build", "model.args.wide=3"],
        ["TypeError", "'wide'", "build(input_shape, outputs,"],
    ),
    "a norm": (["model.factory=nets:rows", "model.norm=none"], ["model.norm: 'none' is the factory's own affair"]),
    "replicas": (
        ["model.factory=nets:build", "model.args.drop=0.1", "dataset.args.side=3", "replicas=2"],
        ["replicas: 2", "'drop' (Dropout) has no replicated form", "use 1, or auto"],
    ),
    "no data": (
        ["model.factory=nets:rows", "dataset.factory=data:bare"],
        ["dataset.factory: 'data:bare' gives a mapping without train_inputs", "use the keys"],
    ),
    "a batch too large": (
        ["model.factory=nets:rows", "batch_size=500"],
        ["batch_size: 500", "133 training samples of 'data:wine'"],
    ),
    "one value": (["model.factory=nets:rows", "batch_size=1"], ["batch_size: 1", "layer '1' of model 'nets:rows'"]),
}


@pytest.mark.parametrize("name", MISTAKES)
@pytest.mark.usefixtures("own")
def test_a_mistake_is_told_in_a_line_or_two_and_writes_nothing(name: str, bnstudy: Command, tmp_path: Path) -> None:
    changes, expected = MISTAKES[name]
    given = {change.partition("=")[0] for change in changes}
    before = files_under(tmp_path)
    done = bnstudy("run", *(part for part in IMPORTS if part.partition("=")[0] not in given), *changes)
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    for text in expected:
        assert text in done.stderr
    assert done.stdout == ""
    assert [file for file in files_under(tmp_path) if "__pycache__" not in file] == before


def test_a_job_that_finds_another_source_than_was_planned_fails_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("changing.py").write_text(NETS)
    config = with_imports(tiny(model=ModelConfig("import", "import", factory="changing:build"), epochs=1, probe_batches=0))
    training = training_id(config)
    job = Job(job_id(training, [0]), training, config, (0,), 13)
    Path("changing.py").write_text(NETS + "# edited\n")
    outcome = attempt_job(job, "outputs", source_state(), 1, str(tmp_path))
    assert outcome.status == "failed"
    assert "the source of 'changing:build' has changed since the study was planned; run it again" in outcome.message


def test_a_job_elsewhere_finds_modules_on_the_search_path_that_travels_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "library").mkdir()
    (tmp_path / "library" / "travelling.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    config = tiny(model=ModelConfig("import", "import", factory="travelling:build"), epochs=1, probe_batches=0)
    training = training_id(config)
    job = Job(job_id(training, [0]), training, config, (0,), 13)
    assert "no module 'travelling'" in attempt_job(job, "outputs", source_state(), 1, str(tmp_path)).message
    monkeypatch.setattr("sys.path", [*__import__("sys").path])
    again = Job(job_id(training, [1]), training, config, (1,), 13)
    assert attempt_job(again, "outputs", source_state(), 1, str(tmp_path), [str(tmp_path / "library")]).status == "done"
    record = Store("outputs").record(again.id)
    assert record is not None
    assert record["config"]["model"]["factory"] == "travelling:build"
