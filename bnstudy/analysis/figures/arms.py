"""The encodings by which a convention is known in every figure."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt

from bnstudy.analysis.figures.figure import Layout
from bnstudy.analysis.figures.theme import arm_label, arm_style


def arm_colour(arms: Sequence[str], layout: Layout) -> alt.Color:
    """Colour by arm, with the legend."""
    legend = alt.Legend(title=None, orient="top", columns=min(layout.legend_columns, 4), direction="horizontal")
    scale = alt.Scale(domain=[arm_label(arm) for arm in arms], range=[arm_style(arm)[0] for arm in arms])
    return alt.Color("arm:N", scale=scale, legend=legend)


def arm_shape(arms: Sequence[str], layout: Layout) -> alt.Shape:
    """Shape by arm, merged into the same legend."""
    legend = alt.Legend(title=None, orient="top", columns=min(layout.legend_columns, 4), direction="horizontal")
    scale = alt.Scale(domain=[arm_label(arm) for arm in arms], range=[arm_style(arm)[1] for arm in arms])
    return alt.Shape("arm:N", scale=scale, legend=legend)
