"""What was measured, as tables."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pandas as pd

from bnstudy.diagnosis.evidence import ROUNDING, Evidence
from bnstudy.diagnosis.measure import Levels
from bnstudy.diagnosis.measured import Measured
from bnstudy.diagnosis.normlayers import NormLayer
from bnstudy.diagnosis.result import CONDITIONS, PATH
from bnstudy.diagnosis.swaps import Changes


def levels_table(levels: Levels) -> pd.DataFrame:
    """A row a metric and condition: metric, condition, value, error, distance."""
    rows = []
    for metric in levels.means:
        for condition in [name for name in CONDITIONS if name in levels.distances]:
            measured = levels.contrast(metric, **{condition: 1.0})
            rows.append((metric, condition, measured.value, measured.error, levels.distances[condition]))
    return pd.DataFrame(rows, columns=["metric", "condition", "value", "error", "distance"])


def terms_table(levels: Levels) -> pd.DataFrame:
    """A row a metric and term: metric, term, value, error; bessel, lag, pooling and noise sum to gap."""
    rows = []
    for metric in levels.means:
        for name, term in PATH.items():
            # Where the layers store the unbiased variance and divide by the biased one, own is k·ema_unbiased.
            first, second = ("own" if side not in levels.distances else side for side in (term.first, term.second))
            same = first == second
            measured = Measured(0.0, 0.0) if same else levels.contrast(metric, **{first: 1.0, second: -1.0})
            rows.append((metric, name, measured.value, measured.error))
    return pd.DataFrame(rows, columns=["metric", "term", "value", "error"])


def layers_table(found: list[Evidence], swapped: Mapping[NormLayer, Changes]) -> pd.DataFrame:
    """A row a BatchNorm layer, in order of execution.

    layer; m (values per channel in a batch), m_eff with m_eff_se (independent samples that it is worth; inf where batch
    means do not vary); variance_ratio with variance_ratio_se (geometric mean over channels of the stored variance over the
    batches'), distance (√ of the squared Fisher distance of stored from measured statistics), distance_expected (what luck
    alone makes of it in a moving average); swap_distance and swap_METRIC (what changes in the outputs and metrics if this
    layer alone goes from batch to stored statistics); m_eff_samples (m_eff if samples were drawn at random, from the spread
    of their own means), composition (variance of the batch means over that of random batches), stored_mean_distance (RMS
    over channels of (μ̂-μ)/σ); dead, zero_gain, broken (channels); calls (per forward pass), batches_tracked, momentum, eps,
    channels, type. NaN where not measured.

    Source: docs/method.md, "Statistics".
    """
    return pd.DataFrame([_row(one) | swapped.get(one.layer, {}) for one in found])


def _row(one: Evidence) -> dict[str, object]:
    layer, inputs, stored, inverse = one.layer, one.inputs, one.stored, one.inverse
    size = 1 / inverse.value if inverse.value > ROUNDING else math.nan if math.isnan(inverse.value) else math.inf
    mean = ratio = error = distance = expected = math.nan
    if stored is not None:
        usable = stored.usable
        ratio = math.exp(float(stored.deviation.var[usable].mean()))
        error = math.nan if stored.redrawn is None else ratio * float(stored.redrawn.var[:, usable].mean(1).std())
        mean = float(stored.deviation.mean[usable].square().mean().sqrt())
        distance = math.sqrt(stored.distance)
        expected = math.sqrt(stored.expected) if stored.expected >= 0 else math.nan
    return {
        "layer": layer.name,
        "m": inputs.m,
        "m_eff": size,
        "m_eff_se": inverse.error * size**2 if math.isfinite(size) else math.nan,
        "variance_ratio": ratio,
        "variance_ratio_se": error,
        "distance": distance,
        "distance_expected": expected,
        "swap_distance": math.nan,
        "m_eff_samples": 1 / one.sample_inverse if one.sample_inverse > 0 else math.nan,
        "composition": one.composition.value,
        "stored_mean_distance": mean,
        "dead": int((~one.alive).sum()),
        "zero_gain": int(one.zero_gain.sum()),
        "broken": int(one.broken.sum()),
        "calls": len(inputs.calls),
        "batches_tracked": math.nan if layer.updates is None else layer.updates,
        "momentum": math.nan if layer.momentum is None else layer.momentum,
        "eps": layer.eps,
        "channels": len(one.alive),
        "type": type(layer.module).__name__,
    }
