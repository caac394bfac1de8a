"""Every mistake that a user can make is told in a line or two: exit code 2, no traceback, nothing written."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from bnstudy.cli import main

PROGRAM = str(Path(sys.executable).parent / "bnstudy")
SECTIONS = yaml.safe_load((Path(__file__).parent / "mistakes.yaml").read_text())
MISTAKES = {command: line for section in SECTIONS.values() for command, line in section.items()}
SAMPLE = [command for section in SECTIONS.values() for command in list(section)[::8]]
FAST = set(list(MISTAKES)[::4])
COMMANDS = [pytest.param(command, marks=[] if command in FAST else pytest.mark.slow) for command in MISTAKES]


def check(code: object, output: str, errors: str, expected: str, folder: Path) -> None:
    pattern = ".*".join(map(re.escape, expected.split("…")))
    assert re.fullmatch(pattern, errors.strip()), errors
    assert 1 <= len(errors.strip().splitlines()) <= 2
    assert (code, output) == (2, "")
    assert list(folder.rglob("*")) == []


@pytest.mark.parametrize("command", COMMANDS)
def test_a_mistake_is_told_in_its_line_and_writes_nothing(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["bnstudy", *shlex.split(command)])
    with pytest.raises(SystemExit) as ended:
        main()
    check(ended.value.code, *capsys.readouterr(), MISTAKES[command], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("command", SAMPLE)
def test_a_mistake_is_told_alike_by_the_program(command: str, tmp_path: Path) -> None:
    done = subprocess.run([PROGRAM, *shlex.split(command)], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    check(done.returncode, done.stdout, done.stderr, MISTAKES[command], tmp_path)


def test_no_two_mistakes_are_one_and_they_are_many() -> None:
    assert len(MISTAKES) == sum(len(section) for section in SECTIONS.values()) >= 300


def test_a_current_folder_that_is_gone_is_said(tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    typed = f"cd gone && rmdir ../gone && {shlex.quote(PROGRAM)} run epochs=1"
    done = subprocess.run(["sh", "-c", typed], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    line = "the current folder does not exist any more; change to one that does"
    check(done.returncode, done.stdout, done.stderr, line, tmp_path)
