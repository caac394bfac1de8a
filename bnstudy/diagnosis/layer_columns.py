"""The layers table for reading: what its columns are called, how their numbers are written, which rows matter most."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pandas as pd

from bnstudy.analysis.figures.units import metric_of, number
from bnstudy.diagnosis.result import Diagnosis

HEADS = {
    "layer": "layer",
    "type": "type",
    "channels": "channels",
    "m": "m",
    "m_eff": "m_eff",
    "m_eff_se": "m_eff ±",
    "m_eff_samples": "m_eff of samples",
    "composition": "composition",
    "batches_tracked": "batches tracked",
    "momentum": "momentum",
    "eps": "ε",
    "calls": "calls",
    "stored_mean_distance": "mean off by (σ)",
    "variance_ratio": "variance ratio",
    "variance_ratio_se": "ratio ±",
    "distance": "distance",
    "distance_expected": "distance by luck",
    "dead": "dead",
    "zero_gain": "γ = 0",
    "broken": "broken",
    "swap_distance": "outputs moved by",
}
"""Heads of the known columns; others are shown under their own name."""
_NAMED = 3
"""A finding about so few layers has them all in the short table."""


@dataclass(frozen=True)
class Chosen:
    """Rows of the layers table, in the order of execution.

    Args:
        rows: of the table.
        total: rows that there are.
        why: by what they were chosen; "" where all are shown.
    """

    rows: pd.DataFrame
    total: int
    why: str


def column_head(column: str) -> str:
    """What a column is called."""
    if column.startswith("swap_") and column not in HEADS:
        metric = metric_of(column.removeprefix("swap_"))
        return f"{metric.axis(metric.label)} by swap"
    return HEADS.get(column, column.replace("_", " "))


def column_factor(column: str) -> float:
    """From a column's units to those shown: accuracies are in percentage points."""
    return metric_of(column.removeprefix("swap_")).factor if column.startswith("swap_") and column not in HEADS else 1.0


def column(layers: pd.DataFrame, name: str) -> pd.Series[float]:
    """A column of the layers table as numbers; NaN where there is none."""
    if name not in layers:
        return pd.Series(math.nan, index=layers.index, dtype=float)
    return pd.to_numeric(layers[name], errors="coerce").astype(float)


def real(value: Any) -> float:
    """A cell as a number; NaN where it is none."""
    return float(value) if isinstance(value, int | float) or hasattr(value, "dtype") else math.nan


def short(value: float) -> str:
    """A number of any size in three or so digits: 0.0032, 0.996, 8.49, 74.9, 7,479."""
    size = abs(value)
    if not math.isfinite(value) or size == 0 or size < 1e-4:
        return number(value, 0 if size == 0 else 3)
    if size >= 1e7:
        return f"{value:.2e}".replace("e+0", "e").replace("e+", "e").replace("-", "−")
    decimals = 0 if size >= 100 else 1 if size >= 10 else 2 if size >= 1 else 3 if size >= 0.1 else 1 - _exponent(size)
    return f"{value:,.{decimals}f}".replace("-", "−")


def with_error(value: float, error: float) -> str:
    """A number with its standard error, both to the error's second digit; without one where there is none."""
    if not (math.isfinite(value) and math.isfinite(error) and error > 0 and abs(value) < 1e7):
        return short(value)
    decimals = max(0, min(6, 1 - _exponent(error)))
    return f"{value:,.{decimals}f} ± {error:,.{decimals}f}".replace("-", "−")


def remarks(row: pd.Series[Any]) -> list[str]:
    """What else is to be said of a layer: channels that are dead, broken or without gain, calls, no statistics."""
    said = []
    for column, one, many in (
        ("broken", "channel with statistics that no data can have", "channels with statistics that no data can have"),
        ("dead", "dead channel", "dead channels"),
        ("zero_gain", "channel with γ = 0", "channels with γ = 0"),
    ):
        count = real(row.get(column))
        if count > 0:
            said.append(f"{count:,.0f} {one if count == 1 else many}")
    if real(row.get("calls")) > 1:
        said.append(f"{real(row['calls']):.0f} calls per pass")
    return said


def choose(diagnosis: Diagnosis, most: int) -> Chosen:
    """The layers that matter most: those that a finding names, then those whose stored statistics move the outputs most.

    Args:
        diagnosis: any.
        most: rows.
    """
    layers = diagnosis.layers
    if len(layers) <= most:
        return Chosen(layers, len(layers), "")
    few = [name for finding in diagnosis.findings if len(finding.layers) <= _NAMED for name in finding.layers]
    named = layers["layer"].isin(few).to_numpy()
    broken = column(layers, "broken").fillna(0).to_numpy() > 0
    swapped, distance, expected = (column(layers, name) for name in ("swap_distance", "distance", "distance_expected"))
    by_swap = bool(swapped.notna().any())
    beyond = distance / expected.where(expected > 0, math.nan)
    score = (swapped if by_swap else beyond.where(beyond.notna(), distance)).fillna(-1.0).to_numpy()
    order = sorted(range(len(layers)), key=lambda at: (not named[at], not broken[at], -score[at], at))
    if by_swap:
        why = "whose stored statistics move the outputs most"
    elif bool(distance.notna().any()):
        why = "whose stored statistics lie furthest from the batches’, beside what luck makes of it"
    else:
        why = "that run first"
    if named.any():
        why += ", and those that a finding names"
    return Chosen(layers.iloc[sorted(order[:most])], len(layers), why)


def _exponent(value: float) -> int:
    return math.floor(math.log10(value))
