"""The tables of docs/method.md, typed in by hand, simulations of single layers, and of wide networks at initialisation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bnstudy.batchnorm.conventions import CONVENTIONS
from bnstudy.batchnorm.theory import (
    activation_in_training,
    inverse_sizes,
    layer_ratios,
    noise_of_average,
    predict,
    stored_share,
)

SIZES = [2, 3, 4, 8, 64]


def _pair(name: str) -> tuple[str, str]:
    return CONVENTIONS[name].normalize, CONVENTIONS[name].accumulate


@pytest.mark.parametrize("m", SIZES)
@pytest.mark.parametrize("m_eff", [1.5, 4.0, 20.0, math.inf])
def test_the_predictions_are_the_table_of_the_method(m: int, m_eff: float) -> None:
    c, q = m / (m - 1), 1 / (1 - 1 / m_eff)
    table = {  # train, eval, eval/train
        "paper": (1, q / c, q / c),
        "consistent_unbiased": (1 / c, q / c, q),
        "consistent_biased": (1, q, q),
        "inverted": (1 / c, q, c * q),
        "total": (1, 1, 1),
    }
    for name, (train, evaluation, ratio) in table.items():
        prediction = predict(CONVENTIONS[name], m, m_eff)
        assert (prediction.train, prediction.evaluation) == pytest.approx((train, evaluation), rel=1e-12)
        assert prediction.ratio == pytest.approx(ratio, rel=1e-12)
        assert layer_ratios(*_pair(name), m, [1 / m_eff]) == pytest.approx([ratio], rel=1e-12)


@pytest.mark.parametrize("m", SIZES)
def test_for_independent_samples_unequal_divisors_give_equal_outputs_and_equal_ones_do_not(m: int) -> None:
    c = m / (m - 1)
    ratios = {name: predict(convention, m).ratio for name, convention in CONVENTIONS.items()}
    expected = {"paper": 1.0, "consistent_unbiased": c, "consistent_biased": c, "inverted": c**2, "total": 1.0}
    assert ratios == pytest.approx(expected, rel=1e-12)


@given(st.integers(2, 1000), st.floats(1.01, 1e6))
def test_only_the_total_variance_is_right_whatever_the_dependence(m: int, m_eff: float) -> None:
    assert stored_share("total", m, 1 / m_eff) == 1.0
    assert stored_share("unbiased", m, 1 / m_eff) == pytest.approx((1 - 1 / m_eff) * m / (m - 1))
    assert stored_share("biased", m, 1 / m_eff) < 1


@pytest.mark.parametrize("m", [2, 4, 16])
@pytest.mark.parametrize("name", CONVENTIONS)
def test_simulated_gaussian_batches_have_the_predicted_moments(m: int, name: str) -> None:
    random = np.random.default_rng(m)
    convention = CONVENTIONS[name]
    ddof = {"biased": 0, "unbiased": 1}
    x = random.standard_normal((200_000, m)) + 3.0
    normalised = x - x.mean(1, keepdims=True)
    train = (normalised**2).mean(1) / x.var(1, ddof=ddof[convention.normalize])
    if convention.accumulate == "total":
        stored = x.var(1).mean() + x.mean(1).var()
    else:
        stored = x.var(1, ddof=ddof[convention.accumulate]).mean()
    evaluation = ((x - x.mean()) ** 2).mean() / stored
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
    assert simulated == pytest.approx(noise_of_average(alpha / (2 - alpha), 1 / m, 2 / (m - 1)), rel=tolerance)


@pytest.mark.parametrize("rho", [-0.2, 0.3])
def test_dependent_samples_follow_m_eff_and_not_m(rho: float) -> None:
    m, random = 4, np.random.default_rng(1)
    covariance = np.full((m, m), rho) + (1 - rho) * np.eye(m)
    x = random.standard_normal((200_000, m)) @ np.linalg.cholesky(covariance).T
    m_eff = m / (1 + (m - 1) * rho)  # 1/m_eff = Var(μ_B)/σ²
    evaluation = (x**2).mean() / x.var(1, ddof=1).mean()
    assert evaluation == pytest.approx(predict(CONVENTIONS["paper"], m, m_eff).evaluation, rel=0.01)


@pytest.mark.parametrize("m", [2, 3, 4, 8, 32])
def test_the_relu_of_a_normalised_batch_has_the_moments_of_the_sphere(m: int) -> None:
    x = np.random.default_rng(m).standard_normal((1_000_000, m))
    x = (x - x.mean(1, keepdims=True)) / x.std(1, keepdims=True)
    relu = np.maximum(x, 0)
    block = activation_in_training(m)
    assert relu.mean() == pytest.approx(block.mean, rel=2e-3)
    assert relu.var() == pytest.approx(block.variance, rel=3e-3)
    assert relu.mean(1).var() / relu.var() == pytest.approx(block.inverse_size, rel=0.01, abs=1e-12)


def test_batch_means_behind_a_normalised_layer_hardly_vary() -> None:
    assert [1 / inverse_sizes(m, 2)[1] for m in (4, 8)] == pytest.approx([294.5, 317.8], rel=1e-3)
    assert inverse_sizes(2, 2)[1] == 0
    for m in (128, 1024):
        assert 30 < 1 / inverse_sizes(m, 2)[1] / m < 32


def _simulated(m: int, depth: int, skip: bool, width: int, batches: int) -> tuple[dict[str, list[float]], list[float]]:
    """Ratios of second moments and 1/m_eff of each layer of one wide random network, in NumPy."""
    random = np.random.default_rng(m)
    weights = [random.standard_normal((width, width), dtype=np.float32) / width**0.5 for _ in range(depth)]
    stream = random.standard_normal((batches * m, width), dtype=np.float32)
    kept, sizes = [], []
    for layer in range(depth):
        cut = stream.reshape(batches, m, width)
        means, biased = cut.mean(1), cut.var(1)
        between = means.var(0, ddof=1)
        kept.append((means.mean(0), biased.mean(0), between))
        sizes.append(float(between.mean() / (between + biased.mean(0)).mean()))
        block = np.maximum((cut - means[:, None]) / np.sqrt(biased[:, None]), 0).reshape(-1, width) @ weights[layer]
        stream = stream + block if skip else block
    ratios = {}
    for name, convention in CONVENTIONS.items():
        if convention.normalize == "unbiased":
            continue
        stream, ratios[name] = random.standard_normal((1000, width), dtype=np.float32), []
        for layer, (mean, biased, between) in enumerate(kept):
            stored = {"biased": biased, "unbiased": biased * m / (m - 1), "total": biased + between}[convention.accumulate]
            normalised = (stream - mean) / np.sqrt(stored)
            ratios[name].append(float((normalised**2).mean()))
            block = np.maximum(normalised, 0) @ weights[layer]
            stream = stream + block if skip else block
    return ratios, sizes


@pytest.mark.parametrize(("m", "skip"), [(4, False), (32, True)])
def test_a_wide_random_network_has_the_predicted_ratios_layer_by_layer(m: int, skip: bool) -> None:
    ratios, sizes = _simulated(m, 4, skip, width=768, batches=1600 // m)
    assert sizes == pytest.approx(inverse_sizes(m, 4, skip=skip), rel=0.1)
    for name, measured in ratios.items():
        predicted = layer_ratios(*_pair(name), m, inverse_sizes(m, 4, skip=skip), skip=skip)
        assert measured == pytest.approx(predicted, rel=0.03), name


@pytest.mark.slow
@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("m", [3, 4, 8, 32])
def test_eight_layers_of_a_wide_random_network_have_the_predicted_ratios(m: int, skip: bool) -> None:
    ratios, sizes = _simulated(m, 8, skip, width=3072, batches=6400 // m)
    assert sizes == pytest.approx(inverse_sizes(m, 8, skip=skip), rel=0.1)
    for name, measured in ratios.items():
        predicted = layer_ratios(*_pair(name), m, inverse_sizes(m, 8, skip=skip), skip=skip)
        assert measured == pytest.approx(predicted, rel=0.03), name


@pytest.mark.parametrize("m_eff", [1.0, 0.5, -2.0, math.nan])
def test_one_sample_or_less_has_no_variance(m_eff: float) -> None:
    with pytest.raises(ValueError, match="m_eff"):
        predict(CONVENTIONS["paper"], 4, m_eff)
    with pytest.raises(ValueError, match="m_eff"):
        inverse_sizes(4, 3, first_m_eff=m_eff)


@pytest.mark.parametrize("m", [1, 0, -3])
def test_a_batch_of_one_has_no_prediction(m: int) -> None:
    with pytest.raises(ValueError, match="use 2 or more"):
        predict(CONVENTIONS["paper"], m)
    with pytest.raises(ValueError, match="use 2 or more"):
        inverse_sizes(m, 3)


def test_a_network_without_layers_has_no_prediction() -> None:
    with pytest.raises(ValueError, match="depth: 0"):
        inverse_sizes(4, 0)
