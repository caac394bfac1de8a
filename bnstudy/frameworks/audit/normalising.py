"""Which variance a layer divides by in training, and where ε stands."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bnstudy.frameworks.audit.factors import SAME, TOLERANCE, VISIBLE, batch_moments, name_factor, runner_up
from bnstudy.frameworks.audit.fits import Law, fit_law, line
from bnstudy.frameworks.audit.observations import Array, Run, Written

_SPOKEN = {"moving average": "moving average, the new batch included", "stored": "stored statistics"}


@dataclass(frozen=True)
class Normalising:
    """The training side: see `Behaviour` for the fields."""

    kind: str
    factor: float
    eps: float
    place: str
    residual: float
    runner_up: float
    oddities: tuple[str, ...]


def training_side(main: Run, other: Run, written: Written | None) -> Normalising:
    """Identify the training denominator from two runs of different batch shape.

        r² = (γ/slope)²  against  kS + ε,  (√(kS) + ε)²,  max(kS, ε)

    with S the batch's biased variance, or what is stored after or before the batch. The batch is tried first: an average of
    weight 1 stores the batch's own variance and explains as much.
    """
    slopes, centres, misfit = _lines(main)
    if not misfit < TOLERANCE:
        return _unknown("the training output is no affine function of the input within a channel", misfit)
    squared = (main.gain / slopes) ** 2
    means, variances = batch_moments(main.inputs)
    law = fit_law(variances, squared)
    if law.residual < TOLERANCE:
        oddities = list(_oddities(law, centres, means, squared))
        shape, again = main.inputs.shape[1:], other.inputs.shape[1:]
        kind, second = name_factor(law.factor, shape), _batch_factor(other)
        if kind == "samples":
            oddities.append("training divides by N-1 samples, not by m-1 values")
        elif kind == "unknown" or second is None or name_factor(second, again) != kind:
            oddities.append(f"training scales the batch variance by {law.factor:.4g}")
            kind = "samples"
        kind = "unknown" if kind == "samples" else kind
        return _result(kind, law, max(misfit, law.residual), runner_up(law.factor, shape), oddities)
    after, before = fit_law(main.variances[1:], squared), fit_law(main.variances[:-1], squared)
    name, law, centre = "moving average", after, main.means[1:]
    if not (law.residual < TOLERANCE and abs(law.factor - 1) < SAME):
        name, law, centre = "stored", before, main.means[:-1]
        if written is not None:
            fit = line(written.probe, written.training, main.shift)
            law = fit_law(written.variance, (main.gain / fit.slope) ** 2)
            centres, centre, squared = fit.centre, written.mean, (main.gain / fit.slope) ** 2
    if not (law.residual < TOLERANCE and abs(law.factor - 1) < SAME):
        return _unknown("the training denominator follows no known law", law.residual)
    oddities = [f"training normalises by the {_SPOKEN[name]}", *_oddities(law, centres, centre, squared)]
    return _result(name, law, max(misfit, law.residual), np.nan, oddities)


def placed(law: Law) -> tuple[float, str]:
    """ε and its place; an ε too small to be seen has none."""
    return (0.0, "not visible") if abs(law.eps) < VISIBLE else (law.eps, law.place)


def place_oddity(law: Law, where: str) -> tuple[str, ...]:
    """What to say of an ε that is not inside the root."""
    said = {"outside": f"ε outside the root {where}", "floor": f"ε is a floor {where}"}
    place = placed(law)[1]
    if place == "inside" and law.eps < 0:
        return (f"ε is negative {where}",)
    return (said[place],) if place in said else ()


def _oddities(law: Law, centres: Array, expected: Array, squared: Array) -> tuple[str, ...]:
    off = np.abs((centres - expected) / np.sqrt(squared)).max() > TOLERANCE
    return (*(("training does not centre on the mean that belongs to its variance",) if off else ()),
            *place_oddity(law, "in training"))  # fmt: skip


def _result(kind: str, law: Law, residual: float, distance: float, oddities: list[str]) -> Normalising:
    eps, place = placed(law)
    return Normalising(kind, law.factor, eps, place, residual, distance, tuple(oddities))


def _unknown(oddity: str, residual: float) -> Normalising:
    return Normalising("unknown", np.nan, np.nan, "unknown", residual, np.nan, (oddity,))


def _lines(run: Run) -> tuple[Array, Array, float]:
    fits = [line(x, y, run.shift) for x, y in zip(run.inputs, run.outputs, strict=True)]
    finite = all(np.isfinite(fit.residual).all() for fit in fits)  # a NaN must not pass for a fit
    worst = max(float(fit.residual.max()) for fit in fits) if finite else np.inf
    return np.stack([fit.slope for fit in fits]), np.stack([fit.centre for fit in fits]), worst


def _batch_factor(run: Run) -> float | None:
    slopes, _, misfit = _lines(run)
    law = fit_law(batch_moments(run.inputs)[1], (run.gain / slopes) ** 2) if misfit < TOLERANCE else None
    return law.factor if law is not None and law.residual < TOLERANCE else None
