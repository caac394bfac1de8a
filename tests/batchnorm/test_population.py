"""Population statistics from one pass, against float64 NumPy; and evaluation under any statistic."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from bnstudy.batchnorm.conventions import CONVENTIONS, EMA_STATISTICS, POPULATION_STATISTICS, STATISTICS
from bnstudy.batchnorm.inference import evaluating
from bnstudy.batchnorm.layers import BatchNorm1d, BatchNorm2d
from bnstudy.batchnorm.mode import batchnorm_layers, held_in_evaluation
from bnstudy.batchnorm.population import population_statistics
from tests.batchnorm.oracle import PAIRS, groups, normalised, per_channel, variances


def expected_population(batches, size=None):
    """The definitions, with each group's weight written out."""
    parts = [part for batch in batches for part in groups(batch, size)]
    m = np.array([per_channel(part).shape[1] for part in parts], float)[:, None]
    means = np.array([per_channel(part).mean(1) for part in parts])
    biased = np.array([variances(part)["biased"] for part in parts])
    unbiased = np.array([variances(part)["unbiased"] for part in parts])
    mean = (m * means).sum(0) / m.sum()
    return {
        "mean": mean,
        "population_biased": (m * biased).sum(0) / m.sum(),
        "population_unbiased": ((m - 1) * unbiased).sum(0) / (m - 1).sum(),
        "population_total": (m * (biased + (means - mean) ** 2)).sum(0) / m.sum(),
    }


def draw(shapes, seed=0, loc=2.0, scale=1.5):
    rng = np.random.default_rng(seed)
    return [rng.normal(loc, scale, size=shape) for shape in shapes]


def assert_population(population, expected, tolerance=1e-10):
    for name in POPULATION_STATISTICS:
        mean, var = population.statistic(name)
        np.testing.assert_allclose(mean.numpy(), expected["mean"], rtol=tolerance, atol=0)
        np.testing.assert_allclose(var.numpy(), expected[name], rtol=tolerance, atol=0)


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("size", [None, 3])
@pytest.mark.parametrize("track", [True, False])
@pytest.mark.parametrize(
    "shapes",
    [[(6, 2), (6, 2), (5, 2)], [(2, 2), (9, 2), (3, 2)], [(4, 2, 3), (1, 2, 3)], [(4, 2, 2, 2), (6, 2, 2, 2), (1, 2, 2, 2)]],
)
def test_batches_of_different_size_are_weighted_by_what_they_know(convention, size, track, shapes):
    cls = BatchNorm2d if len(shapes[0]) == 4 else BatchNorm1d
    layer = cls(2, dtype=torch.float64, track_running_stats=track, convention=convention, norm_batch_size=size)
    batches = draw(shapes)
    before = copy.deepcopy(layer.state_dict())
    population = population_statistics(layer, (torch.from_numpy(batch) for batch in batches))[""]
    assert_population(population, expected_population(batches, size))
    parts = [part for batch in batches for part in groups(batch, size)]
    assert population.batches == len(parts)
    assert population.values == max(per_channel(part).shape[1] for part in parts)
    assert layer.training
    assert layer.observer is None
    for name, tensor in layer.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_total_is_the_variance_of_all_values_together():
    batches = draw([(5, 2), (3, 2), (8, 2)])
    population = population_statistics(BatchNorm1d(2, dtype=torch.float64), map(torch.from_numpy, batches))[""]
    everything = np.concatenate(batches)
    np.testing.assert_allclose(population.total.numpy(), everything.var(0), rtol=1e-12)
    np.testing.assert_allclose(population.mean.numpy(), everything.mean(0), rtol=1e-12)


def test_a_large_mean_does_not_eat_a_small_variance():
    batches = draw([(4, 2)] * 200 + [(3, 2)], loc=1e6, scale=1e-2)
    population = population_statistics(BatchNorm1d(2, dtype=torch.float64), map(torch.from_numpy, batches))[""]
    centred = [batch - 1e6 for batch in batches]
    expected = expected_population(centred)
    np.testing.assert_allclose(population.total.numpy(), expected["population_total"], rtol=1e-6)
    np.testing.assert_allclose(population.biased.numpy(), expected["population_biased"], rtol=1e-6)


def test_deeper_layers_see_the_inputs_they_had_in_training():
    for convention in CONVENTIONS:
        first, second = (BatchNorm1d(3, dtype=torch.float64, convention=convention) for _ in range(2))
        linear = nn.Linear(3, 3, dtype=torch.float64)
        model = nn.Sequential(first, nn.Dropout(0.5), linear, second)
        model(torch.from_numpy(draw([(8, 3)], seed=9)[0]))  # stale running buffers must play no part
        batches = draw([(4, 3), (6, 3)])
        populations = population_statistics(model, map(torch.from_numpy, batches))
        assert list(populations) == ["0", "3"]
        side = PAIRS[convention][0]
        hidden = [
            normalised(x, x.mean(0), variances(x)[side], np.ones(3), np.zeros(3), 1e-5) @ linear.weight.detach().numpy().T
            + linear.bias.detach().numpy()
            for x in batches
        ]
        assert_population(populations["3"], expected_population(hidden), 1e-9)


def test_float32_layers_get_float32_statistics_summed_in_float64():
    batches = draw([(4, 2)] * 300, loc=100, scale=0.1)
    population = population_statistics(BatchNorm1d(2), (torch.from_numpy(batch).float() for batch in batches))[""]
    assert population.total.dtype == torch.float32
    assert_population(population, expected_population([batch.astype("f4").astype("f8") for batch in batches]), 1e-5)


def test_empty_batches_count_for_nothing_and_no_batch_is_an_error():
    layer = BatchNorm1d(2, dtype=torch.float64)
    batches = draw([(4, 2), (3, 2)])
    inputs = [torch.zeros(0, 2, dtype=torch.float64), *map(torch.from_numpy, batches)]
    assert_population(population_statistics(layer, inputs)[""], expected_population(batches))
    for none in ([], inputs[:1]):
        with pytest.raises(ValueError, match="batches: none given"):
            population_statistics(layer, none)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        population_statistics(layer, [torch.ones(1, 2, dtype=torch.float64)])
    assert (layer.training, layer.observer, layer.force_batch_statistics) == (True, None, False)


def test_a_layer_that_the_pass_does_not_reach_has_nan_and_does_no_harm():
    model = nn.Sequential(BatchNorm1d(2, dtype=torch.float64))
    model[0].spare = BatchNorm1d(4)
    populations = population_statistics(model, map(torch.from_numpy, draw([(4, 2)])))
    assert populations["0.spare"].total.shape == (4,)
    assert populations["0.spare"].total.isnan().all()
    with evaluating(model, "population_total", populations):
        assert model(torch.ones(1, 2, dtype=torch.float64)).isfinite().all()


def trained(convention="paper", everything=True):
    model = nn.Sequential(BatchNorm1d(3, dtype=torch.float64, convention=convention), nn.Dropout(0.9))
    if everything:
        model[0].track_all_statistics()
    batches = [torch.from_numpy(batch) for batch in draw([(4, 3)] * 5)]
    for batch in batches:
        model(batch)
    return model, batches


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("statistic", STATISTICS)
def test_evaluation_under_a_statistic_uses_it_and_leaves_no_trace(convention, statistic):
    model, batches = trained(convention)
    layer = model[0]
    population = population_statistics(model, batches)
    x = batches[0].numpy()
    if statistic == "batch":
        mean, var = x.mean(0), variances(x)[PAIRS[convention][0]]
    elif statistic in EMA_STATISTICS:
        mean, var = (tensor.numpy().copy() for tensor in layer.ema(statistic))
    else:
        mean, var = (tensor.numpy() for tensor in population[("0")].statistic(statistic))
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    with evaluating(model, statistic, population) as held:
        assert held is model
        output = model(batches[0])
        np.testing.assert_allclose(
            output.detach().numpy(), normalised(x, mean, var, np.ones(3), np.zeros(3), 1e-5), rtol=1e-11, atol=1e-11
        )
        with evaluating(model, "batch"):  # nests
            model(batches[1])
        assert torch.equal(model(batches[0]), output)
    assert (model.training, layer.training, layer.override, layer.force_batch_statistics) == (True, True, None, False)
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, before[name])


def test_factors_multiply_each_layers_variance():
    model, batches = trained()
    mean, var = model[0].ema("ema_biased")
    with evaluating(model, "ema_biased", factors={"0": 4 / 3}):
        output = model(batches[0])
    expected = (batches[0] - mean) / (4 / 3 * var + 1e-5).sqrt()
    torch.testing.assert_close(output, expected, rtol=1e-12, atol=1e-12)


def test_a_statistic_that_is_not_there_is_refused_by_name_and_leaves_no_trace():
    model, batches = trained(everything=False)
    for statistic, population, message in (
        ("ema_biased", None, "'ema_biased' is not kept by this layer; call track_all_statistics"),
        ("ema_total", None, "'ema_total' is not kept"),
        ("median", None, "'median' is unknown; use batch, ema_biased"),
        ("population_biased", None, "needs a population pass"),
        ("population_biased", {}, "has no layer '0'"),
    ):
        with pytest.raises(ValueError, match=message), evaluating(model, statistic, population):
            pass
        assert model.training
        assert model[0].override is None
    with pytest.raises(ValueError, match="is no moving average"):
        model[0].ema("batch")
    with pytest.raises(ValueError, match="no population statistic"):
        population_statistics(model, batches)["0"].statistic("ema_biased")
    with pytest.raises(ValueError, match="track_running_stats=False"):
        BatchNorm1d(3, track_running_stats=False).ema("ema_biased")
    with evaluating(model, "ema_unbiased"):
        pass


def test_modes_come_back_one_by_one_even_after_an_error():
    model, _ = trained()
    model[1].eval()
    with pytest.raises(RuntimeError, match="inside"), held_in_evaluation(model):
        raise RuntimeError("inside")
    assert (model.training, model[0].training, model[1].training) == (True, True, False)
    assert list(batchnorm_layers(model)) == ["0"]
