"""Estimates over batches against plain NumPy: the delta method with numerical gradients, edge cases, invariances."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from bnstudy.batchnorm.conventions import EMA_STATISTICS
from bnstudy.batchnorm.theory import layer_ratios, noise_of_average
from bnstudy.training.measuring.estimates import (
    inverse_effective_size,
    over_channels,
    ratio_of_means,
    squared_variation,
    total_variance,
    varying,
)


def drawn(seed: int, batches: int = 30, replicas: int = 2, channels: int = 5, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    """Batch means and biased variances whose channels have something in common."""
    random = np.random.default_rng(seed)
    shared = random.normal(size=(batches, replicas, 1))
    means = scale * (random.normal(size=(batches, replicas, channels)) + shared + 3)
    return torch.from_numpy(means), torch.from_numpy(scale**2 * random.gamma(3.0, size=means.shape))


ALL = torch.ones(2, 5, dtype=torch.bool)


def test_the_inverse_size_and_its_error_are_numpys_delta_method_with_a_numerical_gradient() -> None:
    means, variances = drawn(0)
    alive = ALL.clone()
    alive[1, 3] = False
    found = inverse_effective_size(means, variances, alive)
    for replica in range(2):
        kept = alive[replica].numpy()
        mu, s2 = means[:, replica].numpy()[:, kept], variances[:, replica].numpy()[:, kept]
        squares = (mu - mu.mean(0)) ** 2
        point = np.concatenate([mu.var(0, ddof=1), s2.mean(0)])

        def average(at: Any) -> float:
            between, within = np.split(at, 2)
            return float(np.mean(between / (between + within)))

        steps = 1e-6 * np.eye(len(point))
        gradient = np.array([(average(point + step) - average(point - step)) / 2e-6 for step in steps])
        covariance = np.cov(np.concatenate([squares, s2], 1).T, ddof=1) / len(mu)
        assert float(found.value[replica]) == pytest.approx(average(point), rel=1e-12)
        assert float(found.error[replica]) == pytest.approx(math.sqrt(gradient @ covariance @ gradient), rel=1e-6)


def test_the_ratio_of_means_and_its_error_are_close_to_the_jackknifes() -> None:
    random = np.random.default_rng(1)
    above, below = random.gamma(4.0, size=(2, 200, 3))
    below = below + 0.5 * above
    found = ratio_of_means(torch.from_numpy(above), torch.from_numpy(below))
    np.testing.assert_allclose(found.value, above.mean(0) / below.mean(0), rtol=1e-12)
    left = (above.sum(0) - above) / (below.sum(0) - below)
    jackknife = np.sqrt((len(left) - 1) * left.var(0))
    np.testing.assert_allclose(found.error, jackknife, rtol=0.02)


def test_a_mean_has_the_usual_standard_error() -> None:
    values = torch.from_numpy(np.random.default_rng(2).normal(size=(50, 2)))
    found = ratio_of_means(values, torch.ones_like(values))
    np.testing.assert_allclose(found.error, values.numpy().std(0, ddof=1) / math.sqrt(50), rtol=1e-12)


@given(st.integers(0, 2**32 - 1), st.floats(1e-3, 1e3), st.permutations(range(12)))
def test_scale_and_order_of_batches_do_not_matter(seed: int, scale: float, order: list[int]) -> None:
    means, variances = drawn(seed, batches=12)
    scaled = inverse_effective_size(scale * means[order], scale**2 * variances[order], ALL)
    for one, other in zip(inverse_effective_size(means, variances, ALL), scaled, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=0)


@given(st.integers(0, 2**32 - 1), st.integers(2, 20))
def test_the_inverse_size_lies_between_zero_and_one(seed: int, batches: int) -> None:
    value, error = inverse_effective_size(*drawn(seed, batches=batches), ALL)
    assert ((value > 0) & (value < 1) & (error >= 0)).all()


def test_means_that_do_not_vary_make_a_batch_worth_infinitely_many_samples() -> None:
    means, variances = drawn(3)
    value, error = inverse_effective_size(torch.full_like(means, 2.0), variances, ALL)
    assert value.tolist() == error.tolist() == [0.0, 0.0]


def test_constant_channels_change_nothing_and_no_channel_at_all_gives_no_number() -> None:
    means, variances = drawn(4)
    alive = ALL.clone()
    alive[:, 2] = False
    without = inverse_effective_size(means[..., [0, 1, 3, 4]], variances[..., [0, 1, 3, 4]], ALL[:, :4])
    means[..., 2], variances[..., 2] = 7.0, 0.0
    for one, other in zip(without, inverse_effective_size(means, variances, alive), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=0)
    assert all(part.isnan().all() for part in inverse_effective_size(means, variances, torch.zeros_like(alive)))


def test_a_channel_that_is_no_number_spoils_its_own_replica_only() -> None:
    means, variances = drawn(5)
    means[3, 0, 1] = math.nan
    alive = varying(means.mean(0), total_variance(means, variances))
    assert alive.all()  # what is no number must show
    value, error = inverse_effective_size(means, variances, alive)
    assert value.isnan().tolist() == error.isnan().tolist() == [True, False]
    assert over_channels(torch.tensor([[math.nan, 1.0]]), torch.tensor([[False, True]])).tolist() == [1.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rounding_of_a_constant_is_no_variation(dtype: torch.dtype) -> None:
    step = torch.finfo(dtype).eps
    means = torch.tensor([0.0, 1e3, 1e3, 1.0, 0.0], dtype=dtype)
    variances = torch.tensor([0.0, 0.0, (4 * step * 1e3) ** 2, 1e-6, 1e-12], dtype=dtype)
    assert varying(means, variances).tolist() == [False, False, False, True, True]
    broken = torch.tensor([math.nan, math.inf], dtype=dtype)
    assert varying(torch.tensor([1.0, torch.finfo(dtype).max / 2], dtype=dtype), broken).tolist() == [True, True]


def test_one_batch_is_refused() -> None:
    means, variances = drawn(6, batches=1)
    with pytest.raises(ValueError, match="batches: 1 have no variance of their means; use 2 or more"):
        inverse_effective_size(means, variances, ALL)
    with pytest.raises(ValueError, match="batches: 1 give no standard error; use 2 or more"):
        ratio_of_means(means[..., 0], means[..., 1])


def test_the_squared_variation_and_its_error_are_close_to_the_jackknifes() -> None:
    _, variances = drawn(5, batches=200)
    found = squared_variation(variances, ALL)
    for replica in range(2):
        x = variances[:, replica].numpy()

        def value(rows: Any) -> float:
            return float((rows.var(0, ddof=1) / rows.mean(0) ** 2).mean())

        assert float(found.value[replica]) == pytest.approx(value(x), rel=1e-12)
        left_out = np.array([value(np.delete(x, row, 0)) for row in range(len(x))])
        jackknife = math.sqrt((len(x) - 1) * left_out.var())
        assert float(found.error[replica]) == pytest.approx(jackknife, rel=0.1)


@pytest.mark.parametrize("m", [2, 4, 16])
def test_variances_of_gaussian_batches_vary_by_two_over_their_degrees_of_freedom(m: int) -> None:
    variances = torch.from_numpy(np.random.default_rng(m).normal(size=(4000, 1, 8, m)).var(-1))
    found = squared_variation(variances, torch.ones(1, 8, dtype=torch.bool))
    assert float((found.value - 2 / (m - 1)) / found.error) == pytest.approx(0, abs=4)


@pytest.mark.parametrize("statistic", EMA_STATISTICS)
def test_the_noise_of_a_moving_average_is_that_of_simulated_gaussian_batches(statistic: str) -> None:
    m, alpha, steps = 16, 0.1, 120
    random = np.random.default_rng(7)
    weights, square = alpha * (1 - alpha) ** np.arange(steps), alpha / (2 - alpha)
    moments = []
    for _ in range(40):
        x = random.normal(size=(500, steps, m))
        means, biased = x.mean(2), x.var(2)
        mean, variance = means @ weights, biased @ weights
        if statistic == "ema_unbiased":
            variance *= m / (m - 1)
        if statistic == "ema_total":
            variance += ((means - mean[:, None]) ** 2) @ weights / (1 - square)
        moments += list((1 + mean**2) / variance)
    stored = statistic.removeprefix("ema_")
    variation = 2 / (m - 1) if stored != "total" else 2 / (m - 1) * (1 - 1 / m) ** 2 + 2 / m**2
    noise = noise_of_average(square, 1 / m, variation)
    (plain,) = layer_ratios("biased", stored, m, [1 / m])
    assert noise > 1.005
    assert np.mean(moments) == pytest.approx(plain * noise, rel=2e-3)
