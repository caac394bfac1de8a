"""All figures of a study, in the order of the report."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from bnstudy.analysis.figures.curves import curves_figure
from bnstudy.analysis.figures.decomposition import decomposition_figure
from bnstudy.analysis.figures.equivalence import equivalence_figure
from bnstudy.analysis.figures.figure import Figure
from bnstudy.analysis.figures.gap import gap_figure
from bnstudy.analysis.figures.layers import effective_figure
from bnstudy.analysis.figures.ratios import ratio_figure
from bnstudy.analysis.figures.storage import storage_figure
from bnstudy.analysis.subject import Subject, Tables, subject_of

Draw = Callable[[Tables, Subject], Figure | list[Figure]]
"""Makes a figure of a study's tables, or several of one kind."""


def per_metric(draw: Callable[[Tables, Subject, str], Figure]) -> Draw:
    """A figure for the primary metric, and one for its companion where that was measured."""
    return lambda tables, subject: [draw(tables, subject, metric) for metric in subject.shown]


FIGURES: list[Draw] = [
    ratio_figure,
    per_metric(storage_figure),
    equivalence_figure,
    per_metric(gap_figure),
    per_metric(decomposition_figure),
    effective_figure,
    curves_figure,
]
"""What a report shows, from top to bottom."""


def figures_of(tables: Tables, provenance: Mapping[str, Any]) -> list[Figure]:
    """The figures of a study; one that cannot be drawn has no chart and says why in its caption.

    Args:
        tables: as `bnstudy.load` gives them; any may be absent.
        provenance: as in provenance.json.

    Source: docs/architecture.md, "How to add".
    """
    subject = subject_of(tables, provenance)
    figures: list[Figure] = []
    for draw in FIGURES:
        drawn = draw(tables, subject)
        figures += drawn if isinstance(drawn, list) else [drawn]
    return figures
