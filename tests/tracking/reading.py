"""Runs as wandb's own reader gives them: `wandb leet inspect --json`."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wandb.util import get_core_path


@dataclass
class ReadRun:
    """A run's records: the run itself, its metric definitions, history, and the summary they add up to."""

    run: dict[str, Any]
    metrics: list[dict[str, Any]]
    history: list[dict[str, Any]]
    summary: dict[str, Any]
    finished: bool


def read_run(file: Path) -> ReadRun:
    """Read a `.wandb` file; keys that W&B adds (with an underscore) are left out."""
    options = ["--no-observability", "--json", "--run-file", str(file)]
    command = [get_core_path(), "leet", "inspect", *options, str(file.parent.parent)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.splitlines()
    records = [json.loads(line) for line in lines]
    summary: dict[str, Any] = {}
    for record in records:
        if record["type"] == "summary":
            summary |= plain(record["summary"].get("update", {}))
    return ReadRun(
        run=next(record["run"] for record in records if record["type"] == "run"),
        metrics=[record["metric"] for record in records if record["type"] == "metric"],
        history=[plain(record["history"]["item"]) for record in records if record["type"] == "history"],
        summary=summary,
        finished=records[-1]["type"] == "exit",
    )


def plain(item: dict[str, Any]) -> dict[str, Any]:
    """Without W&B's own keys; NaN as a float again."""
    return {key: float("nan") if value == "NaN" else value for key, value in item.items() if not key.startswith("_")}


def run_files(root: Path, study: str) -> list[Path]:
    """Logs of all runs of a study."""
    return sorted((root / "wandb" / study / "wandb").glob("*run-*/run-*.wandb"))
