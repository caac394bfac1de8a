"""Dashboards as code: built and checked by wandb-workspaces' own models, without a server."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from wandb_workspaces.reports.v2.internal import Spec
from wandb_workspaces.workspaces.internal import WorkspaceViewspec

from bnstudy.sweeps.store import Store, read_json
from bnstudy.tracking.dashboards import Place, primary_number, report, specification, workspace, write_specifications

SNAPSHOTS = Path(__file__).parent / "snapshots"
LAYERS = ("norm0", "norm1")


@pytest.fixture
def record(store: Store) -> dict[str, Any]:
    """The study of all these tests."""
    found = store.study("tiny")
    assert found is not None
    return found


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that is not there: whatever asked it would fail."""
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)


@pytest.mark.parametrize("name", ["workspace", "report"])
def test_the_dashboards_are_what_the_snapshot_says(record: dict[str, Any], name: str) -> None:
    view = {"workspace": workspace, "report": report}[name](record, Place("somebody"), LAYERS)
    path = SNAPSHOTS / f"{name}.json"
    found = json.dumps(specification(view), indent=1, ensure_ascii=False) + "\n"
    if not path.exists():  # delete the file to take a new one
        path.write_text(found)
    assert json.loads(found) == json.loads(path.read_text())


def test_specifications_are_valid_to_the_library_itself(record: dict[str, Any]) -> None:
    WorkspaceViewspec.model_validate(specification(workspace(record, Place(), LAYERS))["spec"])
    Spec.model_validate(specification(report(record, Place(), LAYERS))["spec"])


def test_the_workspace_shows_gaps_curves_terms_layer_ratios_and_a_comparer(record: dict[str, Any]) -> None:
    section = specification(workspace(record, Place(), LAYERS))["spec"]["section"]
    panels = {
        bank["name"]: [(panel["viewType"], panel["config"]) for panel in bank["panels"]]
        for bank in section["panelBankConfig"]["sections"]
    }
    kind, gap = panels["Gap against batch size"][0]
    assert (kind, gap["xAxis"], gap["yAxis"]) == (
        "Scatter Plot",
        "config:batch_size.value",
        "summary:decomposition/test/accuracy/gap",
    )
    curves = [config["metrics"] for _, config in panels["Training and inference, epoch by epoch"]]
    assert ["test/train_mode/accuracy"] in curves
    assert ["test/eval_mode/accuracy"] in curves
    terms = [key.rpartition("/")[2] for key in panels["Causes of the gap"][0][1]["metrics"]]
    assert terms == ["lag", "constant", "noise"]
    assert panels["Layers: second moment, eval over train"][0][1]["metrics"] == ["layers/norm0/ratio", "layers/norm1/ratio"]
    assert panels["Runs compared"][0][0] == "Run Comparer"
    runs = section["runSets"][0]
    assert "convention" in json.dumps(runs["grouping"])
    assert "tiny" in json.dumps(runs["filters"])


def test_panels_name_only_keys_that_the_mirror_writes(store: Store, record: dict[str, Any]) -> None:
    from bnstudy.tracking.mirror import StudyMirror

    mirror = StudyMirror(store, "tiny")
    run = mirror.runs(mirror.jobs()[0])[0]
    text = json.dumps(specification(workspace(record, Place(), mirror.layer_names())))
    named = {part for part in text.replace("summary:", "").split('"') if part.count("/") >= 2}
    assert named
    assert named <= set(run.summary) | set(run.history[-1])
    assert {"study", "convention", "batch_size"} <= set(run.config)


def test_a_regression_shows_r2() -> None:
    cells = [{"fields": {"dataset.name": "diabetes"}}]
    assert primary_number({"study_fields": {"metric": None, "split": "test"}, "cells": cells}) == ("test", "r2")


def test_files_for_whoever_has_no_server(tmp_path: Path, record: dict[str, Any]) -> None:
    paths = write_specifications(tmp_path, record)
    assert [path.name for path in paths] == ["workspace.json", "report.json"]
    assert all(read_json(path) for path in paths)


def test_the_modules_import_no_wandb() -> None:
    modules = "bnstudy.tracking.dashboards, bnstudy.tracking.publishing"
    code = f"import sys, {modules}; sys.exit(bool({{'wandb', 'torch'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
