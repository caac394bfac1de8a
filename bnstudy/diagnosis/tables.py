"""What was measured, as tables."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pandas as pd

from bnstudy.diagnosis.evidence import ROUNDING, Evidence
from bnstudy.diagnosis.measure import Levels
from bnstudy.diagnosis.normlayers import NormLayer
from bnstudy.diagnosis.result import CONDITIONS
from bnstudy.diagnosis.swaps import Row

_PATH = {
    "gap": ("own", "batch"),
    "bessel": ("own", "ema_unbiased"),
    "lag": ("ema_unbiased", "population_unbiased"),
    "pooling": ("population_unbiased", "population_pooled"),
    "noise": ("population_pooled", "batch"),
    "other": ("batch", "train"),
}


def levels_table(levels: Levels) -> pd.DataFrame:
    """A row a metric and condition: metric, condition, value, error, distance."""
    rows = []
    for metric, means in levels.means.items():
        for condition in CONDITIONS:
            if condition in means.names:
                measured = means.contrast(**{condition: 1.0})
                distance = levels.distances[condition]
                rows.append((metric, condition, measured.value, measured.error, distance))
    return pd.DataFrame(rows, columns=["metric", "condition", "value", "error", "distance"])


def terms_table(levels: Levels) -> pd.DataFrame:
    """A row a metric and term: metric, term, value, error; bessel, lag, pooling and noise sum to gap."""
    rows: list[tuple[str, str, float, float]] = []
    for metric, means in levels.means.items():
        for term, sides in _PATH.items():
            # Where the layers store the unbiased variance and divide by the biased one, own is k·ema_unbiased.
            first, second = ("own" if side not in means.names else side for side in sides)
            if first == second:
                rows.append((metric, term, 0.0, 0.0))
                continue
            measured = means.contrast(**{first: 1.0, second: -1.0})
            rows.append((metric, term, measured.value, measured.error))
    return pd.DataFrame(rows, columns=["metric", "term", "value", "error"])


def layers_table(found: list[Evidence], swapped: Mapping[NormLayer, Row]) -> pd.DataFrame:
    """A row a BatchNorm layer, in order of execution.

    layer, type, channels; m (values per channel in a batch), m_eff with m_eff_se (independent samples that it is worth, as
    `bnstudy.training.measuring.probes` defines it; inf where batch means do not vary), m_eff_samples (the same as if samples
    were drawn at random, from the spread of their own means), composition (variance of the batch means over that of random
    batches); batches_tracked, momentum, eps, calls (per forward pass); stored_mean_distance (RMS over channels of (μ̂-μ)/σ),
    variance_ratio with variance_ratio_se (geometric mean over channels of the stored variance over the batches'),
    distance (√ of the squared Fisher distance of stored from measured statistics), distance_expected (what luck alone makes
    of it in a moving average); dead, zero_gain, broken (channels); swap_distance and swap_METRIC (what changes in the
    outputs and metrics if this layer alone goes from batch to stored statistics). NaN where not measured.
    """
    return pd.DataFrame([_row(one) | swapped.get(one.layer, {}) for one in found])


def _row(one: Evidence) -> dict[str, object]:
    layer, inputs, stored = one.layer, one.inputs, one.stored
    inverse = one.inverse
    size = 1 / inverse.value if inverse.value > ROUNDING else math.nan if math.isnan(inverse.value) else math.inf
    row: dict[str, object] = {
        "layer": layer.name,
        "type": type(layer.module).__name__,
        "channels": len(one.alive),
        "m": inputs.m,
        "m_eff": size,
        "m_eff_se": inverse.error * size**2 if math.isfinite(size) else math.nan,
        "m_eff_samples": 1 / one.sample_inverse if one.sample_inverse > 0 else math.nan,
        "composition": one.composition.value,
        "batches_tracked": math.nan if layer.updates is None else layer.updates,
        "momentum": math.nan if layer.momentum is None else layer.momentum,
        "eps": layer.eps,
        "calls": len(inputs.calls),
        "stored_mean_distance": math.nan,
        "variance_ratio": math.nan,
        "variance_ratio_se": math.nan,
        "distance": math.nan,
        "distance_expected": math.nan,
        "dead": int((~one.alive).sum()),
        "zero_gain": int(one.zero_gain.sum()),
        "broken": int(one.broken.sum()),
        "swap_distance": math.nan,
    }
    if stored is not None:
        usable = stored.usable
        ratio = math.exp(float(stored.deviation.var[usable].mean()))
        row |= {
            "stored_mean_distance": float(stored.deviation.mean[usable].square().mean().sqrt()),
            "variance_ratio": ratio,
            "distance": math.sqrt(stored.distance),
            "distance_expected": math.sqrt(stored.expected) if stored.expected >= 0 else math.nan,
        }
        if stored.redrawn is not None:
            row["variance_ratio_se"] = ratio * float(stored.redrawn.var[:, usable].mean(1).std())
    return row
