"""How small a difference so many seeds can find, and how many seeds a margin needs."""

from __future__ import annotations

from bisect import bisect_left
from functools import cache
from math import inf, sqrt

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize
from statsmodels.stats.power import TTestPower

ALPHA = 0.05
POWER = 0.8
FEWEST_SEEDS = 3  # below it a standard deviation says next to nothing, and no verdict is given
MOST_SEEDS = 1_000_000  # a study that needs more than this is reported as needing infinitely many


def minimum_detectable_effect(
    deviation: ArrayLike, n: int, *, alpha: ArrayLike = ALPHA, power: float = POWER
) -> NDArray[np.float64]:
    """Smallest true difference that a two-sided paired t test finds with the given power, on the side where it lies.

    Args:
        deviation: standard deviation of the paired differences, shape (tasks,), in the metric's units.
        n: number of pairs, at least 2.
        alpha: level of the test, a number or shape (tasks,).
        power: probability of finding it.

    Returns:
        difference, shape (tasks,), in the metric's units.

    Source: noncentral t, by statsmodels' TTestPower; docs/method.md, "Contrasts and verdicts".
    """
    deviations, levels = np.broadcast_arrays(np.asarray(deviation, dtype=np.float64), np.asarray(alpha))
    effects = [_detectable(n, float(level) / 2, power) for level in levels.flat]
    return deviations * np.asarray(effects, dtype=np.float64).reshape(deviations.shape)


def seeds_needed(
    deviation: ArrayLike,
    difference: ArrayLike,
    margin: ArrayLike,
    *,
    alpha: ArrayLike = ALPHA,
    power: float = POWER,
) -> NDArray[np.float64]:
    """Number of seeds with which the comparison would be settled, if its estimate were the truth.

    The question that the estimate poses decides: the smaller of two numbers, seeds to find a true difference as large as the
    estimate, and seeds to establish equivalence at the margin when that is the true difference (none where it is beyond the
    margin, or there is no margin). The second lets each one-sided test fail with half of 1-power, which bounds the chance
    that either fails by 1-power.

    Args:
        deviation: standard deviation of the paired differences, shape (tasks,), > 0, in the metric's units.
        difference: their mean, likewise.
        margin: shape (tasks,) or a number; NaN where there is none.
        alpha: level of the tests, a number or shape (tasks,).
        power: probability of success.

    Returns:
        seeds, shape (tasks,), whole numbers of at least 3; inf where a million would not do.

    Source: noncentral t, by statsmodels' TTestPower; docs/method.md, "Contrasts and verdicts".
    """
    deviations, differences, margins, levels = np.broadcast_arrays(
        np.asarray(deviation, dtype=np.float64),
        np.abs(np.asarray(difference, dtype=np.float64)),
        np.asarray(margin, dtype=np.float64),
        np.asarray(alpha),
    )
    effects, room = (differences / deviations).ravel(), ((margins - differences) / deviations).ravel()
    counts = [
        min(_seeds(float(effect), float(level) / 2, power), _seeds(float(left), float(level), (1 + power) / 2))
        for effect, left, level in zip(effects, room, levels.flat, strict=True)
    ]
    return np.asarray(counts, dtype=np.float64).reshape(deviations.shape)


def _seeds(effect: float, alpha: float, power: float) -> float:
    """Pairs with which a one-sided t test finds `effect` standard deviations; inf where there is nothing to find."""
    if not effect > 0:
        return inf
    # The detectable effect falls with n, so the first n that settles is found by bisection; the cache makes it cheap.
    counts = range(FEWEST_SEEDS, MOST_SEEDS + 1)
    n = FEWEST_SEEDS + bisect_left(counts, True, key=lambda n: _detectable(n, alpha, power) <= effect)
    return n if n <= MOST_SEEDS else inf


@cache
def _detectable(n: int, alpha: float, power: float) -> float:
    """Difference over standard deviation at which a one-sided t test with n pairs has the given power."""

    def shortfall(effect: float) -> float:
        return float(TTestPower().power(effect, n, alpha, alternative="larger")) - power

    # Not solve_power: in statsmodels 0.15 it returns wrong roots at small α, where its two-sided power is NaN for want of
    # digits in the far tail. The one-sided power is monotone, and a bracketed root cannot miss.
    upper = 1 / sqrt(n)
    while shortfall(upper) < 0:
        upper *= 2
    return float(optimize.brentq(shortfall, 0.0, upper))
