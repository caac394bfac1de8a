"""How a layer uses what it stores at inference."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bnstudy.frameworks.audit.factors import SAME, TOLERANCE, factors
from bnstudy.frameworks.audit.fits import Law, fit_law, line
from bnstudy.frameworks.audit.normalising import Normalising, place_oddity, placed
from bnstudy.frameworks.audit.observations import Run, Written


@dataclass(frozen=True)
class Inference:
    """What is stored ("variance", "standard deviation", "unknown"), ε, and the correction applied on use."""

    buffer: str
    eps: float
    place: str
    correction: str
    residual: float
    oddities: tuple[str, ...]


def inference_side(main: Run, written: Written | None, weight: float, training: Normalising) -> Inference:
    """Identify how stored statistics are used at inference.

    Args:
        main: evaluated after each batch.
        written: evaluated on statistics that span the range; shows ε and whether a variance is stored.
        weight: α, for the correction 1/(1-(1-α)ᵗ).
        training: supplies ε where `written` is None.
    """
    if written is None:
        supposed = Law("inside", 1.0, 0.0 if np.isnan(training.eps) else training.eps, 0.0)
        correction = _correction(main, "variance", supposed, weight)
        return Inference("variance", np.nan, "not measured", correction, 0.0, _correction_oddity(correction))
    fit = line(written.probe, written.evaluation, main.shift)
    squared = (main.gain / fit.slope) ** 2
    laws = {
        "variance": fit_law(written.variance, squared),
        "standard deviation": fit_law(written.variance.astype(np.float64) ** 2, squared),
    }
    buffer, law = min(laws.items(), key=lambda item: item[1].residual)
    residual = max(law.residual, float(fit.residual.max()))
    if not residual < TOLERANCE:
        oddity = "inference does not use what is stored by a known law"
        return Inference("unknown", np.nan, "unknown", "unknown", residual, (oddity,))
    oddities = list(place_oddity(law, "at inference"))
    if abs(law.factor - 1) > SAME:
        oddities.append(f"inference scales the stored variance by {law.factor:.4g}")
    if buffer == "standard deviation":
        oddities.append("stores a standard deviation")
    eps, place = placed(law)
    if training.place == place == "inside" and abs(eps - training.eps) > SAME * abs(training.eps):
        oddities.append(f"ε is {training.eps:.3g} in training and {eps:.3g} at inference")
    elif training.place != "unknown" and "not visible" in {training.place, place} and training.place != place:
        oddities.append("ε is in one of the two modes only")
    correction = _correction(main, buffer, law, weight)
    return Inference(buffer, eps, place, correction, residual, (*oddities, *_correction_oddity(correction)))


def _correction_oddity(correction: str) -> tuple[str, ...]:
    said = {
        "unknown": "inference scales the running statistics by an unknown factor",
        "Bessel": "Bessel's factor is applied at inference",
    }
    return (said[correction],) if correction in said else ()


def _correction(main: Run, buffer: str, law: Law, weight: float) -> str:
    """What multiplies the stored statistics on use: "none", "bias" (1/(1-(1-α)ᵗ)), "Bessel" (variance only) or "unknown"."""
    if not np.isfinite(main.variances).all():
        return "unknown"
    ratios, plain, corrected = [], [], []
    for t, (probe, evaluation) in enumerate(zip(main.probes, main.evaluations, strict=True), start=1):
        fit = line(probe, evaluation, main.shift)
        squared = (main.gain / fit.slope) ** 2
        stored = main.variances[t].astype(np.float64)
        stored = stored**2 if buffer == "standard deviation" else stored
        used = law.variance(squared)
        large = stored >= np.quantile(stored, 0.75)  # the smallest are lost beside ε
        ratio = float(np.median(used[large] / stored[large]))
        sigma = np.sqrt(squared)
        if not np.abs(used[large] / stored[large] / ratio - 1).max() < SAME:
            return "unknown"
        ratios.append(ratio)
        plain.append(float((np.abs(fit.centre - main.means[t]) / sigma).max()))
        corrected.append(float((np.abs(fit.centre - main.means[t] * ratio) / sigma).max()))
    steps = np.arange(1, len(ratios) + 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        known = {
            "none": np.ones(len(ratios)),
            "bias": 1 / (1 - (1 - weight) ** steps),
            "Bessel": np.full(len(ratios), factors(main.inputs.shape[1:])["unbiased"]),
        }
    for name, expected in known.items():
        off_centre = corrected if name == "bias" else plain  # a correction of the start is due to the mean as well
        if np.abs(np.array(ratios) / expected - 1).max() < SAME and max(off_centre) < TOLERANCE:
            return name
    return "unknown"
