"""Every file of a job and of a study, damaged in every way: each command names it in a line, and `run` trains it again."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from bnstudy.cli import main

Damage = Callable[[Path, Path], object]
STUDY = shlex.split(
    "-m variance=paper,karpathy batch_size=8 seeds=2 epochs=1 model.width=8 model.depth=1 dataset.train_size=104"
    " dataset.test_size=40 name=small tracking=disabled report=false"
)
FILES = ("job.json", "metrics.parquet", "layers.parquet", "folds.parquet", "small.json")
JUDGES = (("status", "small"), ("report", "small"), ("publish", "small", "--offline"))
UNSEEN = [(file, damage) for file in ("job.json", "small.json") for damage in ("missing", "link")] + [("job.json", "older")]
"""What cannot be told from a job or a study that never was, or was of another version: it is missing, not damaged."""


def folder(path: Path, _: Path) -> None:
    path.unlink()
    path.mkdir()


def link(path: Path, _: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


def halved(path: Path, _: Path) -> None:
    if path.suffix == ".json":
        record = json.loads(path.read_text())
        path.write_text(json.dumps(dict(list(record.items())[: len(record) // 2])))
    else:
        table = pd.read_parquet(path)
        table.iloc[: len(table) // 2].to_parquet(path)


def older(path: Path, other: Path) -> None:
    if path.suffix == ".json":
        path.write_text(json.dumps(json.loads(path.read_text()) | {"layout": 1}))
    else:
        pd.read_parquet(other).iloc[:, 1:].to_parquet(path)


DAMAGES: dict[str, Damage] = {
    "missing": lambda path, _: path.unlink(),
    "empty": lambda path, _: path.write_bytes(b""),
    "truncated": lambda path, _: path.write_bytes(path.read_bytes()[:-9]),
    "garbage": lambda path, _: path.write_bytes(b"\x00\xff\x13" * 99),
    "folder": folder,
    "link": link,
    "foreign": lambda path, other: path.write_bytes(other.read_bytes()),
    "halved": halved,
    "older": older,
}
ALL = [(file, damage) for file in FILES for damage in DAMAGES]


def typed(*arguments: str) -> int:
    """The exit code of `bnstudy ARGUMENTS`."""
    before, sys.argv = sys.argv, ["bnstudy", *arguments]
    try:
        main()
    except SystemExit as ended:
        return int(ended.code or 0)
    finally:
        sys.argv = before
    return 0


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a study of two jobs is done."""
    place = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        assert typed("run", *STUDY) == 0
    return place


@pytest.fixture
def place(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it to damage, as the current folder."""
    copy = tmp_path / "copy"
    shutil.copytree(whole, copy)
    monkeypatch.chdir(copy)
    return copy


def damaged(place: Path, file: str, damage: str) -> str:
    """Damage a file of the first job, or the study's, and tell which job or file a reader has to hear of."""
    first, second = sorted((place / "outputs" / "jobs").iterdir())
    study = place / "outputs" / "studies" / "small.json"
    path, other = (study, first / "job.json") if file == study.name else (first / file, second / file)
    DAMAGES[damage](path, other)
    return study.name if path == study else f"{first.name}: damaged: {file} "


@pytest.mark.parametrize(("file", "damage"), [pair for pair in ALL if pair not in UNSEEN])
def test_damage_is_named_in_a_line_by_whoever_reads_and_nothing_is_written(
    file: str, damage: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = damaged(place, file, damage)
    before = {path: path.stat().st_mtime_ns for path in (place / "results").rglob("*")}
    for command in JUDGES:
        code = typed(*command)
        output, errors = capsys.readouterr()
        lines = (output + errors).splitlines()
        assert sum(name in line and ("trains it again" in line or "writes it again" in line) for line in lines) == 1, lines
        assert code == (1 if command[0] == "status" and file != "small.json" else 2)
        assert len(errors.splitlines()) == (command[0] != "status" or file == "small.json")
    assert {path: path.stat().st_mtime_ns for path in (place / "results").rglob("*")} == before


@pytest.mark.parametrize(("file", "damage"), UNSEEN)
def test_what_is_gone_is_missing(file: str, damage: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damaged(place, file, damage)
    code = typed("status", "small")
    output, errors = capsys.readouterr()
    if file == "small.json":
        assert (code, "no study of that name" in errors) == (2, True)
    else:
        assert (code, "1 done, 0 running, 1 missing, 0 failed" in output, errors) == (1, True, "")


@pytest.mark.slow
@pytest.mark.parametrize(("file", "damage"), ALL)
def test_run_trains_what_is_damaged_again_and_gives_the_same_tables(
    file: str, damage: str, whole: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged(place, file, damage)
    shutil.rmtree(place / "results")
    assert typed("run", *STUDY) == 0
    said = "".join(capsys.readouterr())
    assert ("2 done" if file == "small.json" else "1 done, 1 missing") in said or "to run" in said
    tables = sorted(path.name for path in (whole / "results" / "small").glob("*.parquet") if path.name != "jobs.parquet")
    for name in tables:
        made, expected = ((folder / "results" / "small" / name).read_bytes() for folder in (place, whole))
        assert made == expected, name
