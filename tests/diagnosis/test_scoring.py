"""Means over batches and their errors, against NumPy; metrics as users give them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bnstudy.diagnosis.scoring import Means, accuracy, cross_entropy, default_metrics, score
from bnstudy.errors import UserError


def of(rows: np.ndarray, weights: np.ndarray) -> Means:
    means = Means(["a", "b", "c"])
    for row, weight in zip(rows, weights, strict=True):
        means.add(list(row), float(weight))
    return means


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), batches=st.integers(2, 40), offset=st.sampled_from([0.0, 1.0, 1e6]))
def test_a_contrast_is_a_weighted_mean_and_its_error_that_of_a_ratio_of_sums(seed: int, batches: int, offset: float) -> None:
    random = np.random.default_rng(seed)
    rows = offset + random.normal(size=(batches, 3))
    weights = random.integers(1, 64, size=batches)
    measured = of(rows, weights).contrast(a=1.0, c=-1.0)
    x = rows[:, 0] - rows[:, 2]
    mean = (weights * x).sum() / weights.sum()
    error = math.sqrt((weights**2 * (x - mean) ** 2).sum() * batches / (batches - 1)) / weights.sum()
    assert measured.value == pytest.approx(mean, abs=1e-9)
    assert measured.error == pytest.approx(error, rel=1e-6, abs=1e-9)


def test_for_equal_weights_the_error_is_the_standard_error_of_the_mean() -> None:
    rows = np.random.default_rng(0).normal(size=(25, 3))
    measured = of(rows, np.full(25, 32)).contrast(b=1.0)
    assert measured.error == pytest.approx(rows[:, 1].std(ddof=1) / 5)


def test_differences_that_do_not_vary_have_no_error() -> None:
    rows = np.random.default_rng(0).normal(size=(10, 1)) + np.array([[0.0, 0.5, 1.0]])
    measured = of(rows, np.full(10, 8)).contrast(b=1.0, a=-1.0)
    assert measured.value == pytest.approx(0.5)
    assert measured.error == 0


def test_a_condition_without_numbers_leaves_the_others_alone() -> None:
    rows = np.array([[math.nan, 1.0, 2.0], [math.nan, 2.0, 4.0]])
    means = of(rows, np.ones(2))
    assert math.isnan(means.contrast(a=1.0, b=-1.0).value)
    assert means.contrast(c=1.0, b=-1.0).value == pytest.approx(1.5)


def test_one_batch_has_no_error() -> None:
    assert math.isnan(of(np.ones((1, 3)), np.ones(1)).contrast(a=1.0).error)


def test_metrics_follow_the_targets() -> None:
    outputs = torch.randn(8, 3)
    assert list(default_metrics(outputs, torch.zeros(8, dtype=torch.long))) == ["accuracy", "loss"]
    assert list(default_metrics(outputs, torch.randn(8, 3))) == ["mse"]
    assert list(default_metrics(outputs, None)) == ["output_rms"]
    assert list(default_metrics(outputs, torch.randn(8, 7))) == ["output_rms"]
    maps = torch.randn(2, 4, 5, 5)
    assert list(default_metrics(maps, torch.zeros(2, 5, 5, dtype=torch.long))) == ["accuracy", "loss"]
    assert list(default_metrics(maps, torch.softmax(maps, 1))) == ["loss"]


@pytest.mark.parametrize("shape", [(8,), (8, 1), (2, 1, 5, 5)])
@pytest.mark.parametrize("kind", [torch.float32, torch.int64, torch.bool])
def test_a_single_logit_against_zeros_and_ones_is_a_class(shape: tuple[int, ...], kind: torch.dtype) -> None:
    outputs = 3 * torch.randn(shape, generator=torch.Generator().manual_seed(1))
    targets = (torch.rand(shape, generator=torch.Generator().manual_seed(2)) < 0.5).to(kind)
    metrics = default_metrics(outputs, targets)
    z, y = outputs.double().numpy(), targets.numpy().astype(float)
    likelihood = 1 / (1 + np.exp(-z * (2 * y - 1)))  # σ(z) of class 1, σ(-z) of class 0
    assert {name: score(name, metric, outputs, targets.squeeze()) for name, metric in metrics.items()} == {
        "accuracy": pytest.approx(np.mean((z > 0) == (y == 1))),
        "loss": pytest.approx(-np.mean(np.log(likelihood))),
    }


def test_probabilities_and_several_labels() -> None:
    labels = (torch.rand((8, 3), generator=torch.Generator().manual_seed(0)) < 0.5).float()
    assert labels.sum(1).unique().numel() > 1
    logits = torch.randn((8, 3), generator=torch.Generator().manual_seed(1))
    (metric,) = default_metrics(logits, labels).items()
    likelihood = 1 / (1 + np.exp(-logits.double().numpy() * (2 * labels.numpy() - 1)))
    assert metric[0] == "bce"
    assert score(*metric, logits, labels) == pytest.approx(-np.mean(np.log(likelihood)))
    assert list(default_metrics(logits.sigmoid(), labels)) == ["mse"]
    assert list(default_metrics(logits.sigmoid()[:, :1], labels[:, :1])) == ["mse"]


def test_named_metrics_equal_their_definitions() -> None:
    outputs = torch.tensor([[2.0, 0.0], [0.0, 1.0], [3.0, 0.0]])
    targets = torch.tensor([0, 0, 0])
    assert score("accuracy", accuracy, outputs, targets) == pytest.approx(2 / 3)
    z = outputs.double().numpy()
    expected = np.mean(np.log(np.exp(z).sum(1)) - z[:, 0])
    assert score("loss", cross_entropy, outputs, targets) == pytest.approx(expected)


def test_outputs_that_are_not_finite_score_nan() -> None:
    outputs = torch.tensor([[math.nan, 0.0], [0.0, 1.0]])
    assert math.isnan(score("accuracy", accuracy, outputs, torch.tensor([0, 1])))


@pytest.mark.parametrize(
    "metric", [lambda outputs, targets: outputs[99], lambda outputs, targets: "much", lambda outputs: 0]
)
def test_a_metric_that_fails_is_one_clear_line(metric: object) -> None:
    with pytest.raises(UserError) as caught:
        score("mine", metric, torch.zeros(2, 2), torch.zeros(2))  # type: ignore[arg-type]
    assert "metric: 'mine' fails" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_classes_stand_in_dimension_one_or_last_and_where_both_fit_it_is_asked() -> None:
    random = torch.Generator().manual_seed(0)
    outputs, targets = torch.randn(6, 7, 5, generator=random), torch.randint(5, (6, 7), generator=random)
    assert list(default_metrics(outputs, targets)) == ["accuracy", "loss"]
    right = (outputs.argmax(-1) == targets).double().mean().item()
    moved = outputs.movedim(-1, 1)
    for one in (outputs, moved):
        assert score("accuracy", accuracy, one, targets) == pytest.approx(right)
    losses = [score("loss", cross_entropy, one, targets) for one in (outputs, moved)]
    expected = torch.nn.functional.cross_entropy(outputs.flatten(0, 1).double(), targets.flatten()).item()
    assert losses == pytest.approx([expected, expected])
    for metric in (accuracy, cross_entropy):
        with pytest.raises(UserError, match="classes may be dimension 1 or the last one, both of 5"):
            score("mine", metric, outputs[:, :5], targets[:, :5])


@pytest.mark.parametrize("label", [255, 5, -1])
def test_a_label_that_is_no_class_is_told_and_not_counted_as_wrong(label: int) -> None:
    outputs, targets = torch.randn(8, 5), torch.tensor([0, 1, 2, 3, 4, label, 0, -100])
    for metric in (accuracy, cross_entropy):
        with pytest.raises(UserError, match=rf"label {label} is none of the 5 classes: set what is not labelled to -100"):
            score("mine", metric, outputs, targets)
    targets[5] = 0
    assert score("accuracy", accuracy, outputs, targets) == pytest.approx(
        (outputs[:7].argmax(1) == targets[:7]).double().mean().item()
    )
