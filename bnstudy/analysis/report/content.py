"""Everything a report says, gathered once for the page, the Markdown and the LaTeX."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bnstudy.analysis.figures.drawing import draw
from bnstudy.analysis.figures.figure import Drawn
from bnstudy.analysis.figures.gallery import figures_of
from bnstudy.analysis.provenance import facts, lost_runs
from bnstudy.analysis.report.answer import answer_of
from bnstudy.analysis.report.latex import latex_tables
from bnstudy.analysis.report.notices import notices
from bnstudy.analysis.report.sheets import Sheet, sheets
from bnstudy.analysis.subject import Subject, Tables, subject_of


@dataclass(frozen=True)
class Content:
    """What a report says."""

    name: str
    question: str
    hypothesis: str
    subject: Subject
    answer: list[str]
    notices: list[str]
    figures: list[Drawn]
    sheets: list[Sheet]
    origin: list[tuple[str, list[str]]]
    lost: list[tuple[str, str]]
    papers: dict[str, str]


def content_of(tables: Tables, provenance: Mapping[str, Any]) -> Content:
    """Answer, notices, drawn figures and tables of a study.

    Args:
        tables: as `bnstudy.load` gives them; any may be absent.
        provenance: as in provenance.json; any key may be absent.
    """
    subject = subject_of(tables, provenance)
    declared = provenance.get("declared") or {}
    shown = sheets(tables, subject)
    return Content(
        name=str(provenance.get("study") or "study"),
        question=str(declared.get("question") or ""),
        hypothesis=str(declared.get("hypothesis") or ""),
        subject=subject,
        answer=answer_of(tables, subject),
        notices=notices(tables, provenance, subject),
        figures=draw(figures_of(tables, provenance)),
        sheets=shown,
        origin=facts(provenance, subject),
        lost=lost_runs(provenance),
        papers=latex_tables(tables, subject, shown),
    )
