"""Figures are drawn by a child that may die, hang or refuse, and the report lacks a drawing then, and nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bnstudy.analysis.figures import drawing
from bnstudy.analysis.figures.drawing import draw
from bnstudy.analysis.figures.figure import NARROW, Figure
from bnstudy.analysis.figures.gallery import figures_of
from bnstudy.analysis.figures.renderer import png
from bnstudy.analysis.report.write import write_report
from tests.analysis.synthetic import study


@pytest.fixture(scope="module")
def figures() -> list[Figure]:
    return [figure for figure in figures_of(*study(sizes=(2, 8), seeds=3)) if figure.draw is not None][:3]


def test_the_child_draws_what_this_process_would(figures: list[Figure]) -> None:
    for figure, drawn in zip(figures, draw(figures), strict=True):
        assert (drawn.wide, drawn.narrow) == (figure.svg(), figure.svg(NARROW))
        assert drawn.png == png(drawn.wide)


def replace_renderer(monkeypatch: pytest.MonkeyPatch, program: str) -> list[int]:
    """Start another program in the renderer's place; how often it was started."""
    start, started = subprocess.Popen, []

    def other(command: list[str], **settings: object) -> subprocess.Popen[bytes]:
        started.append(1)
        return start([sys.executable, "-c", program], **settings)  # type: ignore[call-overload,no-any-return]

    monkeypatch.setattr(subprocess, "Popen", other)
    return started


DIES = "import os; input(); os.abort()"
HANGS = "import time; input(); time.sleep(600)"
LIES = "input(); print('no drawing', flush=True); input()"
REFUSES = "import json\nwhile True: input(); print(json.dumps({'problem': 'no such mark'}), flush=True)"


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        (DIES, "died (SIGABRT)"),
        (HANGS, "took more than 1 s"),
        (LIES, ""),
        (REFUSES, "no such mark"),
        ("", "died (exit code 0)"),
    ],
)
def test_a_renderer_that_fails_leaves_the_words(
    figures: list[Figure], monkeypatch: pytest.MonkeyPatch, program: str, reason: str
) -> None:
    monkeypatch.setattr(drawing, "PATIENCE", 1.0)
    started = replace_renderer(monkeypatch, program)
    drawn = draw(figures)
    assert [one.name for one in drawn] == [figure.name for figure in figures]
    assert all(one.wide == one.narrow == "" and not one.png for one in drawn)
    assert all(one.caption.startswith("The renderer ") and reason in one.caption for one in drawn)
    assert len(started) <= 2, "it is not started over and over"


def test_a_report_without_its_figures_is_complete_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tables, provenance = study(sizes=(2,), seeds=2)
    whole = {path.relative_to(tmp_path / "whole") for path in write_report(tmp_path / "whole", tables, provenance)}
    replace_renderer(monkeypatch, DIES)
    bare = {path.relative_to(tmp_path / "bare") for path in write_report(tmp_path / "bare", tables, provenance)}
    assert {path for path in whole if path.parent.name != "figures"} == bare
    assert "Not drawn. The renderer died (SIGABRT)." in (tmp_path / "bare" / "report.html").read_text()
    assert set(json.loads((tmp_path / "bare" / "report.json").read_text())["files"]) == {str(path) for path in bare} - {
        "report.json"
    }
