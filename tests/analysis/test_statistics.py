"""Oracles: R's documented output on its `sleep` data, tables of t and of p.adjust, arithmetic by hand, simulated truth."""

import gc
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import binom

from bnstudy.analysis.statistics import VERDICTS, compare, decidable, holm, mean_interval, verdict

# R: datasets::sleep, extra hours of sleep of ten patients under two drugs; t.test(..., paired = TRUE) in its manual.
FIRST = np.array([0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0])
SECOND = np.array([1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4])
FIELDS = (
    "difference",
    "ci_low",
    "ci_high",
    "equivalence_low",
    "equivalence_high",
    "p",
    "p_equivalence",
    "mde",
    "seeds_needed",
)
DRAWS = 3000
FOUND = ("different", "different but negligible")
SAME = ("equivalent", "different but negligible")


@pytest.fixture(autouse=True)
def frozen_heap() -> Iterator[None]:
    """Make the garbage collection in every call of statsmodels' multipletests cheap: 0.1 s each, thousands of times."""
    gc.freeze()
    yield
    gc.unfreeze()


def at_most(count: int, rate: float, draws: int) -> bool:
    """Whether a count of errors is compatible with an error rate of at most `rate`; fails for a true rate once in 10⁴."""
    return count <= binom.ppf(1 - 1e-4, draws, rate)


def experiments(rng: np.random.Generator, shape: tuple[int, int, int], kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Arms and their shared reference, (seeds, draws, contrasts), paired through what a seed gives to all of its arms."""
    one = (*shape[:2], 1)
    if kind == "normal":
        seed = rng.normal(0.9, 0.02, one)
        arm, reference = (seed + rng.normal(0, 0.003, size) for size in (shape, one))
    elif kind == "heavy tails":
        seed = rng.normal(0.9, 0.02, one)
        arm, reference = (seed + 0.002 * rng.standard_t(3, size) for size in (shape, one))
    else:  # accuracy over 360 test samples, of which the arms differ in some
        contested = {"grid": 60, "coarse grid": 2}[kind]
        shared = rng.binomial(360 - contested, 0.95, one)
        arm, reference = ((shared + rng.binomial(contested, 0.5, size)) / 360 for size in (shape, one))
    return arm, np.broadcast_to(reference, shape)


def verdicts(arm: np.ndarray, reference: np.ndarray, margin: float) -> np.ndarray:
    """Verdicts of simulated studies, (draws, contrasts), each study one family."""
    result = compare(arm, reference, margin=margin)
    adjusted = [np.array([holm(study) for study in p]) for p in (result.p, result.p_equivalence)]
    return verdict(*adjusted, result.identical, result.n)


def test_the_interval_of_one_to_five_is_that_of_the_t_table() -> None:
    mean, low, high = mean_interval([1.0, 2.0, 3.0, 4.0, 5.0])
    assert mean == 3
    half = 2.7764451 * np.sqrt(2.5 / 5)  # t(0.975; 4)
    np.testing.assert_allclose([low, high], [3 - half, 3 + half], rtol=1e-7)


def test_the_interval_leaves_diverged_seeds_out_of_their_own_column_only() -> None:
    values = np.array([[1.0, 4.0, np.nan, 7.0], [3.0, np.nan, np.nan, 7.0], [5.0, np.inf, np.nan, 7.0]])
    mean, low, high = mean_interval(values)
    np.testing.assert_array_equal(mean, [3, 4, np.nan, 7])
    half = 4.3026527 * 2 / np.sqrt(3)  # t(0.975; 2)
    np.testing.assert_allclose(low, [3 - half, np.nan, np.nan, 7], rtol=1e-7)
    np.testing.assert_allclose(high, [3 + half, np.nan, np.nan, 7], rtol=1e-7)


def test_the_paired_test_gives_what_r_prints_for_its_sleep_data() -> None:
    result = compare(FIRST, SECOND)
    assert result.n == 10
    np.testing.assert_allclose(result.difference, -1.58)
    np.testing.assert_allclose(result.p, 0.002833, atol=5e-7)
    np.testing.assert_allclose([result.ci_low, result.ci_high], [-2.4598858, -0.7001142], atol=5e-8)


def test_the_equivalence_test_is_the_larger_of_two_one_sided_t_tests() -> None:
    error = 1.2299955 / np.sqrt(10)  # sd of the sleep differences
    margin = 1.58 + 1.8331129 * error  # t(0.95; 9): the nearer bound is then rejected at exactly 0.05
    result = compare(FIRST, SECOND, margin=margin)
    np.testing.assert_allclose(result.p_equivalence, 0.05, rtol=1e-6)
    np.testing.assert_allclose(result.equivalence_low, -margin, rtol=1e-6)
    np.testing.assert_allclose(compare(FIRST, SECOND, margin=1.58).p_equivalence, 0.5, rtol=1e-12)


def test_columns_are_compared_as_if_each_were_alone() -> None:
    rng = np.random.default_rng(0)
    arm, reference = rng.normal(size=(2, 7, 5))
    arm[:, 3] = reference[:, 3]
    margins = np.array([0.5, 1.0, np.nan, 0.3, 2.0])
    together = compare(arm, reference, margin=margins, tests=[1, 2, 3, 4, 5])
    for k in range(5):
        alone = compare(arm[:, k], reference[:, k], margin=margins[k], tests=k + 1)
        for name in FIELDS:
            np.testing.assert_allclose(getattr(together, name)[k], getattr(alone, name), rtol=1e-12, err_msg=name)
        assert together.identical[k] == alone.identical == (k == 3)


def test_identical_arms_have_no_evidence_of_difference_and_a_sign_test_of_equivalence() -> None:
    result = compare(SECOND, SECOND, margin=0.1)
    assert result.identical
    assert result.difference == result.ci_low == result.ci_high == result.equivalence_low == result.equivalence_high == 0
    assert result.p == 1
    assert result.p_equivalence == pytest.approx(2.0**-10)
    assert np.isnan(result.mde)
    assert np.isnan(result.seeds_needed)


@pytest.mark.parametrize("n", [3, 5, 6, 16])
def test_a_constant_difference_is_judged_by_signs_and_never_as_certain(n: int) -> None:
    reference = np.random.default_rng(n).uniform(size=n)
    result = compare(reference + 0.1, reference, margin=0.2)
    assert not result.identical
    assert result.p == pytest.approx(2.0 ** (1 - n))
    assert result.p_equivalence == pytest.approx(2.0**-n)
    # The range of n values covers the median with probability 1 - 2^(1-n); below 6 seeds that is under 95 %.
    expected = 0.1 if n >= 6 else np.nan
    np.testing.assert_allclose([result.ci_low, result.ci_high], expected)
    assert compare(reference + 0.1, reference, margin=0.05).p_equivalence == 1


def test_a_constant_difference_of_float32_accuracies_is_seen_through_their_rounding() -> None:
    correct = np.array([2013, 4127, 8995, 6250, 9101, 3077, 7004, 1199])
    arm, reference = ((correct + 1) / 10_000).astype(np.float32), (correct / 10_000).astype(np.float32)
    assert np.ptp(arm.astype(np.float64) - reference.astype(np.float64)) > 0
    assert compare(arm, reference).p == pytest.approx(2.0**-7)


def test_too_few_pairs_leave_the_numbers_open() -> None:
    one, none = compare([0.3], [0.1], margin=1.0), compare(np.empty((0, 2)), np.empty((0, 2)), margin=1.0)
    assert one.difference == pytest.approx(0.2)
    assert all(np.isnan(getattr(one, name)) for name in FIELDS[1:])
    assert all(np.isnan(getattr(none, name)).all() for name in FIELDS)
    assert not none.identical.any()


def test_values_and_margins_that_cannot_be_compared_are_refused() -> None:
    with pytest.raises(ValueError, match="not finite"):
        compare([1.0, np.nan, 2.0], [1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="margin: 0 "):
        compare([1.0, 2.0, 4.0], [1.0, 2.0, 3.0], margin=0.0)


def test_holm_gives_what_r_gives() -> None:
    # R: p.adjust(c(0.01, 0.04, 0.03, 0.005), "holm")
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])


def test_holm_does_not_count_what_was_not_tested_unless_it_was_declared() -> None:
    np.testing.assert_allclose(holm([0.01, np.nan, 0.03]), [0.02, np.nan, 0.03])
    np.testing.assert_allclose(holm([0.01, np.nan, 0.03], size=4), [0.04, np.nan, 0.09])
    assert np.isnan(holm([np.nan, np.nan])).all()
    assert holm([]).shape == (0,)
    with pytest.raises(ValueError, match="size: 1 is below the 2 tests"):
        holm([0.1, 0.2], size=1)


def test_a_tenth_of_the_pairs_may_be_lost_and_no_more() -> None:
    np.testing.assert_array_equal(decidable([9, 8, 16, 15, 14, 3, 2], [1, 1, 0, 1, 2, 0, 0]), [1, 0, 1, 1, 0, 1, 0])


def test_every_verdict_follows_from_the_two_tests() -> None:
    p, equivalence = [0.01, 0.01, 0.2, 0.2, 0.01, np.nan], [0.2, 0.01, 0.01, 0.2, np.nan, np.nan]
    expected = ["different", "different but negligible", "equivalent", "inconclusive", "different", "inconclusive"]
    assert verdict(p, equivalence, False, 8).tolist() == expected
    assert verdict(p, equivalence, True, 8).tolist() == ["identical"] * 6
    assert verdict(p, equivalence, [True, False] * 3, 2).tolist() == ["inconclusive"] * 6
    assert verdict(p, equivalence, False, 8, 1).tolist() == ["inconclusive"] * 6
    assert verdict(0.05, 0.05, False, 8).item() == "inconclusive"
    assert set(expected) | {"identical"} == set(VERDICTS)


runs = arrays(np.float64, st.tuples(st.integers(3, 9), st.just(2)), elements=st.integers(-50, 50).map(lambda k: k / 64))
margins = st.integers(1, 200).map(lambda k: k / 128)
probabilities = st.lists(st.floats(0, 1) | st.just(float("nan")), max_size=12)


@settings(max_examples=60, deadline=None)
@given(values=runs, margin=margins)
def test_swapping_the_arms_turns_the_sign_and_keeps_the_verdict(values: np.ndarray, margin: float) -> None:
    forth, back = compare(values[:, 0], values[:, 1], margin=margin), compare(values[:, 1], values[:, 0], margin=margin)
    assert forth.difference == -back.difference
    np.testing.assert_array_equal([forth.ci_low, forth.ci_high], [-back.ci_high, -back.ci_low])
    np.testing.assert_allclose([forth.p, forth.p_equivalence], [back.p, back.p_equivalence], rtol=1e-10, atol=1e-300)
    words = [verdict(r.p, r.p_equivalence, r.identical, r.n).item() for r in (forth, back)]
    assert words[0] == words[1]


@settings(max_examples=60, deadline=None)
@given(values=runs, margin=margins, power=st.integers(-20, 20))
def test_the_unit_of_the_metric_does_not_change_the_verdict(values: np.ndarray, margin: float, power: int) -> None:
    unit = 2.0**power
    one, other = compare(*values.T, margin=margin), compare(*(unit * values).T, margin=unit * margin)
    for name in ("p", "p_equivalence", "seeds_needed", "identical"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)
    for name in ("difference", "ci_low", "ci_high", "equivalence_low", "equivalence_high", "mde"):
        np.testing.assert_array_equal(unit * getattr(one, name), getattr(other, name), err_msg=name)


@settings(max_examples=60, deadline=None)
@given(values=runs, margin=margins, alpha=st.sampled_from([0.01, 0.05, 0.1]))
def test_intervals_and_tests_say_the_same(values: np.ndarray, margin: float, alpha: float) -> None:
    result = compare(*values.T, margin=margin, alpha=alpha)
    if np.isfinite(result.ci_low) and not result.identical and abs(result.p - alpha) > 1e-9:
        assert (result.p < alpha) == (not result.ci_low <= 0 <= result.ci_high)
    if np.isfinite(result.equivalence_low) and not result.identical and abs(result.p_equivalence - alpha) > 1e-9:
        inside = -margin < result.equivalence_low and result.equivalence_high < margin
        assert (result.p_equivalence < alpha) == inside


@settings(max_examples=60, deadline=None)
@given(pvalues=probabilities, more=st.integers(0, 5))
def test_holm_never_lowers_a_p_value_and_grows_with_the_family(pvalues: list[float], more: int) -> None:
    raw = np.array(pvalues, dtype=np.float64)
    made = int((~np.isnan(raw)).sum())
    adjusted, larger = holm(raw), holm(raw, size=made + more)
    tested = ~np.isnan(raw)
    np.testing.assert_array_equal(np.isnan(adjusted), ~tested)
    assert (adjusted[tested] >= raw[tested]).all()
    assert made == 0 or adjusted[tested].min() == min(1, made * raw[tested].min())
    assert (larger[tested] >= adjusted[tested]).all()
    order = np.argsort(raw[tested], kind="stable")
    assert (np.diff(adjusted[tested][order]) >= 0).all()


@pytest.mark.parametrize("n", [8, 16])
def test_intervals_over_seeds_cover_the_truth_as_often_as_stated(n: int) -> None:
    rng = np.random.default_rng(n)
    draws = 20_000
    arm, reference = experiments(rng, (n, draws, 1), "normal")
    mean, low, high = mean_interval(arm[..., 0])
    result = compare(arm[..., 0] + 0.004, reference[..., 0])
    assert mean.shape == (draws,)
    for inside, stated in (
        ((low <= 0.9) & (high >= 0.9), 0.95),
        ((result.ci_low <= 0.004) & (result.ci_high >= 0.004), 0.95),
        ((result.equivalence_low <= 0.004) & (result.equivalence_high >= 0.004), 0.90),
    ):
        assert binom.ppf(1e-4, draws, stated) <= inside.sum() <= binom.ppf(1 - 1e-4, draws, stated)


@pytest.mark.parametrize("n", [8, 16])
def test_a_study_of_equal_arms_finds_a_difference_no_more_often_than_stated(n: int) -> None:
    words = verdicts(*experiments(np.random.default_rng(n), (n, DRAWS, 9), "normal"), margin=0.005)
    assert at_most(int(np.isin(words, FOUND).any(axis=1).sum()), 0.05, DRAWS)
    assert (words != "inconclusive").mean() > (0.3 if n == 8 else 0.9)  # the study is able to find equivalence


@pytest.mark.parametrize("n", [8, 16])
def test_a_study_of_arms_apart_by_the_margin_finds_equivalence_no_more_often_than_stated(n: int) -> None:
    arm, reference = experiments(np.random.default_rng(n), (n, DRAWS, 9), "normal")
    words = verdicts(arm + 0.005, reference, margin=0.005)
    assert at_most(int(np.isin(words, SAME).any(axis=1).sum()), 0.05, DRAWS)
    words = verdicts(
        arm[..., :1] + 0.005, reference[..., :1], margin=0.005
    )  # alone, the test is exact: it errs at its level
    assert binom.ppf(1e-4, DRAWS, 0.05) <= np.isin(words, SAME).sum() <= binom.ppf(1 - 1e-4, DRAWS, 0.05)


@pytest.mark.slow
@pytest.mark.parametrize("n", [8, 16])
@pytest.mark.parametrize("kind", ["normal", "heavy tails", "grid", "coarse grid"])
def test_verdicts_err_no_more_than_stated_whichever_arms_differ_and_however_values_are_spread(kind: str, n: int) -> None:
    margin = {"normal": 0.005, "heavy tails": 0.005, "grid": 10 / 360, "coarse grid": 1 / 360}[kind]
    rng = np.random.default_rng(n)
    for apart, far in ((0, margin), (4, margin), (4, 10 * margin), (9, margin)):
        arm, reference = experiments(rng, (n, DRAWS, 9), kind)
        words = verdicts(arm + np.where(np.arange(9) < apart, far, 0.0), reference, margin)
        false_difference = np.isin(words[:, apart:], FOUND).any(axis=1)
        false_equivalence = np.isin(words[:, :apart], SAME).any(axis=1)
        assert at_most(int(false_difference.sum()), 0.05, DRAWS), (apart, far, "difference")
        assert at_most(int(false_equivalence.sum()), 0.05, DRAWS), (apart, far, "equivalence")
