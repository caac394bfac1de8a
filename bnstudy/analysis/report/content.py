"""Everything a report says, gathered once for the page, the Markdown and the LaTeX."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bnstudy.analysis.figures.figure import NARROW, WIDE
from bnstudy.analysis.figures.gallery import figures_of
from bnstudy.analysis.figures.subject import Subject, Tables, subject_of
from bnstudy.analysis.report.answer import answer
from bnstudy.analysis.report.latex import latex_tables
from bnstudy.analysis.report.notices import Trouble, notices, trouble
from bnstudy.analysis.report.origin import origin
from bnstudy.analysis.report.sheets import Sheet, sheets


@dataclass(frozen=True)
class Drawn:
    """A figure with its drawings as SVG; both are "" where there was nothing to draw, and the caption says why."""

    name: str
    title: str
    table: str
    caption: str
    alt: str
    wide: str
    narrow: str


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
    trouble: Trouble
    papers: dict[str, str]


def content_of(tables: Tables, provenance: Mapping[str, Any]) -> Content:
    """Answer, notices, drawn figures and tables of a study.

    Args:
        tables: as `bnstudy.load` gives them; any may be absent.
        provenance: as in provenance.json; any key may be absent.
    """
    subject = subject_of(tables, provenance)
    declared = provenance.get("declared") or {}
    drawn = [
        Drawn(figure.name, figure.title, figure.table, figure.caption, figure.alt, figure.svg(WIDE), figure.svg(NARROW))
        for figure in figures_of(tables, provenance)
    ]
    shown = sheets(tables, subject)
    return Content(
        name=str(provenance.get("study") or "study"),
        question=str(declared.get("question") or ""),
        hypothesis=str(declared.get("hypothesis") or ""),
        subject=subject,
        answer=answer(tables, subject),
        notices=notices(tables, provenance, subject),
        figures=drawn,
        sheets=shown,
        origin=origin(provenance, subject),
        trouble=trouble(provenance),
        papers=latex_tables(tables, subject, shown),
    )
