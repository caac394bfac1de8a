"""The translation formulas against moving averages computed here, in float64 NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bnstudy.batchnorm.conventions import CONVENTIONS
from bnstudy.errors import UserError
from bnstudy.frameworks.translate import rules
from bnstudy.frameworks.translate.frameworks import FRAMEWORKS, framework

FACTORS = [name for name, convention in CONVENTIONS.items() if convention.accumulate != "total"]


def average(variances: np.ndarray, alpha: float, factor: float) -> np.ndarray:
    v = np.ones(variances.shape[1])
    for s in variances:
        v = (1 - alpha) * v + alpha * factor * s
    return v


@settings(deadline=None)
@given(
    m=st.integers(2, 4096),
    alpha=st.floats(1e-4, 1.0),
    steps=st.integers(1, 40),
    seed=st.integers(0, 2**32 - 1),
    unbiased=st.booleans(),
)
def test_as_trained_is_what_a_moving_average_of_the_other_variance_holds(m, alpha, steps, seed, unbiased):
    biased = np.random.default_rng(seed).gamma(2.0, 1.0, (steps, 5))
    c = m / (m - 1)
    source, target = (average(biased, alpha, factor) for factor in ((c, 1.0) if unbiased else (1.0, c)))
    w = rules.start_share(alpha, steps, False)
    found = rules.as_trained(torch.from_numpy(source), 1 / c if unbiased else c, w, w).numpy()
    np.testing.assert_allclose(found, target, rtol=1e-12)


@settings(deadline=None)
@given(m=st.integers(2, 4096), alpha=st.floats(1e-4, 0.5), steps=st.integers(1, 300), seed=st.integers(0, 2**32 - 1))
def test_there_and_back_is_exact_to_rounding(m, alpha, steps, seed):
    w = rules.start_share(alpha, steps, False)
    c = m / (m - 1)
    variance = w + torch.rand(6, generator=torch.Generator().manual_seed(seed % 2**63)) * 3
    there = rules.as_trained(variance, c, w, w)
    assert there.dtype == torch.float32
    torch.testing.assert_close(rules.as_trained(there, 1 / c, w, w), variance, rtol=5e-7, atol=0)


def test_the_issue_formula_holds_to_the_letter():
    v_b, alpha, t, c = torch.tensor([0.7, 1.3], dtype=torch.float64), 0.1, 12, 32 / 31
    expected = c * (v_b - (1 - alpha) ** t) + (1 - alpha) ** t
    w = rules.start_share(alpha, t, False)
    torch.testing.assert_close(rules.as_trained(v_b, c, w, w), expected, rtol=1e-14, atol=0)


def test_averages_without_a_trace_of_their_start_are_only_rescaled():
    v = torch.tensor([0.2, 3.0])
    assert rules.start_share(None, 7, False) == 0.0
    assert rules.start_share(0.1, 7, True) == 0.0
    torch.testing.assert_close(rules.as_trained(v, 1.5, 0.0, 0.0), 1.5 * v)


def test_before_the_first_batch_nothing_is_rescaled():
    v = torch.ones(3)
    w = rules.start_share(0.1, 0, False)
    torch.testing.assert_close(rules.as_trained(v, 2.0, w, w), v)


def test_a_variance_below_the_share_of_its_start_is_refused():
    with pytest.raises(ValueError, match="below"):
        rules.as_trained(torch.tensor([0.5, 2.0]), 2.0, 0.9, 0.9)


@settings(deadline=None)
@given(st.floats(1e-8, 1e-2), st.floats(1e-8, 1e-2))
def test_folding_eps_into_the_gain_leaves_inference_alone(eps, new_eps):
    generator = torch.Generator().manual_seed(0)
    x, gamma, v = (torch.rand(8, dtype=torch.float64, generator=generator) for _ in range(3))
    folded = rules.fold(gamma, v, eps, new_eps)
    torch.testing.assert_close(folded * x / (v + new_eps).sqrt(), gamma * x / (v + eps).sqrt(), rtol=1e-13, atol=0)


@pytest.mark.parametrize("source", FACTORS)
@pytest.mark.parametrize("target", FACTORS)
def test_ratios_there_and_back_cancel(source, target):
    for ratio in (rules.normalising_ratio, rules.accumulating_ratio):
        there, back = (ratio(CONVENTIONS[a], CONVENTIONS[b], 4) for a, b in ((source, target), (target, source)))
        assert there * back == pytest.approx(1, rel=1e-15)
        assert any(there == pytest.approx(value) for value in (1, 4 / 3, 3 / 4))


def test_names_lead_to_conventions():
    assert framework("pytorch", "source") is FRAMEWORKS["torch"]
    assert framework("flax", "source").eps == 1e-5
    assert framework("consistent_unbiased", "source").eps is None
    with pytest.raises(UserError, match=r"^target: 'theano' is no framework or convention; use torch, tinygrad"):
        framework("theano", "target")
