"""A figure: its chart in two layouts, and the words that go with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
import pandas as pd
from altair.utils.schemapi import debug_mode

from bnstudy.analysis.figures.renderer import svg_of
from bnstudy.analysis.figures.theme import configuration

Chart = alt.LayerChart | alt.ConcatChart | alt.Chart
Panel = alt.LayerChart | alt.FacetChart


@dataclass(frozen=True)
class Layout:
    """Room for panels.

    Args:
        room: width of all panels and their axes, pixels.
        most: panels side by side at most.
        legend_columns: entries of a legend side by side.
    """

    room: int
    most: int
    legend_columns: int

    def columns(self, panels: int, most: int | None = None) -> int:
        """Panels side by side; by default three, or two where that fills every row."""
        most = most or (2 if panels in (2, 4) else 3)
        return max(1, min(panels, most, self.most))

    def width(self, columns: int, axis: int = 62) -> int:
        """Width of a panel without its axis."""
        return min(560, self.room // columns - axis)


WIDE, NARROW = Layout(860, 4, 4), Layout(318, 1, 1)
_VERSION = ".".join(alt.SCHEMA_VERSION.lstrip("v").split(".")[:2])
Draw = Callable[[Layout], Chart]


@dataclass(frozen=True)
class Drawn:
    """A figure with its drawings as SVG and the wide one as PNG; empty where nothing was drawn, and the caption says why."""

    name: str
    title: str
    table: str
    caption: str
    alt: str
    wide: str
    narrow: str
    png: bytes = b""


@dataclass(frozen=True)
class Figure:
    """A figure of a report.

    Args:
        name: of its files and its place in the page; lower-case letters, digits and underscores.
        title: of its section.
        table: the table that it shows.
        draw: the chart for a layout; None where there is nothing to draw.
        caption: what is drawn, in which units, over how many seeds; or why nothing is.
        alt: what it looks like, for those who cannot see it.
    """

    name: str
    title: str
    table: str
    draw: Draw | None
    caption: str
    alt: str = ""

    @property
    def chart(self) -> Chart | None:
        """The Altair chart, as wide as a page."""
        return None if self.draw is None else self.draw(WIDE)

    def svg(self, layout: Layout = WIDE) -> str:
        """The drawing as SVG with ids of its own, made in this process; "" where there is none."""
        return "" if self.draw is None else svg_of(self._specification(layout), _VERSION, self._own(layout))

    def request(self) -> dict[str, Any]:
        """What `bnstudy.analysis.figures.renderer` is asked for: both layouts."""
        layouts = (WIDE, NARROW)
        specifications = [self._specification(layout) for layout in layouts]
        return {"specifications": specifications, "version": _VERSION, "own": [self._own(layout) for layout in layouts]}

    def _specification(self, layout: Layout) -> dict[str, Any]:
        assert self.draw is not None
        with debug_mode(False):  # Altair would check every object against the schema as it is made: tests do that
            specification: dict[str, Any] = self.draw(layout).to_dict(validate=False)
        return specification

    def _own(self, layout: Layout) -> str:
        return f"{self.name}-{layout.room}-"


def absent(name: str, title: str, table: str, why: str) -> Figure:
    """A figure that cannot be drawn, and why."""
    return Figure(name, title, table, None, why)


def data(frame: pd.DataFrame) -> alt.InlineData:
    """Rows for a chart; what is not finite becomes null, which no mark is drawn for."""
    values = frame.astype(object).where(frame.notna() & ~frame.isin([float("inf"), float("-inf")]), None)
    return alt.InlineData(values=[{str(key): value for key, value in row.items()} for row in values.to_dict("records")])


def arranged(panels: Sequence[Panel], columns: int) -> alt.ConcatChart:
    """Panels side by side under one legend, in the look of all figures."""
    chart: alt.ConcatChart = alt.concat(*panels, columns=columns).configure(**configuration())
    return chart


def title_lines(title: str, subtitle: str = "") -> alt.TitleParams:
    """A panel's title."""
    return alt.TitleParams(text=title, subtitle=subtitle) if subtitle else alt.TitleParams(text=title)
