"""Interleaving and ratios, on a clock that the contenders move themselves."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scripts.benchmark.timing import Prepare, calls_lasting, interleave, ratio, spread


class FakeClock:
    """Stands still until somebody works."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def worker(self, seconds: float, log: list[str] | None = None, name: str = "") -> Callable[[], None]:
        def work() -> None:
            self.now += seconds
            if log is not None:
                log.append(name)

        return work


def contenders(clock: FakeClock, costs: dict[str, float], log: list[str]) -> dict[str, Prepare]:
    def prepare(name: str) -> Prepare:
        return lambda: clock.worker(costs[name], log, name)

    return {name: prepare(name) for name in costs}


costs = st.dictionaries(st.sampled_from("abcde"), st.integers(1, 1000).map(float), min_size=1)


@given(costs, st.integers(1, 6), st.integers(0, 2**32))
def test_every_contender_works_once_a_round_after_a_round_that_does_not_count(
    cost: dict[str, float], rounds: int, seed: int
) -> None:
    clock, log = FakeClock(), list[str]()
    seconds = interleave(contenders(clock, cost, log), rounds, clock, seed)
    assert seconds == {name: [value] * rounds for name, value in cost.items()}
    for first in range(0, len(log), len(cost)):
        assert sorted(log[first : first + len(cost)]) == sorted(cost)
    assert len(log) == len(cost) * (rounds + 1)


def test_the_order_of_rounds_varies_and_is_the_same_for_the_same_seed() -> None:
    def orders(seed: int) -> list[tuple[str, ...]]:
        clock, log = FakeClock(), list[str]()
        interleave(contenders(clock, {"a": 1.0, "b": 1.0, "c": 1.0}, log), 20, clock, seed)
        return [tuple(log[first : first + 3]) for first in range(0, len(log), 3)]

    assert orders(0) == orders(0) != orders(1)
    assert len(set(orders(0))) == 6


def test_preparing_is_off_the_clock() -> None:
    clock = FakeClock()

    def prepare() -> Callable[[], None]:
        clock.now += 1000
        return clock.worker(2.0)

    assert interleave({"a": prepare}, 3, clock) == {"a": [2.0, 2.0, 2.0]}


def test_a_round_is_needed() -> None:
    with pytest.raises(ValueError, match="rounds: 0"):
        interleave({}, 0, FakeClock())


@given(st.floats(1e-3, 1.0), st.floats(1e-3, 5.0))
def test_calls_are_the_smallest_power_of_two_that_lasts_long_enough(cost: float, least: float) -> None:
    clock = FakeClock()
    clock.now = 0.0
    calls = calls_lasting(clock.worker(cost), least, clock)
    assert calls & (calls - 1) == 0
    assert calls * cost >= least * (1 - 1e-6)
    assert calls == 1 or calls / 2 * cost < least * (1 + 1e-6)


seconds_by_round = st.lists(st.tuples(st.floats(0.5, 2.0), st.floats(0.5, 2.0)), min_size=1, max_size=30)


@given(seconds_by_round)
def test_a_ratio_is_the_median_of_the_rounds_own_ratios_within_its_interval(rounds: list[tuple[float, float]]) -> None:
    a, b = zip(*rounds, strict=True)
    found = ratio(a, b)
    assert found.value == pytest.approx(np.median([one / other for one, other in rounds]))
    assert min(one / other for one, other in rounds) <= found.low <= found.high <= max(one / other for one, other in rounds)
    assert found.rounds == len(rounds)


@given(st.lists(st.floats(0.1, 10.0), min_size=1, max_size=30), st.floats(0.25, 4.0))
def test_slow_spells_that_hit_both_contenders_leave_the_ratio_alone(spells: list[float], cost: float) -> None:
    found = ratio([spell * cost for spell in spells], spells)
    assert (found.low, found.value, found.high) == pytest.approx((cost, cost, cost))


def test_the_interval_holds_the_true_ratio_in_about_95_of_100_experiments() -> None:
    random = np.random.default_rng(0)
    hits = 0
    for _ in range(300):
        a, b = 1.3 * random.lognormal(0, 0.1, 40), random.lognormal(0, 0.1, 40)
        found = ratio(a.tolist(), b.tolist())
        hits += found.low <= 1.3 <= found.high
    assert 0.90 <= hits / 300 <= 0.99


def test_ratios_need_the_same_rounds_on_both_sides() -> None:
    for a, b in (([], []), ([1.0], [1.0, 2.0])):
        with pytest.raises(ValueError, match="rounds"):
            ratio(a, b)


def test_a_spread_is_median_and_quartiles() -> None:
    found = spread([4.0, 1.0, 2.0, 5.0, 3.0])
    assert (found.lower, found.median, found.upper) == (2.0, 3.0, 4.0)
