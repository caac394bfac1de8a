"""Names, aliases and pairs; Bessel's factor; what the conventions have in common and what they do not."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bnstudy.batchnorm.conventions import ALIASES, CONVENTIONS, Convention, bessel
from bnstudy.batchnorm.layers import BatchNorm1d

EPS = 1e-3
batches = st.tuples(st.integers(2, 9), st.integers(1, 4), st.integers(0, 1000))


def draw(n, channels, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, channels, generator=generator, dtype=torch.float64)


def layer(channels, convention, eps=EPS):
    made = BatchNorm1d(channels, eps, dtype=torch.float64, convention=convention)
    with torch.no_grad():
        made.weight.copy_(torch.linspace(-1, 2, channels))
        made.bias.copy_(torch.linspace(3, 0, channels))
    return made


def test_every_name_alias_and_pair_is_read():
    for name, convention in CONVENTIONS.items():
        assert Convention.parse(name) is convention
        assert Convention.parse(convention) is convention
        assert convention.name == name
        assert Convention.parse((convention.normalize, convention.accumulate)) == convention
        assert Convention.parse([convention.normalize, convention.accumulate]) == convention
        assert convention.own_statistic == f"ema_{convention.accumulate}"
    for alias, name in ALIASES.items():
        assert Convention.parse(alias).name == name
    assert (ALIASES["karpathy"], ALIASES["flax"], ALIASES["pytorch"]) == (
        "consistent_unbiased",
        "consistent_biased",
        "paper",
    )
    pairs = {(c.normalize, c.accumulate) for c in CONVENTIONS.values()}
    variances = ("biased", "unbiased")
    assert pairs == {*itertools.product(variances, variances), ("biased", "total")}


@pytest.mark.parametrize(
    "value", ["bessel", "", "Paper", ("biased",), ("biased", "biased", "biased"), None, 3, {"biased", "x"}]
)
def test_an_unknown_convention_is_refused_with_the_choices(value):
    with pytest.raises(ValueError, match=r"convention: .*paper, consistent_unbiased, consistent_biased, inverted.*flax"):
        BatchNorm1d(3, convention=value)


@pytest.mark.parametrize("value", [("biased", "Unbiased"), ("", "biased"), (["biased"], "biased")])
def test_a_pair_of_something_else_is_refused_with_the_choices(value):
    with pytest.raises(ValueError, match=r"convention: .*use 'biased' or 'unbiased'"):
        Convention.parse(value)


def test_bessel_is_m_over_m_minus_one():
    assert [bessel(2), bessel(3), bessel(0)] == [2.0, 1.5, 1.0]
    with pytest.raises(ValueError, match="m: 1 value"):
        bessel(1)


@pytest.mark.parametrize("name", CONVENTIONS)
def test_the_divisor_is_the_normalising_variance_over_the_biased_one(name):
    values = draw(7, 1, seed=0)
    correction = int(Convention.parse(name).normalize == "unbiased")
    expected = float(values.var(correction=correction) / values.var(correction=0))
    assert Convention.parse(name).divisor(7) == pytest.approx(expected, rel=1e-12)


@settings(max_examples=25, deadline=None)
@given(batches, st.sampled_from([("paper", "consistent_biased"), ("consistent_unbiased", "inverted")]))
def test_only_the_normalising_side_touches_training_and_the_buffers_differ_by_c(shape, pair):
    n, channels, _ = shape
    x = draw(*shape)
    c = n / (n - 1)
    unbiased, biased = (layer(channels, name) for name in pair)
    for step in range(3):
        outputs = []
        for one in (unbiased, biased):
            tensor = (x * (step + 1)).requires_grad_()
            output = one(tensor)
            output.square().sum().backward()
            outputs.append((output, tensor.grad, one.weight.grad, one.bias.grad, one.running_mean))
        for one, other in zip(*outputs, strict=True):
            assert torch.equal(one, other)
    start = 0.9**3  # what is left of the initial 1 in both averages
    torch.testing.assert_close(unbiased.running_var - start, c * (biased.running_var - start), rtol=1e-12, atol=1e-13)


@settings(max_examples=25, deadline=None)
@given(batches, st.integers(1, 3))
def test_consistent_unbiased_is_consistent_biased_with_rescaled_gain_and_eps_in_training_and_evaluation(shape, steps):
    n, channels, _ = shape
    c = n / (n - 1)
    unbiased, biased = layer(channels, "consistent_unbiased"), layer(channels, "consistent_biased", EPS / c)
    with torch.no_grad():
        biased.weight.div_(c**0.5)
        biased.running_var.div_(c)
    x = draw(*shape)
    for step in range(steps):
        torch.testing.assert_close(unbiased(x * (step + 1)), biased(x * (step + 1)), rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(unbiased.running_var, c * biased.running_var, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(unbiased.eval()(x), biased.eval()(x), rtol=1e-11, atol=1e-11)


@settings(max_examples=25, deadline=None)
@given(batches, st.sampled_from(list(CONVENTIONS)), st.floats(-50, 50), st.floats(0.1, 20))
def test_training_output_is_invariant_to_shift_and_with_rescaled_eps_to_scale(shape, convention, shift, scale):
    x = draw(*shape)
    expected = layer(shape[1], convention)(x)
    output = layer(shape[1], convention, EPS * scale**2)(x * scale + shift)
    torch.testing.assert_close(output, expected, rtol=1e-7, atol=1e-7)


@settings(max_examples=25, deadline=None)
@given(batches, st.sampled_from(list(CONVENTIONS)))
def test_training_output_and_buffers_do_not_depend_on_the_order_of_samples(shape, convention):
    x = draw(*shape)
    one, other = layer(shape[1], convention), layer(shape[1], convention)
    torch.testing.assert_close(one(x).flip(0), other(x.flip(0)), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(one.running_var, other.running_var, rtol=1e-12, atol=1e-12)


@settings(max_examples=15, deadline=None)
@given(st.integers(2, 4), st.integers(1, 3), st.sampled_from(list(CONVENTIONS)), st.integers(0, 99))
def test_a_ghost_batch_is_its_groups_normalised_one_by_one(size, groups, convention, seed):
    x = draw(size * groups, 2, seed)
    ghost = BatchNorm1d(2, dtype=torch.float64, convention=convention, norm_batch_size=size)
    alone = [BatchNorm1d(2, dtype=torch.float64, convention=convention) for _ in range(groups)]
    expected = torch.cat([single(part) for single, part in zip(alone, x.split(size), strict=True)])
    torch.testing.assert_close(ghost(x), expected, rtol=1e-12, atol=1e-12)
    # The total variance of a batch is more than the mean over its groups: their means differ.
    for name in ("running_mean",) if convention == "total" else ("running_mean", "running_var"):
        mean = torch.stack([getattr(single, name) for single in alone]).mean(0)
        torch.testing.assert_close(getattr(ghost, name), mean, rtol=1e-12, atol=1e-12)
    assert int(ghost.num_batches_tracked) == 1


def test_a_copy_under_another_convention_shares_nothing_with_the_first():
    one = layer(2, "paper")
    other = copy.deepcopy(one).set_convention("inverted")
    other(draw(4, 2, 0))
    assert one.convention.name == "paper"
    assert torch.equal(one.running_var, torch.ones(2, dtype=torch.float64))
