"""Compare running times on a machine that is never quite quiet: interleaved rounds, ratios within a round, medians."""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

Clock = Callable[[], float]
"""Seconds from any origin. The benchmarks take the process's CPU time: single-threaded work that never waits has no other
time of its own, and what other processes do reaches it through the caches only."""
Prepare = Callable[[], Callable[[], object]]
"""Makes ready, off the clock, and returns the work to be timed."""

_CONFIDENCE = 0.95
_RESAMPLES = 2000


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of a contender's seconds."""

    median: float
    lower: float
    upper: float


@dataclass(frozen=True)
class Ratio:
    """A ratio of two running times, with its 95 % bootstrap interval.

    Args:
        value: median over rounds of the ratio within a round.
        low, high: the interval.
        rounds: how many there were.
    """

    value: float
    low: float
    high: float
    rounds: int


def interleave(
    contenders: Mapping[str, Prepare], rounds: int, clock: Clock = time.process_time, seed: int = 0
) -> dict[str, list[float]]:
    """Time every contender once a round, so that a slow spell of the machine hits all of them alike.

    A round before the first warms up and is not counted. Each round has an order of its own, drawn from `seed`, so that none
    always follows the same neighbour's caches. Garbage collection waits until a turn is over.

    Args:
        contenders: by name, what to prepare and time.
        rounds: how many times, ≥ 1.
        clock: read before and after each turn.
        seed: of the orders.

    Returns:
        Seconds by name, one a round, in the order of rounds.

    Raises:
        ValueError: fewer than one round.
    """
    if rounds < 1:
        raise ValueError(f"rounds: {rounds} measures nothing; use 1 or more")
    shuffle = random.Random(seed).shuffle
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    order = list(contenders)
    for round_number in range(rounds + 1):
        shuffle(order)
        for name in order:
            elapsed = _turn(contenders[name](), clock)
            if round_number > 0:
                seconds[name].append(elapsed)
    return seconds


def calls_lasting(work: Callable[[], object], seconds: float, clock: Clock = time.process_time) -> int:
    """How many calls last at least `seconds`: a power of two, found by doubling, so that the clock's own cost is small."""
    calls = 1
    while True:
        start = clock()
        for _ in range(calls):
            work()
        if clock() - start >= seconds:
            return calls
        calls *= 2


def spread(seconds: Sequence[float]) -> Spread:
    """Median and quartiles."""
    lower, median, upper = np.quantile(np.asarray(seconds), (0.25, 0.5, 0.75))
    return Spread(float(median), float(lower), float(upper))


def ratio(numerator: Sequence[float], denominator: Sequence[float], seed: int = 0) -> Ratio:
    """Ratio of two contenders of one `interleave`, round by round.

    value = median_i(a_i/b_i). The interval takes the quantiles of that median over 2,000 resamples of the rounds, each pair
    (a_i, b_i) staying together.

    Args:
        numerator, denominator: seconds by round, of equal length.
        seed: of the resampling.

    Returns:
        The ratio with its interval; one round gives an interval of no width, which means nothing.

    Raises:
        ValueError: no rounds, or different numbers of them.

    Source: Efron 1979, percentile bootstrap.
    """
    if len(numerator) != len(denominator) or not numerator:
        raise ValueError(f"rounds: {len(numerator)} and {len(denominator)}; a ratio needs as many of both, 1 or more")
    ratios = np.asarray(numerator) / np.asarray(denominator)
    picks = np.random.default_rng(seed).integers(0, len(ratios), (_RESAMPLES, len(ratios)))
    tail = (1 - _CONFIDENCE) / 2
    low, high = np.quantile(np.median(ratios[picks], axis=1), (tail, 1 - tail))
    return Ratio(float(np.median(ratios)), float(low), float(high), len(ratios))


def _turn(work: Callable[[], object], clock: Clock) -> float:
    collecting = gc.isenabled()
    gc.disable()
    try:
        start = clock()
        work()
        return clock() - start
    finally:
        if collecting:
            gc.enable()
