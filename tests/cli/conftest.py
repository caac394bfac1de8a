"""The command line, run as a user runs it: a process of its own, in a folder of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

Command = Callable[..., subprocess.CompletedProcess[str]]
TINY = ("model.width=8", "model.depth=1", "epochs=1", "dataset.train_size=200", "dataset.test_size=100")


def untracked(arguments: Sequence[str]) -> list[str]:
    """Arguments without tracking and report, unless they speak of them: both have tests of their own, and cost seconds."""
    given = {argument.partition("=")[0] for argument in arguments}
    trains = arguments[:1] == ("run",) and "--cfg" not in arguments
    added = {"tracking": "disabled", "report": "false"} if trains else {}
    return [*arguments, *(f"{key}={value}" for key, value in added.items() if key not in given)]


@pytest.fixture
def bnstudy(tmp_path: Path) -> Command:
    """Run `bnstudy ARGUMENTS` in an empty folder."""
    program = Path(sys.executable).parent / "bnstudy"

    def call(*arguments: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"}
        command = [str(program), *untracked(arguments)]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=timeout)

    return call


def files_under(folder: Path) -> list[str]:
    """Every file below a folder, by relative path."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
