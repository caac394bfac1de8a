"""What a diagnosis says: metrics in both modes, the terms of their gap, a row a layer, and findings in plain words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

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
    "train": "training mode, as `model.train()` leaves every layer",
    "batch": "BatchNorm on the batch's own statistics, everything else in evaluation mode",
    "own": "evaluation mode: what the model has stored",
    "ema_unbiased": "the moving average of the unbiased variance",
    "population_unbiased": "the given batches' mean unbiased variance",
    "population_pooled": "the given batches' variance by the law of total variance",
}
"""How a model is run: where its BatchNorm layers take their statistics from."""

TERMS = ("bessel", "lag", "pooling", "noise")
"""Terms of the gap own − batch, in the order of their path; they sum to it. See DESIGN.md, section 2, "Gap"."""


@dataclass(frozen=True)
class Finding:
    """One thing found.

    Args:
        kind: a key of `KINDS`.
        summary: what is wrong and what it costs, in a sentence or two of plain words.
        evidence: the measured facts that speak for it, a sentence each, with their standard errors.
        remedy: what to do.
        layers: names of the layers concerned; empty for the whole model.
        effect: the metric's change that it accounts for, in the metric's own units; None where it has none of its own.
        error: standard error of `effect`.
        metric: the metric of `effect`.
    """

    kind: str
    summary: str
    evidence: tuple[str, ...]
    remedy: str
    layers: tuple[str, ...] = ()
    effect: float | None = None
    error: float | None = None
    metric: str | None = None

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
        terms: a row a metric and term: metric, term, value, error. Terms: `gap` (own − batch), then bessel, lag, pooling and
            noise, which sum to it, then `other` (batch − train: dropout and its like, which are not BatchNorm's).
        layers: a row a layer; columns are described in `bnstudy.diagnosis.layers_table`.
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
