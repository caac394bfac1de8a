"""One table of metrics: what is declared there is what schemas, figures, verdicts, dashboards and sweeps go by."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bnstudy.metric import METRICS, Metric, metric_of, metrics_for, primary_metric

ROOT = Path(__file__).resolve().parents[1]
DECLARED_ONCE = """
import json, pathlib, sys
import bnstudy.assets, bnstudy.metric
bnstudy.assets.config_folder = lambda: pathlib.Path(sys.argv[1])
bnstudy.metric.METRICS["brier"] = bnstudy.metric.Metric(
    "brier", label="Brier score", meaning="mean squared distance of probabilities", task="classification", factor=100,
    unit="cs", level_unit="cs", direction="lower", bounds=(0, 2), companion="accuracy",
)

import pandas as pd
from bnstudy.analysis.subject import subject_of
from bnstudy.analysis.wording import amount
from bnstudy.analysis.schemas import checked, describe_columns
from bnstudy.analysis.summary import printed_tables
from bnstudy.diagnosis.diagnose import direction_of
from bnstudy.errors import UserError
from bnstudy.tracking import sweep_file
from bnstudy.analysis.verdicts import check_metric
from bnstudy.sweeps.config import Config, StudyConfig

row = {"job": "a", "dataset": "digits", "model": "mlp", "norm": "batch", "normalize": "biased", "batch_size": 2, "seed": 0,
       "epoch": 1, "split": "test", "statistic": "batch", "n": 9}
measured = pd.DataFrame([row | {"brier": 0.5, "accuracy": 0.9}])
checked("metrics", measured)
try:
    checked("metrics", measured.assign(brier=2.5))
    refused = False
except UserError:
    refused = True
subject = subject_of({"metrics": measured}, {"declared": {"metric": "brier", "margin": 0.01}})
summary = pd.DataFrame([{"dataset": "digits", "model": "mlp", "norm": "batch", "normalize": "biased", "batch_size": 2,
                         "convention": "paper", "split": "train", "metric": "brier", "quantity": "gap", "mean": 0.5,
                         "low": 0.4, "high": 0.6, "seeds": 2, "diverged": 0}])
check_metric(Config(study=StudyConfig(metric="brier")))
print(json.dumps({
    "meaning": describe_columns()["brier"], "refused": refused, "axis": subject.metric.axis("gap"),
    "margin": amount(subject.margin, subject.metric), "companion": subject.companion,
    "printed": [title for title, _ in printed_tables(summary)], "direction": direction_of("brier", None),
    "sweep": sweep_file.sweep_config("brier")["metric"],
}))
"""


def test_a_metric_declared_in_one_place_is_known_to_schema_figures_sweep_and_diagnosis(tmp_path: Path) -> None:
    conf = shutil.copytree(ROOT / "conf", tmp_path / "conf")
    quick = (ROOT / "experiments" / "quick.yaml").read_text()
    (conf / "experiments" / "brier.yaml").write_text(quick.replace("metric: accuracy", "metric: brier"))
    command = [sys.executable, "-c", DECLARED_ONCE, str(conf)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "meaning": "mean squared distance of probabilities",
        "refused": True,
        "axis": "gap (cs)",
        "margin": "1.000 cs",
        "companion": "accuracy",
        "printed": ["mlp on digits: Brier score gap, training split (cs), 2 seeds"],
        "direction": "lower",
        "sweep": {"name": "test/eval_mode/brier", "goal": "minimize"},
    }


def test_every_task_has_one_primary_metric_and_it_is_better_where_it_is_higher() -> None:
    for task in ("classification", "regression"):
        primary = [name for name in metrics_for(task) if metric_of(name).primary]
        assert len(primary) == 1
        assert metric_of(primary[0]).direction == "higher"


def test_a_companion_is_another_metric_of_the_same_task() -> None:
    for metric in METRICS.values():
        if metric.companion is not None:
            other = METRICS[metric.companion]
            assert (other.task, other.name == metric.name) == (metric.task, False)


def test_what_studies_measure_is_the_metrics_of_both_tasks_in_the_tables_order() -> None:
    assert metrics_for("classification") == ("accuracy", "loss", "ece")
    assert metrics_for("regression") == ("r2", "mse")
    assert metrics_for() == metrics_for("regression", "classification") == ("accuracy", "loss", "ece", "r2", "mse")


@pytest.mark.parametrize(
    ("measured", "primary"),
    [
        (metrics_for("classification"), "accuracy"),
        (metrics_for("regression"), "r2"),
        (metrics_for(), "accuracy"),
        (("mse", "ece", "loss"), "loss"),
        (("f1",), "f1"),
        ((), "accuracy"),
    ],
)
def test_the_primary_metric_is_the_tasks_own_where_none_is_declared(measured: Collection[str], primary: str) -> None:
    assert primary_metric(measured) == primary


@given(st.lists(st.sampled_from(list(METRICS)), min_size=1))
def test_the_primary_metric_was_measured_whatever_the_order(measured: list[str]) -> None:
    assert primary_metric(measured) in measured
    assert primary_metric(measured) == primary_metric(sorted(measured)) == primary_metric(set(measured))


def test_a_metric_of_the_users_own_is_written_as_it_is_stored() -> None:
    assert metric_of("f1") == Metric("f1", "f1")
    assert (metric_of("f1").factor, metric_of("f1").unit, metric_of("f1").direction) == (1, "", None)
