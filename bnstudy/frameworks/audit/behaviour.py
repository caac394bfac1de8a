"""Identify a BatchNorm layer from observations alone: pure NumPy, no framework in sight."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from bnstudy.batchnorm.conventions import CONVENTIONS
from bnstudy.frameworks.audit.accumulating import Accumulating, momentum_meaning, stored_side
from bnstudy.frameworks.audit.factors import SAME, shortest
from bnstudy.frameworks.audit.inference import inference_side
from bnstudy.frameworks.audit.normalising import training_side
from bnstudy.frameworks.audit.observations import Array, Observations, Single


@dataclass(frozen=True)
class Behaviour:
    """The identified behaviour; measured numbers are rounded to the shortest decimal within their error.

    Args:
        convention: "paper", "consistent_unbiased", "consistent_biased", "inverted", or "unknown".
        oddities: why it is none of the four; empty for one that is.
        remarks: what else a user of it should know.
        normalize: "biased" or "unbiased" batch variance, or "moving average", "stored", "unknown".
        normalize_factor: measured k at m = 8, over the biased variance (8/7 is unbiased); NaN where there is none.
        accumulate: "biased", "unbiased", "nothing", or "unknown".
        accumulate_factor: likewise.
        buffer: what is stored: "variance", "standard deviation", "unknown"; with what is averaged where that differs.
        weight: weight of the new batch at the layer's default, once the average has settled; NaN if nothing accumulates.
        schedule: "constant", "first batch replaces the start", "bias-corrected", "cumulative", "none",
            "unknown".
        weights: weight of each of the five batches in the step that took it in.
        momentum_means: "new batch" or "old value" (what the argument weighs), "no argument", "no effect" or
            "unknown".
        momentum_default: the argument's own default; NaN where it has none.
        bias_correction: "none", "in the stored average", "at inference".
        eps, eps_place: ε in training: "inside" the root, "outside", "floor" (a lower bound), "not visible".
        eval_eps, eval_place: the same at inference; NaN and "not measured" where statistics cannot be written.
        start_mean, start_variance: what is stored before the first batch.
        single: what happens at m = 1.
        residual: the largest relative misfit among the laws that the answer rests on.
        runner_up: the smallest relative misfit among the rejected normalising and accumulating variances: by how much the
            answer is better than the next.
    """

    convention: str
    oddities: tuple[str, ...]
    remarks: tuple[str, ...]
    normalize: str
    normalize_factor: float
    accumulate: str
    accumulate_factor: float
    buffer: str
    weight: float
    schedule: str
    weights: tuple[float, ...]
    momentum_means: str
    momentum_default: float
    bias_correction: str
    eps: float
    eps_place: str
    eval_eps: float
    eval_place: str
    start_mean: float
    start_variance: float
    single: str
    residual: float
    runner_up: float


def identify(seen: Observations) -> Behaviour:
    """Say which BatchNorm the observed layer implements.

    Nothing is assumed: factors, weights and ε are fitted, then compared with what is known. A layer gets the name of one of
    the four conventions only when every law fits within 1e-4 and nothing about it is odd; otherwise it is "unknown", with
    the reasons as `oddities`. A correction of the average's start is a property, not an oddity.

    Args:
        seen: what `observe` returned.

    Returns:
        The behaviour, with the misfit it rests on and its distance from the next hypothesis.

    Source: docs/architecture.md, "The audit".
    """
    with np.errstate(all="ignore"):  # a broken layer gives zeros and NaN, which no law fits
        training = training_side(seen.main, seen.other, seen.written)
        stored = stored_side(seen.main, seen.other)
        inference = inference_side(seen.main, seen.written, stored.weight, training)
        meaning = momentum_meaning(seen.momenta)
    oddities = (*training.oddities, *stored.oddities, *inference.oddities)
    names = {(convention.normalize, convention.accumulate): name for name, convention in CONVENTIONS.items()}
    distances = [value for value in (training.runner_up, stored.runner_up) if not math.isnan(value)]
    return Behaviour(
        convention="unknown" if oddities else names.get((training.kind, stored.kind), "unknown"),
        oddities=tuple(dict.fromkeys(oddities)),
        remarks=_remarks(seen, stored, inference.correction),
        normalize=training.kind,
        normalize_factor=training.factor,
        accumulate=stored.kind,
        accumulate_factor=stored.factor,
        buffer=inference.buffer,
        weight=shortest(stored.weight),
        schedule=stored.schedule,
        weights=stored.weights,
        momentum_means=meaning,
        momentum_default=math.nan if seen.default is None else shortest(seen.default),
        bias_correction=_bias_correction(stored.schedule, inference.correction),
        eps=shortest(training.eps),
        eps_place=training.place,
        eval_eps=shortest(inference.eps),
        eval_place=inference.place,
        start_mean=_common(seen.main.means[0]),
        start_variance=_common(seen.main.variances[0]),
        single=_single(seen.single, stored),
        residual=max(training.residual, stored.residual, inference.residual),
        runner_up=min(distances, default=math.nan),
    )


def _bias_correction(schedule: str, correction: str) -> str:
    if correction == "bias":
        return "at inference"
    return "in the stored average" if schedule == "bias-corrected" else "none"


def _remarks(seen: Observations, stored: Accumulating, correction: str) -> tuple[str, ...]:
    remarks = []
    start = _common(seen.main.variances[0])
    if correction == "bias" and start != 0:
        remarks.append(f"the correction at inference divides the start value {start:g} of the variance too")
    if stored.kind != "nothing" and stored.weight == 1:
        remarks.append("at its default the operator keeps the last batch only")
    return tuple(remarks)


def _common(values: Array) -> float:
    """The value that all channels share; NaN where they differ."""
    return float(values[0]) if np.all(values == values[0]) else math.nan


def _single(single: Single, stored: Accumulating) -> str:
    if single.error is not None:
        return f"refuses ({single.error.split(':')[0]})"
    alpha = stored.weights[0] if stored.weights else 0.0
    if np.isnan(single.output).any():
        output = "NaN"
    elif np.abs(single.output).max() < SAME:
        output = "0"
    else:
        output = "is the input" if np.allclose(single.output, single.input, rtol=1e-6, atol=0) else "is not 0"
    if np.isnan(single.after).any():
        variance = "variance becomes NaN"
    elif np.isinf(single.after).any():
        variance = "variance becomes infinite"
    elif np.array_equal(single.before, single.after) and single.before.any():
        variance = "variance kept"
    elif np.allclose(single.after, (1 - alpha) * single.before, rtol=SAME, atol=0):
        variance = "variance 0 taken in"
    else:
        variance = "variance changes"
    return f"output {output}, {variance}"
