"""What layers see, against NumPy over all batches at once."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from bnstudy.diagnosis.evidence import evidence
from bnstudy.diagnosis.measure import Reference
from bnstudy.diagnosis.moments import KEPT, Inputs, watching
from bnstudy.diagnosis.normlayers import norm_layers


def seen(model: nn.Module, batches: list[torch.Tensor]) -> list[Inputs]:
    layers = norm_layers(model)
    with watching(layers) as watch, watch.on(), torch.no_grad():
        for batch in batches:
            model(batch)
            watch.end_of_batch()
    return list(watch.results().values())


def test_statistics_of_images_equal_numpys() -> None:
    random = torch.Generator().manual_seed(0)
    batches = [torch.randn(n, 3, 4, 5, generator=random, dtype=torch.float64) * 2 + 1 for n in (8, 8, 8, 5)]
    (inputs,) = seen(nn.BatchNorm2d(3, dtype=torch.float64).eval(), batches)
    arrays = [batch.numpy() for batch in batches]
    flat = np.concatenate([array.transpose(1, 0, 2, 3).reshape(3, -1) for array in arrays], 1)
    population = inputs.population
    np.testing.assert_allclose(population.mean, flat.mean(1), rtol=1e-12)
    np.testing.assert_allclose(population.total, flat.var(1), rtol=1e-12)
    weights = np.array([array[:, 0].size for array in arrays])
    within = np.array([array.var((0, 2, 3)) for array in arrays])
    np.testing.assert_allclose(population.biased, (weights[:, None] * within).sum(0) / weights.sum(), rtol=1e-12)
    unbiased = (weights[:, None] * within).sum(0) / (weights - 1).sum()
    np.testing.assert_allclose(population.unbiased, unbiased, rtol=1e-12)
    assert (inputs.m, inputs.samples, inputs.positions) == (160, 8, 20)
    assert inputs.whole.tolist() == [True, True, True, False]
    np.testing.assert_allclose(inputs.means, [array.mean((0, 2, 3)) for array in arrays], rtol=1e-5)
    own = np.array([array.mean((2, 3)).var(0, ddof=1) for array in arrays])
    np.testing.assert_allclose(inputs.between, own, rtol=1e-5)


def test_kept_batches_do_not_grow_while_the_population_stays_exact() -> None:
    random = torch.Generator().manual_seed(0)
    batches = list(torch.randn(1000, 4, 3, generator=random))
    (inputs,) = seen(nn.BatchNorm1d(3).eval(), batches)
    assert len(inputs.means) <= KEPT
    assert inputs.population.batches == 1000
    np.testing.assert_allclose(inputs.population.mean, torch.cat(batches).double().mean(0), rtol=1e-4)
    # Thinned by an odd step: every ninth batch, so that what alternates still does.
    np.testing.assert_allclose(inputs.means[1], batches[9].mean(0), rtol=1e-5)


def test_calls_of_a_shared_layer_are_kept_apart() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.norm(x) + self.norm(x * 3 + 5)

    batches = list(torch.randn(10, 16, 3, generator=torch.Generator().manual_seed(0)))
    (inputs,) = seen(Shared().eval(), batches)
    first, second = inputs.calls
    np.testing.assert_allclose(second.mean, first.mean * 3 + 5, rtol=1e-4)
    np.testing.assert_allclose(second.biased, first.biased * 9, rtol=1e-4)
    both = torch.cat(batches)
    np.testing.assert_allclose(inputs.population.mean, torch.cat([both, both * 3 + 5]).mean(0), rtol=1e-3, atol=1e-4)
    assert inputs.call_means.shape == (10, 2, 3)


def weigh(model: nn.Module, batches: list[torch.Tensor]) -> list:
    layers = norm_layers(model)
    with watching(layers) as watch, watch.on(), torch.no_grad():
        for batch in batches:
            model(batch)
            watch.end_of_batch()
    reference = Reference(watch.results(), {}, {}, layers, [], len(batches), 0, len(batches[0]), 1)
    return evidence(reference, torch.Generator().manual_seed(0))


def test_independent_samples_are_worth_their_number() -> None:
    batches = list(torch.randn(400, 16, 32, generator=torch.Generator().manual_seed(1)))
    (one,) = weigh(nn.BatchNorm1d(32).eval(), batches)
    assert one.inverse.value == pytest.approx(1 / 16, abs=5 * one.inverse.error)
    assert one.composition.value == pytest.approx(1, abs=5 * one.composition.error)
    assert 1 / one.sample_inverse == pytest.approx(16, rel=0.1)


def test_copies_within_a_batch_are_worth_less_and_show_in_the_composition() -> None:
    random = torch.Generator().manual_seed(1)
    batches = [torch.randn(4, 32, generator=random).repeat(4, 1) for _ in range(400)]
    (one,) = weigh(nn.BatchNorm1d(32).eval(), batches)
    assert one.inverse.value == pytest.approx(1 / 4, rel=0.1)
    # Var(μ_B) is σ²/4; 16 samples that vary by (4-1)/4·σ²·16/15 within a batch make one expect σ²/20.
    assert one.composition.value == pytest.approx(5, rel=0.1)


def test_images_of_one_colour_are_worth_one_value_each() -> None:
    random = torch.Generator().manual_seed(1)
    batches = [torch.randn(8, 16, 1, 1, generator=random).expand(-1, -1, 6, 6) for _ in range(300)]
    (one,) = weigh(nn.BatchNorm2d(16).eval(), batches)
    assert one.inputs.m == 288
    assert 1 / one.sample_inverse == pytest.approx(8, rel=0.1)
    assert one.inverse.value == pytest.approx(1 / 8, rel=0.1)


def test_stored_statistics_of_a_real_moving_average_lie_within_its_luck() -> None:
    inside = 0
    for seed in range(40):
        random = torch.Generator().manual_seed(seed)
        layer = nn.BatchNorm1d(24)
        for _ in range(200):
            layer(torch.randn(8, 24, generator=random))
        (one,) = weigh(layer.eval(), list(torch.randn(100, 8, 24, generator=random)))
        assert one.stored is not None
        low, high = one.stored.lucky.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
        inside += low < one.stored.distance < high
    # 38 are to be expected; fewer than 33 come by luck less than once in a hundred times.
    assert inside >= 33


def test_the_share_of_the_start_is_recovered() -> None:
    random = torch.Generator().manual_seed(0)
    layer = nn.BatchNorm1d(24, momentum=0.01)
    for _ in range(60):
        layer(torch.randn(64, 24, generator=random) * 4 + 3)
    (one,) = weigh(layer.eval(), [torch.randn(64, 24, generator=random) * 4 + 3 for _ in range(50)])
    assert one.stored is not None
    assert one.stored.start == pytest.approx(0.99**60, abs=0.02)
    assert one.stored.start_explains > 0.95
