"""All figures of a study, in the order of the report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bnstudy.analysis.figures.curves import curves_figure
from bnstudy.analysis.figures.decomposition import decomposition_figure
from bnstudy.analysis.figures.equivalence import equivalence_figure
from bnstudy.analysis.figures.figure import Figure
from bnstudy.analysis.figures.gap import gap_figure
from bnstudy.analysis.figures.layers import collapse_figure, effective_figure
from bnstudy.analysis.subject import Tables, subject_of


def figures_of(tables: Tables, provenance: Mapping[str, Any]) -> list[Figure]:
    """The figures of a study; one that cannot be drawn has no chart and says why in its caption.

    Args:
        tables: as `bnstudy.load` gives them; any may be absent.
        provenance: as in provenance.json.

    Source: docs/architecture.md, "How to add".
    """
    subject = subject_of(tables, provenance)
    metrics = [subject.metric.name, *([subject.companion] if subject.companion else [])]
    return [
        equivalence_figure(tables, subject),
        *(gap_figure(tables, subject, metric) for metric in metrics),
        *(decomposition_figure(tables, subject, metric) for metric in metrics),
        collapse_figure(tables, subject),
        effective_figure(tables, subject),
        curves_figure(tables, subject),
    ]
