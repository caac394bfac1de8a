"""Metrics against scikit-learn and NumPy, one replica at a time."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, log_loss, mean_squared_error, r2_score

from bnstudy.metric import metrics_for
from bnstudy.training.measuring.metrics import by_fold, measure


def logits(n: int = 200, replicas: int = 3, classes: int = 5, scale: float = 2.0, seed: int = 0) -> torch.Tensor:
    return scale * torch.randn(n, replicas, classes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def classes_of(n: int = 200, replicas: int = 3, classes: int = 5) -> torch.Tensor:
    return torch.randint(0, classes, (n, replicas), generator=torch.Generator().manual_seed(9))


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def calibration_error(probabilities: np.ndarray, targets: np.ndarray, bins: int = 15) -> float:
    confidence, right = probabilities.max(1), probabilities.argmax(1) == targets
    total = 0.0
    for low in range(bins):
        inside = (confidence >= low / bins) & (confidence < (low + 1) / bins)
        if inside.any():
            total += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    return total


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [0.1, 2.0])
def test_classification_metrics_are_scikit_learns(dtype: torch.dtype, scale: float) -> None:
    outputs, targets = logits(scale=scale).to(dtype), classes_of()
    measured = measure("classification", outputs, targets)
    assert set(measured) == set(metrics_for("classification"))
    for replica in range(3):
        probabilities = softmax(outputs[:, replica].double().numpy())
        truth = targets[:, replica].numpy()
        assert measured["accuracy"][replica] == accuracy_score(truth, probabilities.argmax(1))
        assert measured["loss"][replica] == pytest.approx(log_loss(truth, probabilities, labels=range(5)), rel=1e-9)
        assert measured["ece"][replica] == pytest.approx(calibration_error(probabilities, truth), abs=2e-6)


def test_a_perfect_and_sure_prediction_has_no_error_and_a_wrong_one_all_of_it() -> None:
    truth = torch.arange(5).repeat(4)
    sure = 1000.0 * torch.nn.functional.one_hot(torch.stack([truth, (truth + 1) % 5], 1), 5).double()
    measured = measure("classification", sure, truth.unsqueeze(1).expand(-1, 2))
    assert measured == {"accuracy": [1.0, 0.0], "loss": [0.0, 1000.0], "ece": [0.0, 1.0]}


def test_regression_metrics_are_scikit_learns() -> None:
    outputs, targets = logits(classes=1), logits(classes=1, seed=4).float()
    measured = measure("regression", outputs, targets)
    for replica in range(3):
        guess, truth = outputs[:, replica].numpy(), targets[:, replica].double().numpy()
        assert measured["r2"][replica] == pytest.approx(r2_score(truth, guess), rel=1e-9)
        assert measured["mse"][replica] == pytest.approx(mean_squared_error(truth, guess), rel=1e-12)


def test_one_sample_has_an_error_and_no_variance_to_explain() -> None:
    measured = measure("regression", torch.ones(1, 2, 1), torch.zeros(1, 2, 1))
    assert measured["mse"] == [1.0, 1.0]
    assert all(math.isnan(value) for value in measured["r2"])


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("task", ["classification", "regression"])
def test_one_output_that_is_not_finite_makes_its_replica_nan_and_no_other(task: str, bad: float) -> None:
    outputs = logits(classes=5 if task == "classification" else 1)
    targets = classes_of() if task == "classification" else logits(classes=1, seed=4)
    expected = measure(task, outputs, targets)
    broken = outputs.clone()
    broken[17, 1, 0] = bad
    for metric, values in measure(task, broken, targets).items():
        assert math.isnan(values[1])
        assert (values[0], values[2]) == (expected[metric][0], expected[metric][2])


def test_float64_outputs_are_measured_in_float64() -> None:
    outputs = torch.tensor([[[0.0, 1e-12]], [[1e60, 0.0]]], dtype=torch.float64)
    measured = measure("classification", outputs, torch.tensor([[1], [1]]))
    assert measured["accuracy"] == [0.5]
    assert measured["loss"][0] == pytest.approx(5e59)


def test_bfloat16_outputs_can_be_measured() -> None:
    outputs = logits().bfloat16()
    assert measure("classification", outputs, classes_of()) == measure("classification", outputs.float(), classes_of())


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 30), st.integers(2, 6), st.floats(0.01, 50))
def test_shares_are_between_0_and_1(seed: int, n: int, classes: int, scale: float) -> None:
    outputs = logits(n, 2, classes, scale, seed).float()
    measured = measure("classification", outputs, classes_of(n, 2, classes))
    assert all(0 <= value <= 1 for metric in ("accuracy", "ece") for value in measured[metric])
    assert all(value >= 0 for value in measured["loss"])


@pytest.mark.parametrize("n", [200, 7])
def test_folds_are_means_over_every_fold_th_sample_and_all_replicas(n: int) -> None:
    outputs, targets = logits(n), classes_of(n)
    folds = by_fold("classification", outputs, targets, folds=20)
    count = min(20, n)
    assert {name: len(values) for name, values in folds.items()} == {"accuracy": count, "loss": count}
    for fold in (0, count - 1):
        part = measure("classification", outputs[fold::count], targets[fold::count])
        assert folds["accuracy"][fold] == pytest.approx(np.mean(part["accuracy"]), rel=1e-12)
        assert folds["loss"][fold] == pytest.approx(np.mean(part["loss"]), rel=1e-12)


def test_folds_of_a_regression_average_to_its_metrics() -> None:
    outputs, targets = logits(classes=2), logits(classes=2, seed=5)
    folds, whole = by_fold("regression", outputs, targets, folds=20), measure("regression", outputs, targets)
    for metric in ("r2", "mse"):
        assert np.mean(folds[metric]) == pytest.approx(np.mean(whole[metric]), rel=1e-10)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_replica_whose_outputs_are_no_numbers_is_left_out_of_the_folds(bad: float) -> None:
    outputs, targets = logits(), classes_of()
    expected = by_fold("classification", outputs[:, :2], targets[:, :2])
    outputs[3, 2, 0] = bad
    assert by_fold("classification", outputs, targets) == expected
    outputs[:] = bad
    assert all(math.isnan(value) for value in by_fold("classification", outputs, targets)["loss"])


def test_the_spread_over_folds_is_the_standard_error_of_a_paired_difference() -> None:
    random = torch.Generator().manual_seed(3)
    outputs = torch.randn(4000, 1, 5, generator=random, dtype=torch.float64)
    other = outputs + 0.3 * torch.randn(4000, 1, 5, generator=random, dtype=torch.float64)
    targets = torch.randint(0, 5, (4000, 1), generator=random)
    difference = np.subtract(*(by_fold("classification", z, targets)["loss"] for z in (outputs, other)))
    sample = [torch.nn.functional.cross_entropy(z[:, 0], targets[:, 0], reduction="none") for z in (outputs, other)]
    by_sample = float((sample[0] - sample[1]).std()) / math.sqrt(4000)
    assert difference.std(ddof=1) / math.sqrt(len(difference)) == pytest.approx(by_sample, rel=0.15)
