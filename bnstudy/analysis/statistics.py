"""Paired statistics over seeds: intervals, tests, equivalence, power, verdicts.

Arrays are runs × tasks: a row per seed, a column per thing measured. Diverged seeds are the business of `contrasts`, which
leaves them out by the rules of the design; here every value of a paired comparison is finite.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cache
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import DescrStatsW

from bnstudy.analysis.power import ALPHA, FEWEST_SEEDS, POWER, minimum_detectable_effect, seeds_needed

FloatArray = NDArray[np.float64]

VERDICTS = ("identical", "different", "different but negligible", "equivalent", "inconclusive")


class Interval(NamedTuple):
    """A mean and the bounds of its confidence interval, each of shape (tasks,)."""

    mean: FloatArray
    low: FloatArray
    high: FloatArray


@dataclass(frozen=True)
class Comparison:
    """What seeds say about the difference arm − reference; every array has shape (tasks,).

    Attributes:
        difference: mean of the paired differences, in the metric's units.
        ci_low, ci_high: its 1-α confidence interval.
        equivalence_low, equivalence_high: its 1-2α interval, which lies within ±margin exactly when p_equivalence < α.
        p: two-sided p-value of "the mean difference is 0".
        p_equivalence: p-value of "the mean difference is at least the margin away from 0"; NaN without a margin.
        mde: the true difference that n seeds would find with the stated power, if the sample's spread is the true one.
        seeds_needed: seeds that would settle the question that the estimate poses; see `seeds_needed`.
        identical: whether every paired difference is exactly 0.
        n: number of pairs.

    Source: docs/method.md, "Contrasts and verdicts".
    """

    difference: FloatArray
    ci_low: FloatArray
    ci_high: FloatArray
    equivalence_low: FloatArray
    equivalence_high: FloatArray
    p: FloatArray
    p_equivalence: FloatArray
    mde: FloatArray
    seeds_needed: FloatArray
    identical: NDArray[np.bool_]
    n: int


_NUMBERS = tuple(field.name for field in fields(Comparison) if field.name not in ("identical", "n"))


def mean_interval(values: ArrayLike, confidence: float = 1 - ALPHA) -> Interval:
    """Mean over seeds and its t interval, mean ± t_{n-1} · s/√n, for every task at once.

    Args:
        values: shape (runs, tasks), or (runs,) for one task; values that are not finite (diverged seeds) are left out.
        confidence: coverage of the interval, in (0, 1).

    Returns:
        mean, low, high, each of shape (tasks,), or 0-d for one task; NaN bounds where fewer than two values are left, NaN
        mean where none is.

    Source: Student 1908.
    """
    array = np.asarray(values, dtype=np.float64)
    finite = np.isfinite(array)
    n = finite.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(finite, array, 0.0).sum(axis=0) / n
        error = np.sqrt((np.where(finite, array - mean, 0.0) ** 2).sum(axis=0) / (n - 1) / n)
        half = stats.t.ppf((1 + confidence) / 2, np.where(n > 1, n - 1, np.nan)) * error
    return Interval(np.asarray(mean), np.asarray(mean - half), np.asarray(mean + half))


def compare(
    arm: ArrayLike,
    reference: ArrayLike = 0.0,
    *,
    margin: ArrayLike | None = None,
    alpha: float = ALPHA,
    power: float = POWER,
    tests: ArrayLike = 1,
) -> Comparison:
    """Compare two arms seed by seed: paired t test, its intervals, and two one-sided tests for equivalence.

    Where the differences have no spread (all equal, up to the rounding of the values) the t statistic is 0/0 or ±∞ and means
    nothing: a metric on a grid can give that by chance, and p = 0 would claim certainty from three seeds. There the exact
    sign test takes its place, which for n equal differences gives p = 2^(1-n) and p_equivalence = 2^-n inside the margin;
    p is 1 where every difference is 0. The interval is then the point itself, NaN where n is too small for the sign test to
    reach the level (identical arms keep 0), and the power columns are NaN, since no spread is known.

    Args:
        arm, reference: metric per seed, shape (runs, tasks) or (runs,), finite; row s of both is seed s. Paired differences
            can be given as `arm` alone.
        margin: largest |difference| that does not matter, > 0, in the metric's units, a number or shape (tasks,); NaN or
            None where there is none.
        alpha: level of each test.
        power: probability of success for which `mde` and `seeds_needed` are computed.
        tests: size of the family the task belongs to, a number or shape (tasks,); the power columns use α/tests, Holm's
            strictest step, so that they hold whatever the family's other members show. p-values and intervals are raw.

    Returns:
        Comparison; every field is NaN that cannot be computed (no pair: all; one pair: all but the difference).

    Raises:
        ValueError: a value is not finite, or a margin is not positive.

    Source: Student 1908; Schuirmann 1987 for the equivalence tests; docs/method.md, "Contrasts and verdicts".
    """
    first, second = np.broadcast_arrays(np.asarray(arm), np.asarray(reference))
    # Spread below this share of the values is rounding; a float32 metric keeps its coarser rounding after the widening.
    types = [values.dtype for values in (first, second) if np.issubdtype(values.dtype, np.floating)]
    rounding = max(2.0**-46, *(8 * float(np.finfo(kind).eps) for kind in types), 0.0)
    first, second = np.atleast_1d(first).astype(np.float64), np.atleast_1d(second).astype(np.float64)
    n, shape = len(first), first.shape[1:]
    columns = int(np.prod(shape))
    first, second = first.reshape(n, columns), second.reshape(n, columns)
    margins = np.broadcast_to(np.asarray(np.nan if margin is None else margin, dtype=np.float64), shape).reshape(columns)
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise ValueError("arm, reference: values that are not finite; leave the diverged seeds out of both arms first")
    if (margins <= 0).any():
        raise ValueError(f"margin: {margins.min():g} leaves no room for equivalence; give a number above 0")

    result = {name: np.full(columns, np.nan) for name in _NUMBERS}
    differences = first - second
    identical = (differences == 0).all(axis=0) & (n > 0)
    if n:
        result["difference"] = differences.mean(axis=0)
    if n > 1:
        scale = np.maximum(np.abs(first), np.abs(second)).max(axis=0)
        flat = np.ptp(differences, axis=0) <= rounding * scale
        spread = np.flatnonzero(~flat)
        if spread.size:
            test = stats.ttest_rel(first[:, spread], second[:, spread])
            bounds = margins[spread]
            deviation = differences[:, spread].std(axis=0, ddof=1)
            level = alpha / np.broadcast_to(np.asarray(tests), shape).reshape(columns)[spread]
            result["p"][spread] = test.pvalue
            result["ci_low"][spread], result["ci_high"][spread] = test.confidence_interval(1 - alpha)
            result["equivalence_low"][spread], result["equivalence_high"][spread] = test.confidence_interval(1 - 2 * alpha)
            result["p_equivalence"][spread] = DescrStatsW(differences[:, spread]).ttost_mean(-bounds, bounds)[0]
            result["mde"][spread] = minimum_detectable_effect(deviation, n, alpha=level, power=power)
            result["seeds_needed"][spread] = seeds_needed(
                deviation, result["difference"][spread], bounds, alpha=level, power=power
            )
        for column in np.flatnonzero(flat):
            _compare_without_spread(result, int(column), differences[:, column], float(margins[column]), alpha)
    shaped = {name: values.reshape(shape) for name, values in result.items()}
    return Comparison(**shaped, identical=identical.reshape(shape), n=n)


def _compare_without_spread(
    result: dict[str, FloatArray], column: int, differences: FloatArray, margin: float, alpha: float
) -> None:
    """Fill one column of a comparison whose differences are all equal, by sign tests (see `compare`)."""
    middle, above, below = result["difference"][column], int((differences > 0).sum()), int((differences < 0).sum())
    p = _sign_test(above, above + below, "two-sided")
    result["p"][column] = p
    if above + below == 0 or p <= alpha:
        result["ci_low"][column] = result["ci_high"][column] = middle
    if above + below == 0 or p <= 2 * alpha:
        result["equivalence_low"][column] = result["equivalence_high"][column] = middle
    if not np.isnan(margin):
        inside = ((differences > -margin).sum(), (differences < margin).sum())
        result["p_equivalence"][column] = max(_sign_test(int(k), len(differences), "greater") for k in inside)


@cache
def _sign_test(successes: int, n: int, alternative: Literal["two-sided", "greater"]) -> float:
    return float(stats.binomtest(successes, n, 0.5, alternative=alternative).pvalue) if n else 1.0


def holm(pvalues: ArrayLike, size: int | None = None) -> FloatArray:
    """Holm's step-down adjustment over one family.

    Args:
        pvalues: raw p-values, shape (tests,); NaN marks a test that was not made: it stays NaN and is not counted.
        size: number of tests the family declared, at least the number made; those that were not made then count as if
            their p were 1, so that the family does not shrink with the data. Default: the number made.

    Returns:
        adjusted p-values, shape (tests,), each at least its raw one.

    Raises:
        ValueError: size is below the number of tests made.

    Source: Holm 1979, by statsmodels' multipletests.
    """
    raw = np.asarray(pvalues, dtype=np.float64)
    made = ~np.isnan(raw)
    count = int(made.sum())
    size = count if size is None else size
    if size < count:
        raise ValueError(f"size: {size} is below the {count} tests made; give the declared number of tests")
    adjusted = np.full(raw.shape, np.nan)
    if count:
        adjusted[made] = multipletests([*raw[made], *[1.0] * (size - count)], method="holm")[1][:count]
    return adjusted


def decidable(n: ArrayLike, lost: ArrayLike = 0) -> NDArray[np.bool_]:
    """Whether a comparison may have a verdict: at least 3 pairs, and no more than a tenth of the pairs lost.

    Args:
        n: pairs compared, shape (tasks,).
        lost: pairs left out because a seed diverged or lacks an arm, shape (tasks,).

    Source: docs/method.md, "Contrasts and verdicts".
    """
    used, gone = np.asarray(n), np.asarray(lost)
    return np.asarray((used >= FEWEST_SEEDS) & (10 * gone <= used + gone))


def verdict(
    p: ArrayLike, p_equivalence: ArrayLike, identical: ArrayLike, n: ArrayLike, lost: ArrayLike = 0, alpha: float = ALPHA
) -> NDArray[np.str_]:
    """What each comparison shows, as a member of VERDICTS, shape (tasks,).

    In this order: inconclusive where not `decidable`; identical where every paired difference is exactly 0; then by the two
    tests at level α, "different but negligible" where both reject, "different" where only the first does, "equivalent" where
    only the second does, "inconclusive" where neither does. Each kind of false claim (a difference that is 0, an equivalence
    that is beyond the margin) is made with probability at most α, over the family when the p-values are Holm's.

    Args:
        p, p_equivalence: p-values, adjusted within a family, shape (tasks,); NaN does not reject.
        identical: shape (tasks,).
        n, lost: pairs compared and left out, shape (tasks,).
        alpha: level.

    Source: docs/method.md, "Contrasts and verdicts".
    """
    different, negligible = np.asarray(p) < alpha, np.asarray(p_equivalence) < alpha
    rules = [~decidable(n, lost), np.asarray(identical), different & negligible, different, negligible]
    words = ["inconclusive", "identical", "different but negligible", "different", "equivalent"]
    return np.select(rules, words, "inconclusive")
