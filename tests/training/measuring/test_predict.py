"""Predictions and population passes of stacked replicas against explicit loops in plain tensor operations."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bnstudy.batchnorm.conventions import CONVENTIONS, EMA_STATISTICS, POPULATION_STATISTICS
from bnstudy.batchnorm.inference import evaluating
from bnstudy.batchnorm.layers import BatchNorm1d
from bnstudy.batchnorm.mode import batchnorm_layers
from bnstudy.sweeps.config import Config
from bnstudy.training.data import Dataset
from bnstudy.training.loop import Training
from bnstudy.training.measuring.batch_mode import observe, predict_by_batch
from bnstudy.training.measuring.predict import WATCHED, Parts, predict
from bnstudy.training.networks.models import build_model
from bnstudy.training.networks.replicas import replica_state_dict, replicate
from bnstudy.training.seeds import generator
from tests.tiny import RESNET8, tiny
from tests.training.plain import PlainNorm, plain_copy

SEEDS = [3, 0]
CASES: dict[str, tuple[dict[str, Any], int]] = {  # changes to the configuration, batch size of the passes
    "plain": ({}, 8),
    "unbiased": ({"variance": "inverted"}, 8),
    "unbiased pairs": ({"variance": "consistent_unbiased"}, 2),
    "one batch a pass": ({}, 104),
    "remainder": ({"variance": "inverted"}, 15),
    "groups divide": ({"norm_batch_size": 4}, 8),
    "groups divide, unbiased": ({"variance": "inverted", "norm_batch_size": 2}, 8),
    "groups do not divide": ({"norm_batch_size": 3}, 8),
    "groups do not divide, unbiased": ({"variance": "consistent_unbiased", "norm_batch_size": 6}, 8),
    "images": ({"variance": "inverted", "model": RESNET8}, 8),
    "images, groups do not divide": ({"model": RESNET8, "norm_batch_size": 3}, 8),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest, digits: Dataset) -> Iterator[tuple[Training, int]]:
    """A trained pair of replicas in float64, which must come out of the test as it went in."""
    changes, batch_size = CASES[request.param]
    training = Training(tiny(precision="float64", steps=3, **changes), digits, SEEDS)
    training.run_epoch()
    before = state_of(training.model)
    yield training, batch_size
    after = state_of(training.model)
    assert before[1] == after[1]
    assert before[0].keys() == after[0].keys()
    assert all(torch.equal(value, after[0][name]) for name, value in before[0].items())


def state_of(model: nn.Module) -> tuple[dict[str, Tensor], list[Any]]:
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    settings: list[Any] = [module.training for module in model.modules()]
    for layer in batchnorm_layers(model).values():
        settings += [layer.norm_batch_size, layer.override, layer.force_batch_statistics, layer.observer, layer.convention]
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}, settings


def single(training: Training, replica: int) -> tuple[nn.Module, dict[str, PlainNorm]]:
    """One replica as a plain network of its own."""
    config: Config = training.config
    convention = CONVENTIONS[config.variance.name]
    options: dict[str, Any] = {"convention": convention, "norm_batch_size": config.norm_batch_size}
    model = build_model(config.model, (1, 8, 8), 10, seed=99, **options).double()
    model.load_state_dict(replica_state_dict(training.model, replica, len(SEEDS)))
    return plain_copy(model)


def generators(stream: str) -> list[torch.Generator]:
    return [generator(seed, stream) for seed in SEEDS]


def partition(samples: int, seed: int, stream: str, batch_size: int) -> list[Tensor]:
    batches = torch.randperm(samples, generator=generator(seed, stream)).split(batch_size)
    return [batch for batch in batches if len(batch) == batch_size] or list(batches)


@torch.no_grad()
def test_batch_mode_is_a_loop_over_batches_in_plain_operations(case: tuple[Training, int]) -> None:
    training, batch_size = case
    outputs, order = predict_by_batch(training.model, training.inputs, batch_size, generators("batch_metrics"))
    for replica, seed in enumerate(SEEDS):
        plain, _ = single(training, replica)
        batches = partition(104, seed, "batch_metrics", batch_size)
        assert torch.equal(order[:, replica], torch.cat(batches))
        expected = torch.cat([plain(training.inputs[batch]) for batch in batches])
        torch.testing.assert_close(outputs[:, replica], expected, rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_population_statistics_are_a_loop_over_batches(case: tuple[Training, int]) -> None:
    training, batch_size = case
    population, _ = observe(training.model, training.inputs, batch_size, generators("population"))
    for replica, seed in enumerate(SEEDS):
        plain, norms = single(training, replica)
        for batch in partition(104, seed, "population", batch_size):
            plain(training.inputs[batch])
        for name, norm in norms.items():
            means = torch.stack([mean for mean, _, _ in norm.seen])
            sums = torch.stack([total for _, total, _ in norm.seen])
            m = torch.tensor([[count] for _, _, count in norm.seen], dtype=torch.float64)
            mean = (m * means).sum(0) / m.sum()
            biased = sums.sum(0) / m.sum()
            expected = {
                "mean": mean,
                "biased": biased,
                "unbiased": sums.sum(0) / (m - 1).sum(),
                "total": biased + (m * (means - mean).square()).sum(0) / m.sum(),
            }
            for statistic, value in expected.items():
                ours = getattr(population[name], statistic).unflatten(0, (len(SEEDS), -1))[replica]
                torch.testing.assert_close(ours, value, rtol=1e-9, atol=1e-12)
            assert population[name].batches == len(m)
            assert population[name].values == int(m.max())


@torch.no_grad()
@pytest.mark.parametrize("matched", [False, True])
def test_every_inference_statistic_is_the_formula_with_that_mean_and_variance(
    case: tuple[Training, int], matched: bool
) -> None:
    training, batch_size = case
    population, _ = observe(training.model, training.inputs, batch_size, generators("population"))
    layers = batchnorm_layers(training.model)
    factors = {name: 1.0 + 0.1 * index for index, name in enumerate(layers)} if matched else None
    for statistic in (*EMA_STATISTICS, *POPULATION_STATISTICS):
        outputs = predict(training.model, training.inputs, len(SEEDS), statistic, population, factors)
        assert outputs.shape == (104, len(SEEDS), 10)
        for replica in range(len(SEEDS)):
            plain, norms = single(training, replica)
            for name, norm in norms.items():
                kept = layers[name].ema(statistic) if "ema" in statistic else population[name].statistic(statistic)
                mean, variance = (value.unflatten(0, (len(SEEDS), -1))[replica] for value in kept)
                norm.fixed = (mean, variance * (factors[name] if factors else 1.0))
            torch.testing.assert_close(outputs[:, replica], plain(training.inputs), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("normalize", ["paper", "inverted"])
def test_batch_mode_is_what_the_layer_does_in_training(digits: Dataset, normalize: str) -> None:
    training = Training(tiny(normalize, precision="float64", steps=4), digits, [0])
    training.run_epoch()
    outputs, order = predict_by_batch(training.model, training.inputs, 8, [generator(0, "batch_metrics")])
    with torch.no_grad():
        expected = [training.model.train()(training.inputs[batch]) for batch in order[:, 0].split(8)]
    torch.testing.assert_close(outputs[:, 0], torch.cat(expected), rtol=1e-9, atol=1e-9)


def test_a_split_smaller_than_a_batch_is_one_batch(digits: Dataset) -> None:
    training = Training(tiny(precision="float64", batch_size=64, epochs=1), digits, [0])
    inputs = digits.test.inputs.double()
    outputs, order = predict_by_batch(training.model, inputs, 64, [generator(0, "batch_metrics")])
    assert sorted(order[:, 0].tolist()) == list(range(40))
    with evaluating(training.model, "batch"), torch.no_grad():
        torch.testing.assert_close(outputs[:, 0], training.model(inputs[order[:, 0]]), rtol=1e-9, atol=1e-9)


def test_a_pass_that_fails_leaves_the_model_as_it_was(digits: Dataset) -> None:
    training = Training(tiny(steps=2), digits, [0, 1])
    training.run_epoch()
    before = state_of(training.model)
    wrong = torch.zeros(16, 1, 9, 9)
    for call in (
        lambda: predict_by_batch(training.model, wrong, 8, generators("batch_metrics")),
        lambda: observe(training.model, wrong, 8, generators("population")),
        lambda: predict(training.model, wrong, 2, "ema_biased"),
    ):
        with pytest.raises(RuntimeError):
            call()
        assert state_of(training.model)[1] == before[1]


def test_predictions_are_the_same_to_the_bit_each_time(digits: Dataset) -> None:
    training = Training(tiny(steps=4), digits, SEEDS)
    training.run_epoch()
    first, second = (predict_by_batch(training.model, training.inputs, 8, generators("batch_metrics")) for _ in range(2))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])


def test_nothing_records_a_graph(digits: Dataset) -> None:
    training = Training(tiny(steps=2), digits, [0])
    assert not predict(training.model, training.inputs, 1, "ema_unbiased").requires_grad
    assert not predict_by_batch(training.model, training.inputs, 8, [generator(0, "population")])[0].requires_grad


def test_no_sample_stands_twice_in_a_batch_and_further_partitions_follow_the_first(digits: Dataset) -> None:
    model = replicate([nn.Sequential(nn.Flatten(), BatchNorm1d(64)) for _ in SEEDS]).double()
    inputs = torch.arange(104 * 64, dtype=torch.float64).view(104, 1, 8, 8)  # a batch's mean tells its samples' sum
    population, seen = observe(model, inputs, 8, generators("population"), batches=30)
    layer = seen["1"]
    assert layer.means.shape == (30, len(SEEDS), 64)
    assert (layer.m, population["1"].batches) == (8, 13)
    for replica, seed in enumerate(SEEDS):
        random = generator(seed, "population")
        order = torch.cat([torch.randperm(104, generator=random) for _ in range(3)])[: 30 * 8]
        expected = inputs.flatten(1)[order].view(30, 8, 64)
        torch.testing.assert_close(layer.means[:, replica], expected.mean(1))
        torch.testing.assert_close(layer.biased[:, replica], expected.var(1, correction=0))


@pytest.mark.parametrize("changes", [{}, {"model": RESNET8, "variance": "inverted"}])
def test_the_moments_noted_are_those_of_every_channel(digits: Dataset, changes: dict[str, Any]) -> None:
    training = Training(tiny(precision="float64", steps=3, **changes), digits, SEEDS)
    training.run_epoch()
    moments: Parts = {}
    predict(training.model, training.inputs, len(SEEDS), "ema_biased", moments=moments)
    layers = batchnorm_layers(training.model)
    assert len(training.inputs) <= WATCHED
    assert list(moments) == list(layers)
    for replica in range(len(SEEDS)):
        plain, norms = single(training, replica)
        inputs: dict[str, Tensor] = {}
        for name, norm in norms.items():
            norm.fixed = tuple(value.unflatten(0, (len(SEEDS), -1))[replica] for value in layers[name].ema("ema_biased"))
            norm.register_forward_pre_hook(lambda _, args, name=name, inputs=inputs: inputs.update({name: args[0]}))
        with torch.no_grad():
            plain(training.inputs)
        for name, norm in norms.items():
            mean, var = (value.view(1, -1, *[1] * (inputs[name].dim() - 2)) for value in norm.fixed)
            squares = (inputs[name] - mean).square() / (var + layers[name].eps)
            counts = torch.tensor([count for count, _ in moments[name]], dtype=torch.float64).unsqueeze(1)
            noted = torch.stack([part for _, part in moments[name]]).unflatten(1, (len(SEEDS), -1))[:, replica]
            found = (counts * noted).sum(0) / counts.sum()
            torch.testing.assert_close(found, squares.mean((0, *range(2, squares.dim()))), rtol=1e-9, atol=1e-12)


def test_predictions_are_the_same_whether_moments_are_noted_or_not(digits: Dataset) -> None:
    training = Training(tiny(steps=4), digits, SEEDS)
    training.run_epoch()
    plain, noting = (predict(training.model, training.inputs, 2, "ema_total", moments=moments) for moments in (None, {}))
    assert torch.equal(plain, noting)
    assert not any(layer._forward_pre_hooks for layer in batchnorm_layers(training.model).values())
