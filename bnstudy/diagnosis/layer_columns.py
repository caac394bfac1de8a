"""The layers table for reading: what its columns are called, and which rows matter most."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pandas as pd

from bnstudy.diagnosis.result import Diagnosis
from bnstudy.metric import metric_of

HEADS = {
    "layer": "layer",
    "m": "m",
    "m_eff": "m_eff",
    "m_eff_se": "m_eff ±",
    "variance_ratio": "variance ratio",
    "variance_ratio_se": "ratio ±",
    "distance": "distance",
    "distance_expected": "distance by luck",
    "swap_distance": "outputs moved by",
    "m_eff_samples": "m_eff of samples",
    "composition": "composition",
    "stored_mean_distance": "mean off by (σ)",
    "dead": "dead",
    "zero_gain": "γ = 0",
    "broken": "broken",
    "calls": "calls",
    "batches_tracked": "batches tracked",
    "momentum": "momentum",
    "eps": "ε",
    "channels": "channels",
    "type": "type",
}
"""Columns of the layers table, in the order in which they are read, by their heads."""
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
    values = layers[name] if name in layers else pd.Series(math.nan, index=layers.index)
    return pd.to_numeric(values, errors="coerce").astype(float)


def remarks(row: pd.Series[Any]) -> list[str]:
    """What else is to be said of a layer: channels that are dead, broken or without gain, and calls."""
    known = {name: float(row[name]) for name in ("broken", "dead", "zero_gain", "calls") if row.get(name) is not None}
    texts = {
        "broken": ("channel with statistics that no data can have", "channels with statistics that no data can have"),
        "dead": ("dead channel", "dead channels"),
        "zero_gain": ("channel with γ = 0", "channels with γ = 0"),
    }
    found = [f"{known[name]:,.0f} {words[known[name] > 1]}" for name, words in texts.items() if known.get(name, 0) > 0]
    return found + ([f"{known['calls']:.0f} calls per pass"] if known.get("calls", 0) > 1 else [])


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
    return Chosen(
        layers.iloc[sorted(order[:most])],
        len(layers),
        why + (", and those that a finding names" if named.any() else ""),
    )
