"""Oracles: published sample sizes for the one-sample t test, the noncentral t by quadrature, simulated truth."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from bnstudy.analysis.power import minimum_detectable_effect, seeds_needed
from bnstudy.analysis.statistics import compare

DRAWS = 20_000


def exact_power(effect: float, n: int, alpha: float) -> float:
    """Power of a one-sided t test at level alpha: P(Z + effect·√n > t·S), integrated over the distribution of S."""
    bound, df = stats.t.isf(alpha, n - 1), n - 1

    def given_spread(quantile: float) -> float:
        return float(stats.norm.sf(bound * np.sqrt(stats.chi2.ppf(quantile, df) / df) - effect * np.sqrt(n)))

    return float(integrate.quad(given_spread, 0, 1, limit=400)[0])


# Two-sided α = 0.05, power 0.8: Cohen's small, medium and large effects, as in every table.
@pytest.mark.parametrize(("effect", "n"), [(0.2, 199), (0.5, 34), (0.8, 15)])
def test_the_detectable_effect_gives_the_tables_numbers_of_runs(effect: float, n: int) -> None:
    assert minimum_detectable_effect(1.0, n) <= effect < minimum_detectable_effect(1.0, n - 1)


@pytest.mark.parametrize("n", [3, 4, 8, 16, 24, 100])
@pytest.mark.parametrize("tests", [1, 18, 5000])
def test_the_detectable_effect_is_right_at_the_levels_of_large_families(n: int, tests: int) -> None:
    # statsmodels' own solver fails here (effect -0.96 for 24 runs and 5000 tests), hence the bracketed root.
    effect = float(minimum_detectable_effect(1.0, n, alpha=0.05 / tests))
    assert exact_power(effect, n, 0.025 / tests) == pytest.approx(0.8, abs=1e-5)


@pytest.mark.parametrize("n", [8, 16])
def test_the_minimum_detectable_effect_is_found_four_times_in_five(n: int) -> None:
    effect = float(minimum_detectable_effect(0.003, n))
    found = compare(np.random.default_rng(n).normal(effect, 0.003, (n, DRAWS))).p < 0.05
    assert found.mean() == pytest.approx(0.8, abs=4 * np.sqrt(0.8 * 0.2 / DRAWS))


def test_a_comparison_states_its_power_at_the_level_of_its_family() -> None:
    values = np.random.default_rng(0).normal(0.9, 0.003, (8, 2))
    result = compare(values, 0.9, margin=0.002, tests=[1, 18])
    deviation = values.std(axis=0, ddof=1)
    np.testing.assert_allclose(result.mde[0], minimum_detectable_effect(deviation[0], 8))
    np.testing.assert_allclose(result.mde[1], minimum_detectable_effect(deviation[1], 8, alpha=0.05 / 18))
    np.testing.assert_array_equal(
        result.seeds_needed[1], seeds_needed(deviation[1], result.difference[1], 0.002, alpha=0.05 / 18)
    )


def equivalent(values: np.ndarray, margin: float) -> float:
    """Share of draws that two one-sided tests call equivalent, by hand: the power of thousands is not wanted here."""
    n = len(values)
    bound = stats.t.ppf(0.95, n - 1) * values.std(axis=0, ddof=1) / np.sqrt(n)
    return float((np.abs(values.mean(axis=0)) + bound < margin).mean())


@pytest.mark.parametrize("difference", [0.4, 0.8, 1.5])
def test_a_difference_beyond_the_margin_is_found_with_the_seeds_needed_and_not_with_one_less(difference: float) -> None:
    n = int(seeds_needed(1.0, difference, 0.3))
    assert n == seeds_needed(1.0, -difference, np.nan)
    assert minimum_detectable_effect(1.0, n) <= difference < minimum_detectable_effect(1.0, n - 1)
    found = compare(np.random.default_rng(n).normal(difference, 1, (n, DRAWS))).p < 0.05
    assert found.mean() > 0.8 - 4 * np.sqrt(0.8 * 0.2 / DRAWS)


@pytest.mark.parametrize(("difference", "margin"), [(0.0, 0.4), (0.0, 0.8), (0.02, 0.5), (0.1, 1.5)])
def test_equivalence_is_established_with_the_seeds_needed_where_the_estimate_is_small(
    difference: float, margin: float
) -> None:
    n = int(seeds_needed(1.0, difference, margin))
    assert equivalent(np.random.default_rng(n).normal(difference, 1, (n, DRAWS)), margin) > 0.8 - 0.012
    if difference == 0:  # then both sides count, and half of the failures each is all but exact
        assert equivalent(np.random.default_rng(n).normal(0, 1, (n - 1, DRAWS)), margin) < 0.8 + 0.012


def test_the_question_that_the_estimate_poses_decides() -> None:
    # 24 standard errors tell this difference from 0 at once; equivalence at the margin would take hundreds of seeds.
    assert seeds_needed(1.0, 0.95, 1.0) == seeds_needed(1.0, 0.95, np.nan) < seeds_needed(1.0, 0.01, 0.06)
    assert seeds_needed(1.0, 0.0, 0.5) < 60
    assert seeds_needed(1.0, 0.001, 0.5) == pytest.approx(seeds_needed(1.0, 0.0, 0.5), abs=1)


def test_seeds_needed_has_a_floor_of_three_and_a_ceiling_of_a_million() -> None:
    np.testing.assert_array_equal(seeds_needed(1.0, [0, 0, 100.0, 0], [100.0, 1e-6, np.nan, np.nan]), [3, np.inf, 3, np.inf])


@settings(max_examples=60, deadline=None)
@given(difference=st.floats(0, 2), margin=st.floats(0.05, 20), factor=st.floats(1, 5))
def test_a_wider_margin_never_needs_more_seeds(difference: float, margin: float, factor: float) -> None:
    assert seeds_needed(1.0, difference, margin * factor) <= seeds_needed(1.0, difference, margin)
