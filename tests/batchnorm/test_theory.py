"""The table of second moments in docs/method.md, typed in by hand, and simulations of it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bnstudy.batchnorm.conventions import CONVENTIONS
from bnstudy.batchnorm.theory import independence_factor, predict

SIZES = [2, 3, 4, 8, 64]


@pytest.mark.parametrize("m", SIZES)
@pytest.mark.parametrize("m_eff", [1.5, 4.0, 20.0, math.inf])
def test_the_predictions_are_the_table_of_the_design(m: int, m_eff: float) -> None:
    c, q = m / (m - 1), 1 / (1 - 1 / m_eff)
    table = {  # train, eval, eval/train
        "paper": (1, q / c, q / c),
        "consistent_unbiased": (1 / c, q / c, q),
        "consistent_biased": (1, q, q),
        "inverted": (1 / c, q, c * q),
    }
    for name, (train, evaluation, ratio) in table.items():
        prediction = predict(CONVENTIONS[name], m, m_eff)
        assert (prediction.train, prediction.evaluation) == pytest.approx((train, evaluation), rel=1e-12)
        assert prediction.ratio == pytest.approx(ratio, rel=1e-12)


@pytest.mark.parametrize("m", SIZES)
def test_for_independent_samples_unequal_divisors_give_equal_outputs_and_equal_ones_do_not(m: int) -> None:
    c = m / (m - 1)
    ratios = {name: predict(convention, m).ratio for name, convention in CONVENTIONS.items()}
    assert ratios == pytest.approx(
        {"paper": 1.0, "consistent_unbiased": c, "consistent_biased": c, "inverted": c**2}, rel=1e-12
    )


@given(st.integers(2, 1000), st.floats(1.01, 1e6))
def test_a_pooled_variance_gives_moment_one_whatever_the_dependence(m: int, m_eff: float) -> None:
    for convention in CONVENTIONS.values():
        assert predict(convention, m, m_eff, "population_pooled").evaluation == 1.0
        own = predict(convention, m, m_eff, f"population_{convention.accumulate}")
        assert own == predict(convention, m, m_eff)


def test_the_noise_of_a_moving_average_is_the_formula_and_a_seventh_or_so_at_m_2() -> None:
    for m in SIZES:
        for alpha in (0.1, 0.3):
            plain, noisy = (predict(CONVENTIONS["paper"], m, momentum=momentum) for momentum in (None, alpha))
            by_hand = (1 + alpha / ((2 - alpha) * m)) * (1 + 2 * alpha / ((2 - alpha) * (m - 1)))
            assert noisy.evaluation / plain.evaluation == pytest.approx(by_hand, rel=1e-12)
    assert predict(CONVENTIONS["paper"], 2, momentum=0.1).evaluation == pytest.approx(1.14, abs=0.01)


def test_noise_belongs_to_a_moving_average_and_not_to_a_population_pass() -> None:
    noisy = predict(CONVENTIONS["paper"], 2, statistic="population_unbiased", momentum=0.1)
    assert noisy == predict(CONVENTIONS["paper"], 2, statistic="population_unbiased")


@pytest.mark.parametrize("m", [2, 4, 16])
@pytest.mark.parametrize("name", CONVENTIONS)
def test_simulated_gaussian_batches_have_the_predicted_moments(m: int, name: str) -> None:
    random = np.random.default_rng(m)
    convention = CONVENTIONS[name]
    ddof = {"biased": 0, "unbiased": 1}
    x = random.standard_normal((200_000, m)) + 3.0
    normalised = x - x.mean(1, keepdims=True)
    train = (normalised**2).mean(1) / x.var(1, ddof=ddof[convention.normalize])
    evaluation = ((x - x.mean()) ** 2).mean() / x.var(1, ddof=ddof[convention.accumulate]).mean()
    prediction = predict(convention, m)
    assert train.mean() == pytest.approx(prediction.train, rel=1e-9)
    assert evaluation == pytest.approx(prediction.evaluation, rel=0.01)


@pytest.mark.parametrize(("m", "alpha", "tolerance"), [(2, 0.1, 0.02), (4, 0.1, 0.005), (16, 0.1, 0.003), (4, 0.02, 0.003)])
def test_simulated_moving_averages_raise_the_evaluation_moment_as_predicted(m: int, alpha: float, tolerance: float) -> None:
    random = np.random.default_rng(0)
    channels, steps = 40_000, round(8 / alpha)
    mean, variance = np.zeros(channels), np.ones(channels)
    for _ in range(steps):
        x = random.standard_normal((m, channels))
        mean += alpha * (x.mean(0) - mean)
        variance += alpha * (x.var(0, ddof=1) - variance)
    simulated = ((1 + mean**2) / variance).mean()  # E over fresh x ~ N(0, 1) of (x - mean)²/variance
    assert simulated == pytest.approx(predict(CONVENTIONS["paper"], m, momentum=alpha).evaluation, rel=tolerance)


@pytest.mark.parametrize("rho", [-0.2, 0.3])
def test_dependent_samples_follow_m_eff_and_not_m(rho: float) -> None:
    m, random = 4, np.random.default_rng(1)
    covariance = np.full((m, m), rho) + (1 - rho) * np.eye(m)
    x = random.standard_normal((200_000, m)) @ np.linalg.cholesky(covariance).T
    m_eff = m / (1 + (m - 1) * rho)  # 1/m_eff = Var(μ_B)/σ²
    evaluation = (x**2).mean() / x.var(1, ddof=1).mean()
    assert evaluation == pytest.approx(predict(CONVENTIONS["paper"], m, m_eff).evaluation, rel=0.01)


def test_infinitely_many_samples_need_no_factor() -> None:
    assert independence_factor(math.inf) == 1.0


@pytest.mark.parametrize("m_eff", [1.0, 0.5, -2.0, math.nan])
def test_one_sample_or_less_has_no_variance(m_eff: float) -> None:
    with pytest.raises(ValueError, match="m_eff"):
        independence_factor(m_eff)


@pytest.mark.parametrize("statistic", ["batch", "biased", "ema_pooled", "population_ema"])
def test_statistics_without_a_prediction_are_refused_with_those_that_have_one(statistic: str) -> None:
    with pytest.raises(ValueError, match="population_pooled"):
        predict(CONVENTIONS["paper"], 4, statistic=statistic)


@pytest.mark.parametrize("m", [1, 0, -3])
def test_a_batch_of_one_has_no_prediction(m: int) -> None:
    with pytest.raises(ValueError, match="m: 1 value"):
        predict(CONVENTIONS["paper"], m)
