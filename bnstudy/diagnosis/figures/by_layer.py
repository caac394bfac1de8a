"""Charts with a place for every layer: a row with its name where there are few, a point on the axis where there are many."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
import pandas as pd

from bnstudy.analysis.figures.figure import WIDE, Layout, Panel, data
from bnstudy.analysis.figures.theme import MUTED

MOST_NAMED = 24
"""Layers that have a row each; more stand along the horizontal axis without their names."""
_ROW, LETTER = 17, 6.6
"""Pixels: of a row, and of a letter at its widest, in fonts that may stand in for the one that was measured."""


@dataclass(frozen=True)
class Values:
    """How values are placed: the title of their axis, its scale, and its ticks."""

    title: str
    scale: alt.Scale
    axis: alt.Axis


@dataclass(frozen=True)
class ByLayer:
    """Where the layers stand in a chart; rows of its data have their place, from 1 in order of execution, as `place`.

    Args:
        names: of all layers, in order of execution.
        layout: room.
        panels: side by side; only the first has names.
    """

    names: Sequence[str]
    layout: Layout
    panels: int = 1

    @property
    def named(self) -> bool:
        """Whether each layer has a row with its name."""
        return len(self.names) <= MOST_NAMED

    def size(self) -> dict[str, int]:
        """Width and height of a panel."""
        if not self.named:
            return {"width": min(720, self.layout.room // self.panels - 66), "height": 200}
        room = (self.layout.room - self._extent) / self.panels - 30
        return {"width": int(min(640, max(120, room))), "height": max(54, _ROW * len(self.names) + 10)}

    @property
    def dot(self) -> int:
        """Area of a point, in square pixels."""
        return 34 if self.named else 16

    def at(self, value: str, values: Values, first: bool = True) -> dict[str, Any]:
        """Channels of a mark at a value of each layer."""
        channel = alt.X if self.named else alt.Y
        along = channel(f"{value}:Q", title=values.title, scale=values.scale, axis=values.axis)
        return {"x": along, "y": self._place(first)} if self.named else {"x": self._place(first), "y": along}

    def lollipops(self, frame: pd.DataFrame, values: Values, colour: str, title: alt.TitleParams | None = None) -> Panel:
        """A point a layer on a stem from a line through all of them, with an error bar where there is one.

        Args:
            frame: place, start (where the line is), value, low and high (ends of the error bar, NaN without), endless
                (whether the value lies beyond the axis: a cross).
            values: their axis.
            colour: of points and stems.
            title: of the panel.
        """
        to = "x2" if self.named else "y2"
        base = alt.Chart(data(frame[["place", "start", "value", "low", "high", "endless"]]))
        across = (alt.X if self.named else alt.Y)("start:Q", scale=values.scale)
        line = alt.Chart(alt.InlineData(values=[{"start": float(frame["start"].iloc[0])}]))
        shape = alt.Shape("endless:N", legend=None, scale=alt.Scale(domain=[False, True], range=["circle", "cross"]))
        # Many stems must not make a surface.
        stem = base.mark_rule(strokeWidth=1, opacity=0.45 if self.named else 0.22, color=colour)
        bar = base.transform_filter("datum.low !== null").mark_rule(strokeWidth=1.6 if self.named else 1, color=colour)
        point = base.mark_point(filled=True, size=self.dot, opacity=1, color=colour)
        panel: Panel = alt.layer(
            line.mark_rule(color=MUTED, strokeWidth=1.2).encode(**{"x" if self.named else "y": across}),
            stem.encode(**self.at("start", values), **{to: "value:Q"}),
            bar.encode(**self.at("low", values), **{to: "high:Q"}),
            point.encode(**self.at("value", values), shape=shape),
        ).properties(**({"title": title} if title else {}), **self.size())
        return panel

    @property
    def _extent(self) -> int:
        return int(self._letters * LETTER) + 8

    @property
    def _letters(self) -> int:
        return min(34 if self.layout == WIDE else 18, max((len(name) for name in self.names), default=1))

    def _place(self, first: bool) -> alt.X | alt.Y:
        count = len(self.names)
        if not self.named:
            step = next(step for step in (10, 20, 50, 100, 200, 500, 1000, 10**9) if count / step <= 12)
            axis = alt.Axis(values=[1, *range(step, count + 1, step)], format="d", grid=False)
            scale = alt.Scale(domain=[0, count + 1], nice=False)
            return alt.X("place:Q", title="layer, in order of execution", scale=scale, axis=axis)
        shown = json.dumps([shortened(name, self._letters) for name in self.names])
        axis = alt.Axis(
            values=list(range(1, count + 1)), labelExpr=f"{shown}[datum.value - 1]", labels=first, ticks=False,
            domain=False, grid=True, labelLimit=0, labelOverlap=False,
            minExtent=self._extent if first else 0,
        )  # fmt: skip
        return alt.Y("place:Q", title=None, scale=alt.Scale(domain=[count + 0.6, 0.4], nice=False), axis=axis)


def logarithmic(title: str, values: Sequence[float], most: int) -> Values:
    """A logarithmic axis with some room around all values.

    Args:
        title: of the axis.
        values: that it holds, all above 0.
        most: ticks.
    """
    low, high = float(min(values)), float(max(values))
    room = max((high / low) ** 0.05, 1.02 if high > low else 1.15)
    low, high = low / room, high * room
    return Values(title, alt.Scale(type="log", domain=[low, high], nice=False), log_axis(low, high, most))


def log_axis(low: float, high: float, most: int) -> alt.Axis:
    """An axis for a logarithmic scale with few, round ticks.

    Args:
        low, high: its ends.
        most: ticks.
    """
    if high / low < 4:  # too short for powers of ten: even steps
        ticks = even_ticks(low, high, most)
    else:
        powers = [10.0**power for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)]
        for steps in ((1, 2, 3, 5), (1, 2, 5), (1, 3), (1,)):
            ticks = [step * power for power in powers for step in steps if low <= step * power <= high]
            if len(ticks) <= most:
                break
        ticks = ticks[:: -(-len(ticks) // most) or 1]
    shown = "datum.value >= 0.001 && datum.value < 100000 ? format(datum.value, '.4~g') : format(datum.value, '.0e')"
    return alt.Axis(values=ticks, labelExpr=shown)


def even_ticks(low: float, high: float, most: int) -> list[float]:
    """Round numbers in even steps of 1, 2 or 5 times a power of ten.

    Args:
        low, high: between which they lie.
        most: how many at most.
    """
    if not high - low > 1e-12 * max(abs(low), abs(high)):  # nothing between that could be told apart
        return [low]
    size = math.floor(math.log10(high - low)) - 2
    for step in (step * 10.0 ** (size + power) for power in range(6) for step in (1, 2, 5)):
        first, last = math.ceil(low / step), math.floor(high / step)
        if last - first < most:
            return [step * index for index in range(first, last + 1)]
    return [low]


def order_told(count: int) -> str:
    """Which layer stands where, for a caption."""
    if count == 1:
        return ""
    return " Layers run from top to bottom." if count <= MOST_NAMED else " Layers stand in the order in which they run."


def shortened(name: str, most: int) -> str:
    """A name of at most so many letters: its beginning and, mostly, its end, where layers differ."""
    if len(name) <= most:
        return name
    end = (most - 1) * 2 // 3
    return f"{name[: most - 1 - end]}…{name[-end:]}"
