"""A block gives the rows that docs/method.md asks for, with the numbers of plain computations on the frozen network."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from sklearn.metrics import accuracy_score

from bnstudy.batchnorm.conventions import CONVENTIONS, MATCHED_STATISTICS, STATISTICS
from bnstudy.batchnorm.inference import evaluating
from bnstudy.batchnorm.mode import batchnorm_layers
from bnstudy.batchnorm.theory import predict as theory
from bnstudy.training.config import DatasetConfig, ModelConfig
from bnstudy.training.data import Dataset, load_dataset
from bnstudy.training.loop import Training
from bnstudy.training.measuring import Measurements, measure_block
from bnstudy.training.measuring.predict import population_of, predict, predict_by_batch
from bnstudy.training.networks import build_model
from bnstudy.training.seeds import generator
from tests.tiny import RESNET8, tiny

HISTORY = {("train", "online"), *itertools.product(("train", "test"), ("ema_biased", "ema_unbiased", "batch"))}
FINAL = {("train", "online"), *itertools.product(("train", "test"), (*STATISTICS, *MATCHED_STATISTICS))}


def combinations(measured: Measurements, seed: int, epoch: int) -> list[tuple[str, str]]:
    rows = [row for row in measured.metrics if (row["seed"], row["epoch"]) == (seed, epoch)]
    return [(row["split"], row["statistic"]) for row in rows]


def value(measured: Measurements, metric: str, **where: Any) -> float:
    (row,) = [row for row in measured.metrics if all(row[key] == wanted for key, wanted in where.items())]
    return float(row[metric])


@pytest.mark.parametrize("variance", CONVENTIONS)
def test_the_rows_are_exactly_those_the_design_demands(digits: Dataset, variance: str) -> None:
    measured = measure_block(tiny(variance, epochs=3), digits, [4, 0])
    assert {row["seed"] for row in measured.metrics} == {4, 0}
    for seed in (4, 0):
        for epoch, expected in ((1, HISTORY), (2, HISTORY), (3, FINAL)):
            found = combinations(measured, seed, epoch)
            assert len(found) == len(set(found))
            assert set(found) == expected
    keys = {"seed", "epoch", "split", "statistic", "n", "accuracy", "loss", "ece"}
    assert all(set(row) == keys for row in measured.metrics)
    statistics = {statistic for statistic in STATISTICS if statistic not in ("batch", "ema_unbiased")}
    if variance in ("consistent_unbiased", "inverted"):
        statistics |= set(MATCHED_STATISTICS)
    apart = [(row["seed"], row["split"], row["statistic"]) for row in measured.distances]
    assert len(apart) == len(set(apart))
    assert set(apart) == set(itertools.product((4, 0), ("train", "test"), statistics))
    assert {row["reference"] for row in measured.distances} == {"ema_unbiased"}
    assert measured.diverged == {}


@pytest.mark.parametrize("norm", ["group", "layer", "none"])
def test_a_baseline_has_one_statistic_and_nothing_to_compare(digits: Dataset, norm: str) -> None:
    measured = measure_block(tiny(model__norm=norm), digits, [0, 1])
    for epoch in (1, 2):
        expected = [("test", "none"), ("train", "none"), ("train", "online")]
        assert sorted(combinations(measured, 1, epoch)) == expected
    assert measured.distances == []


def test_a_regression_has_its_own_metrics() -> None:
    data = DatasetConfig("friedman1", samples=120)
    measured = measure_block(tiny("inverted", dataset=data, epochs=1), load_dataset(data), [0])
    assert set(combinations(measured, 0, 1)) == FINAL
    assert all({"r2", "mse"} <= set(row) and "accuracy" not in row for row in measured.metrics)
    assert all(set(row) >= {"rms_distance"} and "kl" not in row for row in measured.distances)


def test_n_counts_the_samples_measured(digits: Dataset) -> None:
    measured = measure_block(tiny(batch_size=12, epochs=1), digits, [0])
    n = {(row["split"], row["statistic"]): row["n"] for row in measured.metrics}
    assert n["train", "online"] == n["train", "batch"] == 96
    assert n["test", "batch"] == 36
    assert n["train", "ema_pooled"] == 104
    assert n["test", "matched_population_pooled"] == 40


@pytest.mark.parametrize("variance", ["paper", "inverted"])
def test_metrics_are_those_of_the_frozen_network(digits: Dataset, variance: str) -> None:
    config = tiny(variance, precision="float64")
    measured = measure_block(config, digits, [2])
    training = Training(config, digits, [2])
    for epoch in (1, 2):
        training.run_epoch()
        for split, data in (("train", digits.train), ("test", digits.test)):
            for statistic in ("ema_biased", "ema_unbiased"):
                with evaluating(training.model, statistic), torch.no_grad():
                    outputs = training.model(data.inputs.double())
                where = {"epoch": epoch, "split": split, "statistic": statistic}
                truth = accuracy_score(data.targets.numpy(), outputs.argmax(1).numpy())
                loss = torch.nn.functional.cross_entropy(outputs, data.targets)
                assert value(measured, "accuracy", **where) == truth
                assert value(measured, "loss", **where) == pytest.approx(float(loss), rel=1e-12)
            order = torch.randperm(len(data), generator=generator(2, "batch_metrics"))[: len(data) // 8 * 8]
            with evaluating(training.model, "batch"), torch.no_grad():
                outputs = torch.cat([training.model(data.inputs[batch].double()) for batch in order.split(8)])
            loss = torch.nn.functional.cross_entropy(outputs, data.targets[order])
            assert value(measured, "loss", epoch=epoch, split=split, statistic="batch") == pytest.approx(
                float(loss), rel=1e-9
            )


@pytest.mark.parametrize("variance", ["paper", "consistent_biased"])
def test_matched_statistics_are_the_plain_ones_where_the_biased_variance_normalises(digits: Dataset, variance: str) -> None:
    measured = measure_block(tiny(variance, epochs=1), digits, [0, 1])
    for seed, split, name in itertools.product((0, 1), ("train", "test"), MATCHED_STATISTICS):
        for metric in ("accuracy", "loss", "ece", "n"):
            plain = value(measured, metric, seed=seed, split=split, statistic=name.removeprefix("matched_"))
            assert value(measured, metric, seed=seed, split=split, statistic=name) == plain


@pytest.mark.parametrize("group", [None, 4])
@pytest.mark.parametrize("model", ["mlp", "resnet8"])
def test_matched_statistics_are_bessels_factor_times_the_variance_where_the_unbiased_one_does(
    digits: Dataset, model: str, group: int | None
) -> None:
    config = tiny("inverted", precision="float64", epochs=1, norm_batch_size=group)
    if model == "resnet8":
        config.model = RESNET8
    measured = measure_block(config, digits, [0])
    training = Training(config, digits, [0])
    training.run_epoch()
    population = population_of(training.model, training.inputs, 8, [generator(0, "population")])
    # H·W of each layer's input: ResNet-8 on 8×8 images halves twice; an MLP has none.
    positions = {"norm": 64, "stage1": 64, "stage2": 16, "stage3": 4}
    for name in MATCHED_STATISTICS:
        factors = {}
        for path in batchnorm_layers(training.model):
            m = (group or 8) * (positions[path.split(".")[0]] if model == "resnet8" else 1)
            factors[path] = m / (m - 1)
        with evaluating(training.model, name.removeprefix("matched_"), population, factors), torch.no_grad():
            outputs = training.model(digits.test.inputs.double())
        loss = torch.nn.functional.cross_entropy(outputs, digits.test.targets)
        assert value(measured, "loss", split="test", statistic=name) == pytest.approx(float(loss), rel=1e-9)
        plain = value(measured, "loss", split="test", statistic=name.removeprefix("matched_"))
        assert value(measured, "loss", split="test", statistic=name) != plain


@pytest.mark.parametrize("pair", [("paper", "consistent_biased"), ("consistent_unbiased", "inverted")])
def test_two_conventions_on_one_normalising_side_give_the_same_rows(digits: Dataset, pair: tuple[str, str]) -> None:
    first, second = (measure_block(tiny(name), digits, [0, 1]) for name in pair)
    assert first.metrics == second.metrics
    assert first.distances == second.distances


def test_the_same_block_twice_gives_the_same_rows_to_the_bit(digits: Dataset) -> None:
    first, second = (measure_block(tiny("inverted", drop_last=False, batch_size=16), digits, [1, 0]) for _ in range(2))
    assert first == second


def test_a_seed_alone_and_in_a_block_measure_alike(digits: Dataset) -> None:
    config = tiny("inverted", precision="float64")
    block, alone = measure_block(config, digits, [3, 1, 0]), measure_block(config, digits, [1])
    own = [row for row in block.metrics if row["seed"] == 1]
    assert len(own) == len(alone.metrics)
    for row, expected in zip(own, alone.metrics, strict=True):
        assert row == pytest.approx(expected, rel=1e-6) if "statistic" not in row else True
        assert [row[key] for key in ("epoch", "split", "statistic", "n")] == [
            expected[key] for key in ("epoch", "split", "statistic", "n")
        ]
        assert row["loss"] == pytest.approx(expected["loss"], rel=1e-9)


def test_a_diverged_seed_keeps_its_rows_as_nan_and_the_others_their_numbers(digits: Dataset) -> None:
    config = tiny(optimizer__lr=1e30, optimizer__scaling="none")
    measured = measure_block(config, digits, [0, 1])
    assert set(measured.diverged) == {0, 1}
    assert all(step >= 1 for step in measured.diverged.values())
    assert set(combinations(measured, 0, 2)) == FINAL
    final = [row for row in measured.metrics if row["epoch"] == 2]
    assert all(math.isnan(row["loss"]) for row in final)
    assert all(math.isnan(row["rms_distance"]) for row in measured.distances)


def test_distances_are_between_the_frozen_networks_predictions(digits: Dataset) -> None:
    config = tiny(precision="float64", epochs=1)
    measured = measure_block(config, digits, [0])
    training = Training(config, digits, [0])
    training.run_epoch()
    outputs = {}
    for statistic in ("ema_biased", "ema_unbiased"):
        with evaluating(training.model, statistic), torch.no_grad():
            outputs[statistic] = training.model(digits.test.inputs.double())
    rms = (outputs["ema_biased"] - outputs["ema_unbiased"]).square().mean().sqrt()
    (row,) = [row for row in measured.distances if (row["split"], row["statistic"]) == ("test", "ema_biased")]
    assert row["rms_distance"] == pytest.approx(float(rms), rel=1e-9)
    flips = (outputs["ema_biased"].argmax(1) != outputs["ema_unbiased"].argmax(1)).double().mean()
    assert row["flip_rate"] == float(flips)


@pytest.fixture(scope="module")
def gaussian() -> Dataset:
    """5,120 samples of 64 independent standard-normal features, 4,096 of them to train on."""
    return load_dataset(DatasetConfig("gaussian"))


@pytest.mark.parametrize("m", [2, 3, 4, 8, 16, 32, 64])
def test_first_layer_second_moments_on_gaussian_data_are_the_predicted_ones(gaussian: Dataset, m: int) -> None:
    """Within 3 % for every convention, measured on x̂ as the first BatchNorm layer puts it out (γ = 1, β = 0)."""
    assert len(gaussian.train) >= 4000
    inputs = gaussian.train.inputs
    for seed, (name, convention) in itertools.product((0, 1), CONVENTIONS.items()):
        model = build_model(ModelConfig(depth=1, width=64), gaussian.input_shape, 10, seed=seed, convention=convention)
        squares: list[torch.Tensor] = []
        model.norm1.register_forward_hook(lambda _, args, output, kept=squares: kept.append(output.square().mean(1)))
        predict_by_batch(model, inputs, m, [generator(seed, "batch_metrics")])
        train = float(torch.cat(squares).mean())
        population = population_of(model, inputs, m, [generator(seed, "population")])
        for statistic in (f"population_{convention.accumulate}", "population_pooled"):
            squares.clear()
            predict(model, inputs, 1, statistic, population)
            evaluation = float(torch.cat(squares).mean())
            predicted = theory(convention, m, statistic=statistic)
            assert train == pytest.approx(predicted.train, rel=0.01), name
            assert evaluation == pytest.approx(predicted.evaluation, rel=0.03), name
            assert evaluation / train == pytest.approx(predicted.ratio, rel=0.03), name
