"""A block gives the rows that docs/method.md asks for, with the numbers of plain computations on the frozen network."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from sklearn.metrics import accuracy_score

from bnstudy.batchnorm.conventions import CONVENTIONS, MATCHED_TOTAL, STATISTICS
from bnstudy.batchnorm.inference import evaluating
from bnstudy.batchnorm.mode import batchnorm_layers
from bnstudy.batchnorm.theory import predict as theory
from bnstudy.training.config import DatasetConfig, ModelConfig
from bnstudy.training.data import Dataset, load_dataset
from bnstudy.training.loop import Training
from bnstudy.training.measuring import measurement
from bnstudy.training.measuring.batch_mode import observe, predict_by_batch
from bnstudy.training.measuring.measurement import Measurements, measure_block
from bnstudy.training.measuring.predict import predict
from bnstudy.training.networks.models import build_model
from bnstudy.training.seeds import generator
from tests.tiny import RESNET8, tiny

HISTORY = {("train", "online"), *itertools.product(("train", "test"), ("ema_biased", "ema_unbiased", "ema_total", "batch"))}
FINAL = {("train", "online"), *itertools.product(("train", "test"), (*STATISTICS, MATCHED_TOTAL))}


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
    folds = [(row["statistic"], row["fold"]) for row in measured.folds]
    assert len(folds) == len(set(folds))
    assert set(folds) == set(itertools.product((*STATISTICS, MATCHED_TOTAL), range(40)))
    assert all(set(row) == {"statistic", "fold", "accuracy", "loss"} for row in measured.folds)
    assert measured.unstable == []
    assert measured.diverged == {}


@pytest.mark.parametrize("norm", ["group", "layer", "none"])
def test_a_baseline_has_one_statistic_and_nothing_to_compare(digits: Dataset, norm: str) -> None:
    measured = measure_block(tiny(model__norm=norm), digits, [0, 1])
    for epoch in (1, 2):
        expected = [("test", "none"), ("train", "none"), ("train", "online")]
        assert sorted(combinations(measured, 1, epoch)) == expected
    assert {row["statistic"] for row in measured.folds} == {"none"}
    assert measured.layers == measured.unstable == []


def test_a_regression_has_its_own_metrics() -> None:
    data = DatasetConfig("friedman1", samples=120)
    measured = measure_block(tiny("inverted", dataset=data, epochs=1), load_dataset(data), [0])
    assert set(combinations(measured, 0, 1)) == FINAL
    assert all({"r2", "mse"} <= set(row) and "accuracy" not in row for row in measured.metrics)
    assert all({"r2", "mse"} <= set(row) for row in measured.folds)


def test_n_counts_the_samples_measured(digits: Dataset) -> None:
    measured = measure_block(tiny(batch_size=12, epochs=1), digits, [0])
    n = {(row["split"], row["statistic"]): row["n"] for row in measured.metrics}
    assert n["train", "online"] == n["train", "batch"] == 96
    assert n["test", "batch"] == 36
    assert n["train", "ema_total"] == 104
    assert n["test", "matched_population_total"] == 40


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
def test_the_matched_total_is_the_plain_one_where_the_biased_variance_normalises(digits: Dataset, variance: str) -> None:
    measured = measure_block(tiny(variance, epochs=1), digits, [0, 1])
    for seed, split, metric in itertools.product((0, 1), ("train", "test"), ("accuracy", "loss", "ece", "n")):
        plain = value(measured, metric, seed=seed, split=split, statistic="population_total")
        assert value(measured, metric, seed=seed, split=split, statistic=MATCHED_TOTAL) == plain


@pytest.mark.parametrize("group", [None, 4])
@pytest.mark.parametrize("model", ["mlp", "resnet8"])
def test_the_matched_total_is_bessels_factor_times_the_variance_where_the_unbiased_one_normalises(
    digits: Dataset, model: str, group: int | None
) -> None:
    config = tiny("inverted", precision="float64", epochs=1, norm_batch_size=group)
    if model == "resnet8":
        config.model = RESNET8
    measured = measure_block(config, digits, [0])
    training = Training(config, digits, [0])
    training.run_epoch()
    population, _ = observe(training.model, training.inputs, 8, [generator(0, "population")])
    # H·W of each layer's input: ResNet-8 on 8×8 images halves twice; an MLP has none.
    positions = {"norm": 64, "stage1": 64, "stage2": 16, "stage3": 4}
    factors = {}
    for path in batchnorm_layers(training.model):
        m = (group or 8) * (positions[path.split(".")[0]] if model == "resnet8" else 1)
        factors[path] = m / (m - 1)
    with evaluating(training.model, "population_total", population, factors), torch.no_grad():
        outputs = training.model(digits.test.inputs.double())
    loss = torch.nn.functional.cross_entropy(outputs, digits.test.targets)
    assert value(measured, "loss", split="test", statistic=MATCHED_TOTAL) == pytest.approx(float(loss), rel=1e-9)
    plain = value(measured, "loss", split="test", statistic="population_total")
    assert value(measured, "loss", split="test", statistic=MATCHED_TOTAL) != plain


def test_history_is_of_the_first_samples_and_the_last_epoch_of_all(digits: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = measure_block(tiny(epochs=2), digits, [0])
    monkeypatch.setattr(measurement, "HISTORY_SAMPLES", 24)
    part = measure_block(tiny(epochs=2), digits, [0])
    first = [row for row in part.metrics if row["epoch"] == 1 and row["statistic"] != "online"]
    assert {row["n"] for row in first} == {24}
    assert [row for row in part.metrics if row["epoch"] == 2] == [row for row in whole.metrics if row["epoch"] == 2]
    training = Training(tiny(epochs=2), digits, [0])
    training.run_epoch()
    with evaluating(training.model, "ema_total"), torch.no_grad():
        outputs = training.model(digits.test.inputs[:24])
    loss = float(torch.nn.functional.cross_entropy(outputs, digits.test.targets[:24]))
    assert value(part, "loss", epoch=1, split="test", statistic="ema_total") == pytest.approx(loss, rel=1e-5)


def test_networks_whose_activations_exploded_are_named_and_healthy_ones_are_not(digits: Dataset) -> None:
    deep = {"model__depth": 8, "model__width": 32, "epochs": 6}
    measured = measure_block(tiny(batch_size=2, **deep), digits, [0, 1])
    assert measured.diverged == {}
    growth = {seed: max(row["growth"] for row in measured.layers if row["seed"] == seed) for seed in (0, 1)}
    moments = {seed: max(row["eval_moment"] for row in measured.layers if row["seed"] == seed
               and row["statistic"] == "population_total") for seed in (0, 1)}  # fmt: skip
    assert measured.unstable == [seed for seed in (0, 1) if growth[seed] > 100 or moments[seed] > 100]
    assert measured.unstable
    assert measure_block(tiny(batch_size=16, **deep), digits, [0, 1]).unstable == []


@pytest.mark.parametrize("pair", [("paper", "consistent_biased"), ("consistent_unbiased", "inverted")])
def test_two_conventions_on_one_normalising_side_give_the_same_rows(digits: Dataset, pair: tuple[str, str]) -> None:
    first, second = (measure_block(tiny(name), digits, [0, 1]) for name in pair)
    assert first.metrics == second.metrics
    assert first.folds == second.folds


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
    assert all(math.isnan(row["loss"]) for row in measured.folds)
    assert measured.unstable == []


def test_folds_are_of_the_same_samples_under_every_statistic(digits: Dataset) -> None:
    measured = measure_block(tiny(precision="float64", epochs=1), digits, [0, 1])
    for statistic in (*STATISTICS, MATCHED_TOTAL):
        folds = {row["fold"]: row["loss"] for row in measured.folds if row["statistic"] == statistic}
        seeds = [value(measured, "loss", seed=seed, split="test", statistic=statistic) for seed in (0, 1)]
        assert sum(folds.values()) / 40 == pytest.approx(sum(seeds) / 2, rel=1e-9), statistic  # a sample a fold
    training = Training(tiny(precision="float64", epochs=1), digits, [0, 1])
    training.run_epoch()
    outputs, order = predict_by_batch(
        training.model, digits.test.inputs.double(), 8, [generator(seed, "batch_metrics") for seed in (0, 1)]
    )
    losses = torch.nn.functional.cross_entropy(outputs.transpose(1, 2), digits.test.targets[order], reduction="none")
    sample = torch.zeros_like(losses).scatter(0, order, losses).mean(1)
    batch = [row["loss"] for row in measured.folds if row["statistic"] == "batch"]
    assert batch == pytest.approx(sample.tolist(), rel=1e-9)


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
        population, _ = observe(model, inputs, m, [generator(seed, "population")])
        squares.clear()
        predict(model, inputs, 1, f"population_{convention.accumulate}", population)
        evaluation = float(torch.cat(squares).mean())
        predicted = theory(convention, m)
        assert train == pytest.approx(predicted.train, rel=0.01), name
        assert evaluation == pytest.approx(predicted.evaluation, rel=0.03), name
        assert evaluation / train == pytest.approx(predicted.ratio, rel=0.03), name
