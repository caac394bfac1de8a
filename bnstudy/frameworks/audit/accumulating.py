"""Which variance a layer averages for inference, and with what weights."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bnstudy.frameworks.audit.factors import SAME, TOLERANCE, batch_moments, name_factor, runner_up
from bnstudy.frameworks.audit.fits import fit_weights
from bnstudy.frameworks.audit.observations import Array, Run


@dataclass(frozen=True)
class Accumulating:
    """The stored side: see `Behaviour` for the fields."""

    kind: str
    factor: float
    averaged: str
    weight: float
    schedule: str
    weights: tuple[float, ...]
    residual: float
    runner_up: float
    oddities: tuple[str, ...]


def stored_side(main: Run, other: Run) -> Accumulating:
    """Identify what is averaged from two runs of different batch shape.

        Bₜ = (1-αₜ)·Bₜ₋₁ + αₜ·k·fₜ        per step two free weights, so k = new/(1-old)

    with B the stored value or its square and f the batch's variance, standard deviation, second moment, or the variance
    about the stored mean.
    """
    if not np.isfinite(main.variances).all():
        return _unknown("stores values that are not finite", np.inf)
    if np.array_equal(main.variances[1:], main.variances[:-1]):
        oddity = "nothing is accumulated"
        return Accumulating("nothing", np.nan, "nothing", np.nan, "none", (), 0.0, np.nan, (oddity,))
    averaged, old, new, residual = _explanation(main)
    if not residual < TOLERANCE:
        return _unknown("what is averaged follows no known law", residual)
    factor, spread = _factor(old, new)
    if not spread < SAME:
        return _unknown("the weights of old and new do not add up to the same in every step", spread)
    alphas = np.where(np.isnan(old), new / factor, 1 - old)
    schedule, weight = classify(alphas)
    oddities = list(_mean_side(main, alphas))
    shape = main.inputs.shape[1:]
    kind, distance = name_factor(factor, shape), runner_up(factor, shape)
    if averaged == "variance":
        again, second_old, second_new, _ = _explanation(other)
        second, _ = _factor(second_old, second_new)
        if again != averaged or name_factor(second, other.inputs.shape[1:]) != kind:
            kind = "unknown"
        if kind == "samples":
            oddities.append("stores the variance over N-1 samples, not over m-1 values")
            kind = "unknown"
        elif kind == "unknown":
            oddities.append(f"stores the batch variance times {factor:.4g}")
    else:
        kind = "unknown"
        oddities.append(f"averages the {averaged}")
    if schedule == "unknown":
        oddities.append("the weight of the new batch follows no known schedule")
    if schedule in ("constant", "bias-corrected", "first batch replaces the start") and 0.5 < weight < 1 - TOLERANCE:
        oddities.append(f"momentum swapped: the new batch weighs {weight:.4g}")
    values = tuple(float(alpha) for alpha in alphas)
    return Accumulating(kind, factor, averaged, weight, schedule, values, residual, distance, tuple(oddities))


def classify(alphas: Array) -> tuple[str, float]:
    """Name a sequence of weights and give the one it settles at.

        constant                            αₜ = α
        first batch replaces the start      α₁ = 1, then α
        bias-corrected                      αₜ = α/(1-(1-α)ᵗ)
        cumulative                          αₜ = 1/t

    Args:
        alphas: shape (T,), T at least 3.
    """
    t = np.arange(1, len(alphas) + 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        decay = 1 / alphas[1] - 1
        shapes = {
            "constant": (np.full(len(alphas), alphas.mean()), float(alphas.mean())),
            "cumulative": (1 / t, np.nan),
            "first batch replaces the start": (np.where(t == 1, 1.0, alphas[1:].mean()), float(alphas[1:].mean())),
            "bias-corrected": ((1 - decay) / (1 - decay**t), float(1 - decay)),
        }
    for name, (expected, weight) in shapes.items():
        if np.abs(alphas - expected).max() < SAME * np.abs(expected).max():
            return name, weight
    return "unknown", np.nan


def momentum_meaning(runs: tuple[Run, ...]) -> str:
    """Whether the momentum argument is the weight of the "new batch", of the "old value", or "unknown"."""
    if not runs:
        return "no argument"
    meanings = set()
    for run in runs:
        if np.array_equal(run.variances[1:], run.variances[:-1]):
            return "no effect"
        _, old, new, residual = _explanation(run)
        factor, _ = _factor(old, new)
        _, weight = classify(np.where(np.isnan(old), new / factor, 1 - old))
        argument = run.argument or 0.0
        known = {"new batch": argument, "old value": 1 - argument}
        near = [name for name, value in known.items() if abs(weight - value) < SAME]
        meanings.add(near[0] if near and residual < TOLERANCE else "unknown")
    return meanings.pop() if len(meanings) == 1 else "unknown"


def _explanation(run: Run) -> tuple[str, Array, Array, float]:
    """(what is averaged, old weights, new weights, residual): the first law that fits, or the closest."""
    means, variances = batch_moments(run.inputs)
    stored = run.variances.astype(np.float64)
    about = [variances + (means - centre.astype(np.float64)) ** 2 for centre in (run.means[:-1], run.means[1:])]
    laws = (
        ("variance", stored, variances),
        ("standard deviation", stored, np.sqrt(variances)),
        ("variance, and stores its root", stored**2, variances),
        ("second moment about zero", stored, variances + means**2),
        ("variance about the stored mean", stored, about[0]),
        ("variance about the new stored mean", stored, about[1]),
    )
    fits = [(name, fit_weights(b, f)) for name, b, f in laws]
    name, best = next((fit for fit in fits if fit[1].residual < TOLERANCE), min(fits, key=lambda fit: fit[1].residual))
    return name, best.old, best.new, best.residual


def _factor(old: Array, new: Array) -> tuple[float, float]:
    """The factor k = new/(1-old) and its relative spread over the steps that show it."""
    shown = np.isfinite(old) & (np.abs(1 - old) > TOLERANCE)
    if not shown.any():
        return np.nan, np.inf
    values = new[shown] / (1 - old[shown])
    factor = float(np.median(values))
    return factor, float(np.abs(values / factor - 1).max())


def _mean_side(run: Run, alphas: Array) -> tuple[str, ...]:
    """Oddities of the stored mean: it should take in the batch mean with the variance's weights."""
    means, _ = batch_moments(run.inputs)
    if np.array_equal(run.means[1:], run.means[:-1]):
        return ("no mean is accumulated",)
    fit = fit_weights(run.means, means, cancellation=0.1)
    if not fit.residual < TOLERANCE:
        return ("the stored mean follows no known law",)
    if np.abs(fit.new / alphas - 1).max() < SAME:
        return ()
    if np.abs(fit.new / (1 - alphas) - 1).max() < SAME:
        return ("momentum swapped between mean and variance",)
    return ("mean and variance are averaged with different weights",)


def _unknown(oddity: str, residual: float) -> Accumulating:
    return Accumulating("unknown", np.nan, "unknown", np.nan, "unknown", (), residual, np.nan, (oddity,))
