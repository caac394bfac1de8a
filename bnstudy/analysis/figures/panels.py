"""What goes along the axis of a panel, and what tells panels apart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

MOST_PANELS = 12
_SIZES = {"batch_size": "batch size (samples)", "norm_batch_size": "normalisation batch size (samples)"}


@dataclass(frozen=True)
class Across:
    """The horizontal axis: the batch size, or what varies in its place.

    Args:
        column: of the tables.
        values: that occur, ascending.
    """

    column: str
    values: tuple[float, ...]

    @property
    def title(self) -> str:
        """The axis title."""
        return _SIZES.get(self.column, self.column.replace("_", " "))

    @property
    def kind(self) -> str:
        """Which scale: "log2" for batch sizes, "log10" for what spans a decade or more, else "linear"."""
        if self.column in _SIZES:
            return "log2"
        return "log10" if self.values and self.values[0] > 0 and self.values[-1] / self.values[0] >= 10 else "linear"

    def scale(self) -> alt.Scale:
        """The scale, with a little room at both ends."""
        low, high = (self.values[0], self.values[-1]) if self.values else (1.0, 2.0)
        if self.kind == "linear":
            room = max((high - low) * 0.06, 0.5 if low == high else 0.0)
            return alt.Scale(domain=[low - room, high + room], nice=False, zero=False)
        room = max((high / low) ** 0.06, 1.2)
        return alt.Scale(type="log", base=2 if self.kind == "log2" else 10, domain=[low / room, high * room], nice=False)

    def axis(self) -> alt.Axis:
        """The axis, with a tick at every value that was run."""
        return alt.Axis(values=list(self.values), format="~g", title=self.title, grid=False)

    def dodged(self, x: pd.Series[Any], arm: int, arms: int) -> pd.Series[Any]:
        """Values shifted a little sideways, so that the intervals of several arms do not hide each other."""
        step = arm - (arms - 1) / 2
        if self.kind == "linear":
            span = (self.values[-1] - self.values[0]) or 1.0
            return x + step * span * 0.012
        return x * float(2 ** (step * 0.014 * np.log2(max(self.values[-1] / self.values[0], 8))))


def across(frame: pd.DataFrame, varying: Sequence[str]) -> Across:
    """The normalisation batch where it varies, else the number with most values; the batch size among equals."""
    numeric = [column for column in varying if column in frame and _is_number(frame[column])]
    values = {name: frame[name].nunique() for name in ("batch_size", *numeric) if name in frame}
    column = max(values, key=lambda name: values[name], default="batch_size")
    if values.get("norm_batch_size", 1) > 1:
        column = "norm_batch_size"
    return Across(column, tuple(float(value) for value in np.sort(position(frame, column).unique())))


def position(frame: pd.DataFrame, column: str) -> pd.Series[Any]:
    """Where rows stand on the axis; a normalisation batch that is not given is the whole batch."""
    values = frame[column]
    return (values.fillna(frame["batch_size"]) if column == "norm_batch_size" else values).astype(np.float64)


def panel_columns(frame: pd.DataFrame, axis: Across, varying: Sequence[str]) -> list[str]:
    """Columns that tell panels apart."""
    candidates = ["dataset", "model", *(["batch_size"] if axis.column != "batch_size" else []), *varying]
    return [column for column in candidates if column in frame and column != axis.column]


def labels(frame: pd.DataFrame, axis: Across, varying: Sequence[str]) -> pd.Series[Any]:
    """Each row's panel in words: "mlp on digits", and what else varies."""
    text = frame["model"].astype(str) + " on " + frame["dataset"].astype(str)
    for column in panel_columns(frame, axis, varying)[2:]:
        if frame[column].nunique(dropna=False) > 1:
            shown = frame[column].map(lambda value: "whole batch" if pd.isna(value) else _short(value))
            text = text + f", {column.replace('_', ' ')} " + shown
    return text


def panels_of(frame: pd.DataFrame, label: str = "panel", most: int = MOST_PANELS) -> Iterator[tuple[str, pd.DataFrame]]:
    """The first panels, in the order in which the tables have them."""
    names = list(dict.fromkeys(frame[label]))
    for name in names[:most]:
        yield str(name), frame[frame[label] == name]


def left_out(count: int, most: int = MOST_PANELS) -> str:
    """The sentence that says how many panels are not drawn."""
    return f" {count - most} of {count} panels are not drawn; the data table has them." if count > most else ""


def _is_number(values: pd.Series[Any]) -> bool:
    return pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)


def _short(value: Any) -> str:
    if isinstance(value, bool | np.bool_):
        return str(bool(value)).lower()
    return f"{value:g}" if isinstance(value, int | float | np.number) else str(value)


def seeds_phrase(seeds: pd.Series[Any]) -> str:
    """How many seeds, for a caption."""
    low, high = int(seeds.min()), int(seeds.max())
    return f"{high} seed{'' if high == 1 else 's'}" if low == high else f"{low} to {high} seeds"
