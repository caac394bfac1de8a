"""Every convention against a float64 NumPy oracle: values, gradients, buffers, statistics."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from bnstudy.batchnorm.conventions import CONVENTIONS, EMA_STATISTICS
from bnstudy.batchnorm.inference import evaluating
from bnstudy.batchnorm.layers import BatchNorm1d, BatchNorm2d, BatchNorm3d
from tests.batchnorm.oracle import PAIRS, Oracle, backward, groups

SHAPES = [  # batches of one run, the last one uneven
    (BatchNorm1d, [(2, 3), (2, 3), (3, 3)]),
    (BatchNorm1d, [(8, 3), (8, 3), (5, 3)]),
    (BatchNorm1d, [(4, 3, 5), (4, 3, 5), (1, 3, 5)]),
    (BatchNorm2d, [(4, 3, 2, 3), (4, 3, 2, 3), (3, 3, 2, 3)]),
    (BatchNorm2d, [(1, 3, 1, 2)] * 3),
    (BatchNorm3d, [(3, 3, 2, 2, 2), (3, 3, 2, 2, 2), (2, 3, 2, 2, 2)]),
]


def close(actual, expected, tolerance=1e-10):
    np.testing.assert_allclose(actual.detach().numpy(), expected, rtol=tolerance, atol=tolerance)


def randomised(layer, rng):
    if layer.weight is not None:
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(rng.uniform(0.5, 2, 3)))
            layer.bias.copy_(torch.from_numpy(rng.normal(size=3)))
        return layer.weight.detach().numpy().copy(), layer.bias.detach().numpy().copy()
    return np.ones(3), np.zeros(3)


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize(("cls", "shapes"), SHAPES)
@pytest.mark.parametrize("momentum", [0.1, 0.7, None])
@pytest.mark.parametrize("everything", [False, True])
def test_values_gradients_and_buffers_match_numpy_over_several_uneven_batches(convention, cls, shapes, momentum, everything):
    rng = np.random.default_rng(0)
    eps = 1e-3
    layer = cls(3, eps, momentum, dtype=torch.float64, convention=convention)
    gamma, beta = randomised(layer, rng)
    if everything:
        layer.track_all_statistics()
    oracle = Oracle(3, convention, eps, momentum)
    for shape in shapes:
        x, dy = 3 + 2 * rng.normal(size=shape), rng.normal(size=shape)
        tensor = torch.from_numpy(x).requires_grad_()
        layer.zero_grad()
        output = layer(tensor)
        output.backward(torch.from_numpy(dy))
        close(output, oracle.train(x, gamma, beta))
        for actual, expected in zip(
            (tensor.grad, layer.weight.grad, layer.bias.grad),
            backward(x, dy, gamma, eps, PAIRS[convention][0]),
            strict=True,
        ):
            close(actual, expected)
        own = layer.convention.own_statistic
        close(layer.running_mean, oracle.ema(own)[0])
        close(layer.running_var, oracle.ema(own)[1])
    assert int(layer.num_batches_tracked) == len(shapes)
    probe = rng.normal(size=shapes[0])
    layer.eval()
    close(layer(torch.from_numpy(probe)), oracle.evaluate(probe, gamma, beta))
    for statistic in EMA_STATISTICS if everything else [own]:
        with evaluating(layer, statistic):
            close(layer(torch.from_numpy(probe)), oracle.evaluate(probe, gamma, beta, statistic))


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("everything", [False, True])
@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize(
    ("cls", "tail", "sizes", "size"),
    [
        (BatchNorm1d, (), (8, 8, 6, 5, 3), 3),  # remainders 2, 2, 0, 2, one group
        (BatchNorm2d, (2, 2), (4, 5, 1), 2),
        (BatchNorm2d, (2, 1), (3, 2), 1),
        (BatchNorm3d, (1, 2, 2), (6, 4), 4),
    ],
)
def test_ghost_batches_match_numpy(convention, everything, momentum, affine, cls, tail, sizes, size):
    rng = np.random.default_rng(1)
    layer = cls(3, 1e-4, momentum, affine, dtype=torch.float64, convention=convention, norm_batch_size=size)
    gamma, beta = randomised(layer, rng)
    if everything:
        layer.track_all_statistics()
    oracle = Oracle(3, convention, 1e-4, momentum, size)
    for n in sizes:
        x, dy = 5 + rng.normal(size=(n, 3, *tail)), rng.normal(size=(n, 3, *tail))
        tensor = torch.from_numpy(x).requires_grad_()
        layer.zero_grad()
        output = layer(tensor)
        output.backward(torch.from_numpy(dy))
        close(output, oracle.train(x, gamma, beta))
        pairs = zip(groups(x, size), groups(dy, size), strict=True)
        parts = [backward(part, grad, gamma, 1e-4, PAIRS[convention][0]) for part, grad in pairs]
        close(tensor.grad, np.concatenate([part[0] for part in parts]), 1e-9)
        if affine:
            close(layer.weight.grad, sum(part[1] for part in parts))
            close(layer.bias.grad, sum(part[2] for part in parts))
    own = layer.convention.own_statistic
    for statistic in EMA_STATISTICS if everything else [own]:
        mean, var = layer.ema(statistic)
        close(mean, oracle.ema(statistic)[0])
        close(var, oracle.ema(statistic)[1])
    probe = torch.from_numpy(rng.normal(size=(7, 3, *tail)))
    close(layer.eval()(probe), oracle.evaluate(probe.numpy(), gamma, beta))


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_without_tracking_evaluation_uses_the_batch_and_nothing_is_kept(convention):
    rng = np.random.default_rng(2)
    layer = BatchNorm1d(3, track_running_stats=False, dtype=torch.float64, convention=convention)
    x = rng.normal(size=(6, 3))
    expected = Oracle(3, convention).train(x, np.ones(3), np.zeros(3))
    close(layer(torch.from_numpy(x)), expected)
    close(layer.eval()(torch.from_numpy(x)), expected)
    assert list(layer.state_dict()) == ["weight", "bias"]
    with pytest.raises(ValueError, match="track_running_stats"):
        layer.track_all_statistics()


def test_tracking_everything_leaves_outputs_and_gradients_bit_identical():
    x = torch.randn(6, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    for convention in CONVENTIONS:
        plain = BatchNorm2d(3, convention=convention)
        tracked = copy.deepcopy(plain)
        tracked.track_all_statistics()
        results = []
        for layer in (plain, tracked):
            tensor = x.clone().requires_grad_()
            output = layer(tensor)
            output.square().sum().backward()
            results.append((output, tensor.grad, layer.weight.grad))
        for one, other in zip(*results, strict=True):
            assert torch.equal(one, other)
        torch.testing.assert_close(plain.running_var, tracked.running_var, rtol=1e-6, atol=0)


@pytest.mark.parametrize("momentum", [0.05, 0.3, None])
@pytest.mark.parametrize(("batch", "size"), [(4, None), (12, 4), (10, 4)])
def test_ema_total_is_unbiased_for_the_total_variance(momentum, batch, size):
    # Samples of a batch share a random offset a group of 2, so that m_eff < m: Bessel's factor would be wrong.
    generator = torch.Generator().manual_seed(0)
    channels, steps = 4_000, 60 if momentum == 0.05 else 25
    layer = BatchNorm1d(channels, momentum=momentum, dtype=torch.float64, norm_batch_size=size)
    with torch.no_grad():
        layer.running_var.fill_(3.0)  # E[s²_biased] of 4 values below, so that the start is no bias
        layer.track_all_statistics()
        for _ in range(steps + (40 if momentum else 0)):
            offsets = torch.randn(batch // 2, channels, generator=generator, dtype=torch.float64)
            layer(
                offsets.repeat_interleave(2, 0) * 3**0.5
                + torch.randn(batch, channels, generator=generator, dtype=torch.float64)
            )
    # total variance 3 + 1; the standard error over independent channels is far below the tolerance
    var = layer.ema("ema_total")[1]
    error = float(var.std() / channels**0.5)
    assert abs(float(var.mean()) - 4) < 4 * error
    assert abs(float(layer.ema("ema_unbiased")[1].mean()) - 4) > 10 * error


def test_ema_total_keeps_a_small_variance_of_a_large_mean():
    generator = torch.Generator().manual_seed(0)
    layers = [BatchNorm1d(50, momentum=0.1, dtype=dtype) for dtype in (torch.float32, torch.float64)]
    for layer in layers:
        layer.running_mean.fill_(1000.0)
        layer.track_all_statistics()
    for _ in range(100):
        x = 1000 + 0.1 * torch.randn(1, 50, generator=generator) + torch.zeros(4, 1)  # all of the variance is in the means
        for layer in layers:
            layer(x.to(layer.weight.dtype))
    single, double = (layer.ema_var_total.double() for layer in layers)
    torch.testing.assert_close(single, double, rtol=0.02, atol=0)


def test_the_total_variance_is_the_biased_one_after_one_batch_and_the_means_sample_variance_more_after_two():
    layer = BatchNorm1d(3, momentum=None, dtype=torch.float64, convention="total")
    first, second = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    layer(first)
    torch.testing.assert_close(layer.running_var, first.var(0, correction=0))
    layer(second)
    within = (first.var(0, correction=0) + second.var(0, correction=0)) / 2
    torch.testing.assert_close(layer.running_var, within + torch.stack([first.mean(0), second.mean(0)]).var(0))


@pytest.mark.parametrize("momentum", [0.02, 0.3])
def test_the_stored_total_variance_is_that_of_the_weighted_history(momentum):
    # v = E[s²_biased] + (E[μ_B²] - E[μ_B]²)/(1 - Σw²), with the moving average's weights w, the start included.
    generator = torch.Generator().manual_seed(0)
    layer = BatchNorm1d(3, momentum=momentum, dtype=torch.float64, convention="total")
    biased, mean, square = torch.ones(3).double(), torch.zeros(3).double(), torch.zeros(3).double()
    for samples in (4, 7, 2, 4, 30, 4):
        x = 5 + torch.randn(samples, 3, generator=generator, dtype=torch.float64)
        layer(x)
        biased = torch.lerp(biased, x.var(0, correction=0), momentum)
        mean = torch.lerp(mean, x.mean(0), momentum)
        square = torch.lerp(square, x.mean(0) ** 2, momentum)
    expected = biased + (square - mean**2) / (1 - momentum / (2 - momentum))
    torch.testing.assert_close(layer.running_var, expected, rtol=1e-12, atol=0)


def test_a_checkpoint_of_the_total_convention_goes_on_exactly_and_works_in_torch():
    generator = torch.Generator().manual_seed(0)
    whole, half = (BatchNorm1d(5, convention="total") for _ in range(2))
    batches = torch.randn(20, 4, 5, generator=generator)
    for x in batches[:10]:
        whole(x), half(x)
    resumed = BatchNorm1d(5, convention="total")
    resumed.load_state_dict(half.state_dict(), strict=True)
    for x in batches[10:]:
        whole(x), resumed(x)
    assert all(torch.equal(value, resumed.state_dict()[key]) for key, value in whole.state_dict().items())
    plain = torch.nn.BatchNorm1d(5)
    plain.load_state_dict(whole.state_dict(), strict=True)
    assert torch.equal(plain.eval()(batches[0]), whole.eval()(batches[0]))
