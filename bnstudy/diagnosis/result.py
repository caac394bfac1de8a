"""What a diagnosis says: metrics in both modes, the terms of their gap, a row a layer, and findings in plain words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pandas as pd

from bnstudy.diagnosis.measured import Effect, Measured

KINDS = {
    "invalid_statistics": "Stored statistics that no data can have",
    "never_updated": "Statistics never updated",
    "reset": "Statistics reset after training",
    "frozen": "Statistics frozen, or behind the weights",
    "slow_average": "Momentum too small, or too few updates",
    "noisy_average": "Momentum too large for the batch size",
    "wrong_convention": "Wrong variance convention",
    "data_differ": "Training and evaluation data differ",
    "mixed_domains": "Several domains in one layer",
    "dependent_samples": "Samples of a batch depend on each other",
    "tiny_batches": "Tiny normalisation batches",
    "instance_statistics": "One sample a batch: training mode is instance normalisation",
    "shared_layer": "A layer shared between branches",
    "no_statistics": "No stored statistics",
    "dead_channels": "Dead channels",
    "zero_gain": "Channels with γ at zero",
    "other_layers": "Not BatchNorm: other layers that change with the mode",
    "unexplained": "A gap that no rule explains",
    "not_separable": "Not separable with this much data",
    "healthy": "Healthy",
}
"""Every kind of finding, with its title."""

CONDITIONS = {
    "own": "evaluation mode: what the model has stored",
    "ema_unbiased": "the moving average of the unbiased variance",
    "population_unbiased": "the given batches' mean unbiased variance",
    "population_total": "the given batches' variance by the law of total variance",
    "batch": "BatchNorm on the batch's own statistics, everything else in evaluation mode",
    "train": "training mode, as `model.train()` leaves every layer",
}
"""How a model is run, from evaluation to training mode: where its BatchNorm layers take their statistics from."""


class Term(NamedTuple):
    """The difference of a metric between two conditions: `first` less `second`; its cause in two words, and in a line."""

    first: str
    second: str
    cause: str
    meaning: str


PATH = {
    "bessel": Term("own", "ema_unbiased", "convention",
                   "own − stored as the unbiased variance: the constant that the convention chose"),
    "lag": Term("ema_unbiased", "population_unbiased", "moving average",
                "moving average − population statistics of these batches: lag and luck"),
    "pooling": Term("population_unbiased", "population_total", "batch means",
                    "mean batch variance − variance by the law of total variance: what batch means vary"),
    "noise": Term("population_total", "batch", "batch by batch",
                  "population statistics − the batch’s own: what no stored constant can remove"),
    "gap": Term("own", "batch", "their sum", "own − batch: the sum of the four terms"),
    "other": Term("batch", "train", "dropout etc.", "batch − train: dropout and its like, not BatchNorm"),
}  # fmt: skip
"""The way from evaluation to training mode. Where layers have no condition `ema_unbiased`, it is `own` itself.

Source: docs/method.md, "The gap and its terms".
"""
TERMS = tuple(PATH)[:4]
"""Terms of the gap own − batch, in the order of their path; they sum to it."""
MODES = {"own": "evaluation mode", "batch": "batch statistics", "train": "training mode"}
"""Conditions between which the terms stand."""


@dataclass(frozen=True)
class Finding:
    """One thing found.

    Args:
        kind: a key of `KINDS`.
        summary: what is wrong and what it costs, in a sentence or two of plain words.
        evidence: the measured facts that speak for it, a sentence each, with their standard errors.
        remedy: what to do.
        layers: names of the layers concerned; empty for the whole model.
        effect: the metric's change that it accounts for; None where it has none of its own.
    """

    kind: str
    summary: str
    evidence: tuple[str, ...]
    remedy: str
    layers: tuple[str, ...] = ()
    effect: Effect | None = None

    @property
    def title(self) -> str:
        """Its kind in words."""
        return KINDS[self.kind]


@dataclass(frozen=True)
class Diagnosis:
    """Why a model's training mode and evaluation mode disagree; made by `bnstudy.diagnose`.

    Args:
        findings: most important first; a single one of kind "healthy" where nothing is wrong.
        levels: a row a metric and condition (see `CONDITIONS`): metric, condition, value, error (standard error over
            batches), distance (RMS difference of the outputs from those under `batch`, over the RMS of those).
        terms: a row a metric and term (see `PATH`): metric, term, value, error.
        layers: a row a layer; `bnstudy.diagnosis.tables.layers_table` describes the columns.
        setting: what was asked and on what it ran: batches, samples, passes, seconds, versions, …; plain values.
    """

    findings: tuple[Finding, ...]
    levels: pd.DataFrame
    terms: pd.DataFrame
    layers: pd.DataFrame
    setting: Mapping[str, Any] = field(default_factory=dict)

    @property
    def healthy(self) -> bool:
        """Whether there is nothing to say; dropout that moves a metric is said, though it is no fault."""
        return self.findings[0].kind == "healthy"

    @property
    def metrics(self) -> list[str]:
        """The metrics, the primary one first."""
        names = list(dict.fromkeys([*self.levels["metric"], *self.terms["metric"]]))
        return sorted(names, key=lambda name: name != self.setting.get("metric"))

    @property
    def primary(self) -> str:
        """The metric that the diagnosis is about; "" where none was measured."""
        return next(iter(self.metrics), "")

    def level(self, metric: str, condition: str) -> Measured:
        """A metric under a condition; NaN where it was not measured."""
        return _found(self.levels, metric, "condition", condition)

    def term(self, metric: str, name: str) -> Measured:
        """A term of a metric's gap; NaN where it was not measured."""
        return _found(self.terms, metric, "term", name)


def _found(table: pd.DataFrame, metric: str, column: str, name: str) -> Measured:
    rows = table[(table["metric"] == metric) & (table[column] == name)]
    return Measured(float(rows["value"].iloc[0]), float(rows["error"].iloc[0])) if len(rows) else Measured(float("nan"))
