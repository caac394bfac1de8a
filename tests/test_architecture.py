"""What docs/architecture.md says is there, and its examples of how to add something work as they stand."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "architecture.md").read_text()
NAMED = sorted(set(re.findall(r"`(\w+)`\s+\(([\w/]+\.py)\)", PAGE)))
PATHS = sorted(set(re.findall(r"`((?:bnstudy|conf|experiments|scripts|tests|results|frameworks)/[a-z_/.]*)`", PAGE)))


@pytest.mark.parametrize(("name", "file"), NAMED)
def test_what_the_page_names_is_in_the_file_that_it_names(name: str, file: str) -> None:
    text = (ROOT / "bnstudy" / file).read_text()
    assert re.search(rf"^(?:def|class) {name}\b|^{name}\b[^\n]*=", text, re.MULTILINE), f"{name} is not in bnstudy/{file}"


@pytest.mark.parametrize("path", PATHS)
def test_every_path_on_the_page_exists(path: str) -> None:
    assert (ROOT / path).exists() or (ROOT / "bnstudy" / path).exists()


def test_every_floor_of_the_linter_is_on_the_page_and_in_its_order() -> None:
    floors = re.findall(r"^\| `bnstudy/([\w.*]+)", PAGE, re.MULTILINE)
    assert floors == ["cli.py", "diagnosis", "tracking", "frameworks", "analysis", "sweeps", "training", "batchnorm", "*.py"]
    contract = (ROOT / "pyproject.toml").read_text().partition("layers = [")[2].partition("\n]")[0]
    linted = [name for name in re.findall(r"bnstudy\.(\w+)", contract) if (ROOT / "bnstudy" / name).is_dir()]
    assert linted == floors[1:-1]


# The examples of "How to add", applied to a copy of the project and run as a user runs it

BLOCKS = re.findall(r"```(?:python|yaml)\n# (\S+)\n(.*?)```", PAGE.partition("## How to add")[2], re.DOTALL)
RUN = [
    *(
        "dataset.name=wine",
        "model=funnel",
        "model.args.width=16",
        "engine.name=serial",
        "study.metric=brier",
        "study.margin=0.05",
    ),
    *("variance=caffe,flax", "batch_size=4,16"),
    *("seeds=3", "epochs=2", "name=added", "tracking=disabled"),
]


@dataclass(frozen=True)
class Added:
    """A study that ran in a copy of the project with every example in it."""

    project: Path
    folder: Path
    process: int

    def table(self, name: str) -> pd.DataFrame:
        return pd.read_parquet(self.folder / "results" / "added" / f"{name}.parquet")

    def value(self, expression: str) -> str:
        """What an expression prints in the copy."""
        command = [sys.executable, "-c", f"print({expression})"]
        return subprocess.check_output(command, env=environment(self.project), cwd=self.folder, text=True).strip()


def environment(project: Path) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(project), "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def added(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Added:
    """Run once, whatever the number of pytest's workers."""
    base = tmp_path_factory.getbasetemp()
    base = base if worker_id == "master" else base.parent
    project, folder, outcome = base / "added_project", base / "added_study", base / "added.json"
    with open(base / "added.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not outcome.exists():
            outcome.write_text(json.dumps(run_with_examples(project, folder)))
    code, process, said = json.loads(outcome.read_text())
    assert code == 0, said
    return Added(project, folder, process)


def run_with_examples(project: Path, folder: Path) -> tuple[int, int, str]:
    """Exit code, process and output of a study in a copy of the project with every example in it."""
    folder.mkdir()
    for name in ("bnstudy", "conf", "experiments"):
        shutil.copytree(ROOT / name, project / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    (project / "examples").mkdir()
    for file, code in BLOCKS:
        with open(project / file, "a") as opened:
            opened.write(f"\n\n{code}")
    command = [sys.executable, "-m", "bnstudy.cli", "run", "-m", *RUN]
    streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(command, env=environment(project), cwd=folder, **streams) as running:
        said, _ = running.communicate(timeout=300)
    return running.returncode, running.pid, said


def test_the_copy_with_the_examples_is_what_runs(added: Added) -> None:
    assert Path(added.value("__import__('bnstudy').__file__")).is_relative_to(added.project)


def test_the_added_data_set_is_trained_on(added: Added) -> None:
    metrics = added.table("metrics")
    assert set(metrics["dataset"]) == {"wine"}
    whole = metrics[(metrics["statistic"] == "ema_biased") & (metrics["epoch"] == metrics["epoch"].max())]
    assert set(whole[whole["split"] == "test"]["n"]) == {36}
    assert whole[whole["split"] == "train"]["accuracy"].mean() > 0.8


def test_the_added_model_is_trained_and_its_layers_are_probed(added: Added) -> None:
    layers = added.table("layers")
    assert set(layers["model"]) == {"funnel"}
    assert layers["layer"].nunique() == 2
    assert set(layers["m"]) == {4, 16}


def test_the_added_alias_is_its_convention(added: Added) -> None:
    assert set(added.table("gaps")["convention"]) == {"paper", "consistent_biased"}
    assert added.value("__import__('bnstudy').Convention.parse('caffe').name") == "paper"


def test_any_pair_of_vectors_can_be_evaluated_without_a_name(added: Added) -> None:
    code = "exec(open('examples/scaled.py').read()); m = model[1]; print(scaled.std().item() > 0, m.override is None)"
    command = [sys.executable, "-c", code]
    assert subprocess.check_output(command, env=environment(added.project), cwd=added.project, text=True) == "True True\n"


def test_the_added_metric_is_in_every_table_with_its_bounds_and_is_what_verdicts_are_about(added: Added) -> None:
    brier = added.table("metrics")["brier"]
    assert brier.between(0, 2).all()
    assert brier.nunique() > 10
    assert {"brier"} <= set(added.table("gaps")["metric"])
    contrasts = added.table("contrasts")
    assert set(contrasts[contrasts["in_family"]]["metric"]) == {"brier"}
    assert "Brier score" in (added.folder / "results" / "added" / "report.md").read_text()


def test_the_added_metric_is_its_formula() -> None:
    code = next(code for file, code in BLOCKS if file.endswith("measuring/metrics.py"))
    found: dict[str, Any] = {"F": torch.nn.functional, "FORMULAS": {}}
    exec(code, found)
    random = np.random.default_rng(0)
    p, classes = random.dirichlet(np.ones(4), 50), random.integers(4, size=50)
    by_hand = np.mean([sum((p[i, k] - (classes[i] == k)) ** 2 for k in range(4)) for i in range(50)])
    assert found["FORMULAS"]["brier"](torch.tensor(p).log(), torch.tensor(classes)) == pytest.approx(by_hand, rel=1e-12)


def test_the_added_figure_is_drawn_and_in_the_report(added: Added) -> None:
    results = added.folder / "results" / "added"
    assert (results / "figures" / "seconds.svg").read_text().startswith("<svg")
    assert "How long the jobs took" in (results / "report.html").read_text()


def test_the_added_engine_ran_the_jobs_in_the_process_of_the_command(added: Added) -> None:
    records = [json.loads(path.read_text()) for path in added.folder.glob("outputs/jobs/*/job.json")]
    assert len(records) == 2
    assert {record["process"] for record in records} == {added.process}
