"""Which variance a layer divides by, in training and at inference, and where ε stands."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bnstudy.batchnorm.audit.fits import AXES, Law, fit_law, line
from bnstudy.batchnorm.audit.observations import Array, Run, Written

TOLERANCE = 1e-4
"""Largest relative misfit of a law that is believed. Rounding in float32 gives 1e-6, the nearest wrong law 6e-2."""
VISIBLE = 1e-13
"""An ε below this is lost beside the smallest variance of the experiment."""


@dataclass(frozen=True)
class Normalising:
    """The training side: see `Finding` for the fields."""

    kind: str
    factor: float
    eps: float
    place: str
    residual: float
    runner_up: float
    oddities: tuple[str, ...]


@dataclass(frozen=True)
class Inference:
    """The inference side: what is stored ("variance", "standard deviation"), ε, and the correction applied on use."""

    buffer: str
    eps: float
    place: str
    correction: str
    residual: float
    oddities: tuple[str, ...]


def name_factor(factor: float, shape: tuple[int, ...]) -> str:
    """ "biased", "unbiased", "samples" (N/(N-1)) or "unknown" for a measured factor over the biased variance."""
    known = factors(shape)
    return next((name for name, value in known.items() if abs(factor / value - 1) < 10 * TOLERANCE), "unknown")


def factors(shape: tuple[int, ...]) -> dict[str, float]:
    """The factors that a variance may carry over the biased one, for batches of shape (N, C, H, W)."""
    n, m = shape[0], shape[0] * shape[2] * shape[3]
    return {"biased": 1.0, "unbiased": m / (m - 1), "samples": n / (n - 1)}


def runner_up(factor: float, shape: tuple[int, ...]) -> float:
    """Relative distance from a measured factor to the nearest known one that it is not."""
    return sorted(abs(factor / value - 1) for value in factors(shape).values())[1]


def spoken(eps: float, place: str) -> tuple[float, str]:
    """An ε too small to be seen has no place."""
    return (0.0, "not visible") if abs(eps) < VISIBLE else (eps, place)


def training_side(main: Run, other: Run) -> Normalising:
    """Identify the training denominator from two runs of different batch shape.

        r² = (γ/slope)²  against  kS + ε,  (√(kS) + ε)²,  max(kS, ε)

    with S the batch's biased variance, or what is stored before or after the batch. The batch is tried first: an average of
    weight 1 stores the batch's own variance and explains as much.
    """
    unknown = Normalising("unknown", np.nan, np.nan, "unknown", np.inf, np.nan, ())
    slopes, centres, misfit = _lines(main)
    if not misfit < TOLERANCE:
        oddity = "the training output is no affine function of the input within a channel"
        return Normalising("unknown", np.nan, np.nan, "unknown", misfit, np.nan, (oddity,))
    squared = (main.gain / slopes) ** 2
    means, variances = batch_moments(main.inputs)
    candidates = (
        ("batch", variances, means),
        ("moving average", main.variances[1:], main.means[1:]),
        ("stored", main.variances[:-1], main.means[:-1]),
    )
    laws = [(name, fit_law(s, squared), centre) for name, s, centre in candidates]
    fitting = [entry for entry in laws if entry[1].residual < TOLERANCE]
    if not fitting:
        closest = min(law.residual for _, law, _ in laws)
        return Normalising(
            "unknown", np.nan, np.nan, "unknown", closest, np.nan, ("the training denominator follows no known law",)
        )
    name, law, centre = fitting[-1] if np.array_equal(main.variances[1:], main.variances[:-1]) else fitting[0]
    oddities = []
    if np.abs((centres - centre) / np.sqrt(squared)).max() > TOLERANCE:
        oddities.append(f"training does not centre on the {'batch mean' if name == 'batch' else 'stored mean'}")
    eps, place = spoken(law.eps, law.place)
    if place in ("outside", "floor"):
        oddities.append({"outside": "ε outside the root in training", "floor": "ε is a floor in training"}[place])
    kind, distance = name, np.nan
    if name == "batch":
        kind, distance = name_factor(law.factor, main.inputs.shape[1:]), runner_up(law.factor, main.inputs.shape[1:])
        second = _batch_factor(other)
        if second is None or name_factor(second, other.inputs.shape[1:]) != kind:
            kind = "unknown"
        if kind == "samples":
            kind = "unknown"
            oddities.append("training divides by N-1 samples, not by m-1 values")
        elif kind == "unknown":
            oddities.append(f"training scales the batch variance by {law.factor:.4g}")
    elif abs(law.factor - 1) > 10 * TOLERANCE:
        oddities.append(f"training scales the stored variance by {law.factor:.4g}")
        kind = unknown.kind
    return Normalising(kind, law.factor, eps, place, max(misfit, law.residual), distance, tuple(oddities))


def inference_side(main: Run, written: Written | None, weight: float, training: Normalising) -> Inference:
    """Identify how stored statistics are used at inference.

    Args:
        main: evaluated after each batch.
        written: evaluated on statistics that span the range; shows ε and whether a variance is stored.
        weight: α, for the correction 1/(1-(1-α)ᵗ).
        training: supplies ε where `written` is None.
    """
    buffer, law, measured = "variance", Law("inside", 1.0, training.eps, 0.0), False
    if written is not None:
        fit = line(written.probe, written.evaluation, main.shift)
        squared = (main.gain / fit.slope) ** 2
        laws = {
            "variance": fit_law(written.variance, squared),
            "standard deviation": fit_law(written.variance.astype(np.float64) ** 2, squared),
        }
        buffer, law = min(laws.items(), key=lambda item: item[1].residual)
        if not max(law.residual, float(fit.residual.max())) < TOLERANCE:
            oddity = "inference does not use what is stored by a known law"
            return Inference("unknown", np.nan, "unknown", "unknown", law.residual, (oddity,))
        measured = True
    eps, place = spoken(law.eps, law.place) if measured else (np.nan, "not measured")
    oddities = []
    if measured and abs(law.factor - 1) > 10 * TOLERANCE:
        oddities.append(f"inference scales the stored variance by {law.factor:.4g}")
    if place in ("outside", "floor"):
        oddities.append({"outside": "ε outside the root at inference", "floor": "ε is a floor at inference"}[place])
    if buffer == "standard deviation":
        oddities.append("stores a standard deviation")
    both = training.place not in ("unknown", "not visible") and place not in ("not measured", "not visible")
    if both and place == training.place and abs(eps - training.eps) > 10 * TOLERANCE * abs(training.eps):
        oddities.append(f"ε is {training.eps:.3g} in training and {eps:.3g} at inference")
    correction = _correction(main, buffer, law, weight)
    if correction == "unknown":
        oddities.append("inference scales the running statistics by an unknown factor")
    if correction == "Bessel at inference":
        oddities.append("Bessel's factor is applied at inference")
    return Inference(buffer, eps, place, correction, law.residual, tuple(oddities))


def batch_moments(inputs: Array) -> tuple[Array, Array]:
    """Means and biased variances of (T, N, C, H, W) batches, each (T, C), in float64."""
    wide = inputs.astype(np.float64)
    axes = tuple(axis + 1 for axis in AXES)
    return wide.mean(axes), wide.var(axes)


def _lines(run: Run) -> tuple[Array, Array, float]:
    fits = [line(x, y, run.shift) for x, y in zip(run.inputs, run.outputs, strict=True)]
    worst = max(float(fit.residual.max()) for fit in fits)  # a NaN anywhere must not pass for a fit
    finite = all(np.isfinite(fit.residual).all() for fit in fits)
    return np.stack([fit.slope for fit in fits]), np.stack([fit.centre for fit in fits]), worst if finite else np.inf


def _batch_factor(run: Run) -> float | None:
    slopes, _, misfit = _lines(run)
    law = fit_law(batch_moments(run.inputs)[1], (run.gain / slopes) ** 2) if misfit < TOLERANCE else None
    return law.factor if law is not None and law.residual < TOLERANCE else None


def _correction(main: Run, buffer: str, law: Law, weight: float) -> str:
    """What multiplies the stored statistics on use: "none", "bias" (1/(1-(1-α)ᵗ)), "Bessel at inference", "unknown"."""
    ratios = []
    for t, evaluation in enumerate(main.evaluations, start=1):
        fit = line(main.probe, evaluation, main.shift)
        stored = main.variances[t].astype(np.float64)
        stored = stored**2 if buffer == "standard deviation" else stored
        used = law.variance((main.gain / fit.slope) ** 2)
        large = stored >= np.quantile(stored, 0.75)  # the smallest are lost beside ε
        ratio = float(np.median(used[large] / stored[large])) if np.isfinite(used).all() else np.nan
        wanted = main.means[t] * (ratio if abs(ratio - 1) > 10 * TOLERANCE else 1.0)
        off_centre = np.abs(fit.centre - main.means[t]) / np.sqrt((main.gain / fit.slope) ** 2)
        off_scaled = np.abs(fit.centre - wanted) / np.sqrt((main.gain / fit.slope) ** 2)
        if not min(off_centre.max(), off_scaled.max()) < TOLERANCE:
            return "unknown"
        ratios.append(ratio)
    measured = np.array(ratios)
    steps = np.arange(1, len(ratios) + 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        known = {
            "none": np.ones(len(ratios)),
            "bias": 1 / (1 - (1 - weight) ** steps),
            "Bessel at inference": np.full(len(ratios), factors(main.inputs.shape[1:])["unbiased"]),
        }
    for name, expected in known.items():
        if np.abs(measured / expected - 1).max() < 10 * TOLERANCE:
            return name
    return "unknown"
