"""Colours, shapes and type of every figure: Okabe and Ito's palette, and greys that the report swaps in dark mode."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt

from bnstudy.batchnorm.conventions import CONVENTIONS

PAPER, INK, MUTED, GRID, BAND = "#ffffff", "#1f2328", "#57606a", "#dde2e7", "#dbe4ee"
BLUE, VERMILLION, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
ORANGE, SKY, YELLOW, GREY = "#E69F00", "#56B4E9", "#F0E442", "#8c959f"
NULL_ARM = "consistent_biased_rescaled"
"""The identity control in float32: `consistent_unbiased` computed another way, so that its differences are rounding."""
NULL_REFERENCE = "consistent_unbiased"

_ARMS = {
    "paper": (BLUE, "circle"),
    "consistent_unbiased": (VERMILLION, "square"),
    "consistent_biased": (GREEN, "triangle-up"),
    "inverted": (PURPLE, "diamond"),
    "total": (ORANGE, "triangle-down"),
    NULL_ARM: (GREY, "cross"),
    "norm=group": (YELLOW, "stroke"),
    "norm=layer": (SKY, "triangle-left"),
    "norm=none": (INK, "triangle-right"),
}
_OTHERS = ((ORANGE, "triangle-right"), (SKY, "triangle-left"))
TERM_COLOURS = {"lag": SKY, "constant": ORANGE, "noise": GREY}
SERIES = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, INK)
SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right")


def ordered_arms(names: Sequence[str]) -> list[str]:
    """Arms in the order in which every figure and table shows them: conventions, the null arm, others by name."""
    known = [*CONVENTIONS, NULL_ARM, *_ARMS]
    present = list(dict.fromkeys(names))
    return sorted(present, key=lambda name: (known.index(name) if name in known else len(known), name))


def arm_style(name: str) -> tuple[str, str]:
    """Colour and shape of an arm, the same in every figure."""
    return _ARMS[name] if name in _ARMS else _OTHERS[sum(name.encode()) % len(_OTHERS)]


def arm_label(name: str) -> str:
    """An arm's name for a legend; the null arm says what it is."""
    return f"{name} (null arm)" if name == NULL_ARM else name


def arm_colour(arms: Sequence[str], legend_columns: int) -> alt.Color:
    """Colour by arm, with the legend."""
    scale = alt.Scale(domain=[arm_label(arm) for arm in arms], range=[arm_style(arm)[0] for arm in arms])
    return alt.Color("arm:N", scale=scale, legend=_arm_legend(legend_columns))


def arm_shape(arms: Sequence[str], legend_columns: int) -> alt.Shape:
    """Shape by arm, merged into the same legend."""
    scale = alt.Scale(domain=[arm_label(arm) for arm in arms], range=[arm_style(arm)[1] for arm in arms])
    return alt.Shape("arm:N", scale=scale, legend=_arm_legend(legend_columns))


def _arm_legend(columns: int) -> alt.Legend:
    return alt.Legend(title=None, orient="top", columns=columns, direction="horizontal")


def configuration() -> dict[str, Any]:
    """Vega-Lite's configuration: quiet axes, no frame, text in the font that vl-convert brings along."""
    text = {"labelColor": MUTED, "titleColor": INK, "labelFontSize": 11, "titleFontSize": 11, "titleFontWeight": "normal"}
    return {
        "background": PAPER,
        "font": "Helvetica, Arial, sans-serif",
        "aria": False,
        "padding": 4,
        "view": {"stroke": None},
        "concat": {"spacing": 22},
        "axis": text
        | {
            "gridColor": GRID,
            "domainColor": MUTED,
            "tickColor": MUTED,
            "labelOverlap": True,
            "labelSeparation": 8,
            "titlePadding": 6,
        },
        "axisY": {"minExtent": 34},
        "legend": text
        | {"labelLimit": 0, "symbolSize": 60, "symbolOpacity": 1, "labelColor": INK, "offset": 10, "columnPadding": 40},
        "title": {
            "color": INK,
            "subtitleColor": MUTED,
            "fontSize": 12,
            "subtitleFontSize": 11,
            "anchor": "start",
            "offset": 8,
        },
    }
