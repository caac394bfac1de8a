"""Identify a BatchNorm layer from observations alone: pure NumPy, no framework in sight."""

from __future__ import annotations

import math

import numpy as np

from bnstudy.batchnorm.audit.accumulating import Accumulating, momentum_meaning, stored_side
from bnstudy.batchnorm.audit.finding import Finding
from bnstudy.batchnorm.audit.normalising import TOLERANCE, Inference, Normalising, inference_side, training_side
from bnstudy.batchnorm.audit.observations import Observations, Single

_CONVENTIONS = {
    ("biased", "unbiased"): "paper",
    ("unbiased", "unbiased"): "consistent_unbiased",
    ("biased", "biased"): "consistent_biased",
    ("unbiased", "biased"): "inverted",
}


def identify(seen: Observations) -> Finding:
    """Say which BatchNorm the observed layer implements.

    Nothing is assumed: factors, weights and ε are fitted, then compared with what is known. A layer gets the name of one of the
    four conventions only when every law fits within 1e-4 and nothing about it is odd; otherwise it is "unknown", with the
    reasons as `oddities`. A correction of the average's start is a property, not an oddity.

    Args:
        seen: what `observe` returned.

    Returns:
        The finding, with the misfit it rests on and its distance from the next hypothesis.

    Source: bnstudy issue 6.
    """
    training = training_side(seen.main, seen.other)
    stored = stored_side(seen.main, seen.other)
    inference = inference_side(seen.main, seen.written, stored.weight, training)
    meaning = momentum_meaning(seen.momenta) if stored.kind != "unknown" or stored.averaged != "unknown" else "unknown"
    oddities = [*training.oddities, *stored.oddities, *inference.oddities]
    if training.kind in ("moving average", "stored"):
        oddities.insert(0, f"training normalises by the {_SPOKEN[training.kind]}")
    if stored.kind == "nothing":
        oddities.append("nothing is accumulated")
    corrected = {"bias-corrected": "in the stored average"}.get(stored.schedule, "none")
    if inference.correction == "bias":
        corrected = "at inference"
        if (seen.main.variances[0] != 0).any():
            start = float(seen.main.variances[0][0])
            oddities.append(f"the correction at inference also divides the start value {start:g} of the variance")
    return Finding(
        convention=_convention(training, stored, inference, oddities),
        oddities=tuple(dict.fromkeys(oddities)),
        normalize=training.kind,
        normalize_factor=training.factor,
        accumulate=stored.kind,
        accumulate_factor=stored.factor,
        buffer=inference.buffer,
        weight=shortest(stored.weight),
        schedule=stored.schedule,
        weights=stored.weights,
        momentum_means=meaning,
        momentum_default=math.nan if seen.default is None else seen.default,
        bias_correction=corrected,
        eps=shortest(training.eps),
        eps_place=training.place,
        eval_eps=shortest(inference.eps),
        eval_place=inference.place,
        start_mean=_common(seen.main.means[0]),
        start_variance=_common(seen.main.variances[0]),
        single=_single(seen.single, stored),
        residual=max(training.residual, stored.residual, inference.residual),
        runner_up=float(np.nanmin([training.runner_up, stored.runner_up, np.inf])),
    )


_SPOKEN = {"moving average": "moving average, the new batch included", "stored": "stored statistics"}
_HARMLESS = ("the correction at inference also divides",)


def _convention(training: Normalising, stored: Accumulating, inference: Inference, oddities: list[str]) -> str:
    """The name of the pair, when nothing that the four conventions fix is otherwise."""
    serious = [oddity for oddity in oddities if not oddity.startswith(_HARMLESS)]
    if serious or inference.buffer != "variance" or inference.correction not in ("none", "bias"):
        return "unknown"
    return _CONVENTIONS.get((training.kind, stored.kind), "unknown")


def shortest(value: float) -> float:
    """The decimal with the fewest digits within a relative 2e-5 of a measured value; the value itself if there is none."""
    if not math.isfinite(value) or value == 0:
        return value
    for digits in range(1, 6):
        rounded = float(f"{value:.{digits - 1}e}")
        if abs(rounded - value) <= TOLERANCE / 5 * abs(value):
            return rounded
    return value


def _common(values: np.ndarray) -> float:
    """The value that all channels share; NaN where they differ."""
    return float(values[0]) if np.all(values == values[0]) else math.nan


def _single(single: Single, stored: Accumulating) -> str:
    if single.error is not None:
        return f"refuses ({single.error.split(':')[0]})"
    output = "NaN" if np.isnan(single.output).any() else "0" if not single.output.any() else "not 0"
    alpha = stored.weights[0] if stored.weights else 0.0
    if np.isnan(single.after).any():
        variance = "variance becomes NaN"
    elif np.isinf(single.after).any():
        variance = "variance becomes infinite"
    elif np.array_equal(single.before, single.after):
        variance = "variance kept"
    elif np.allclose(single.after, (1 - alpha) * single.before, rtol=10 * TOLERANCE, atol=0):
        variance = "variance 0 taken in"
    else:
        variance = "variance changes"
    return f"output {output}, {variance}"
