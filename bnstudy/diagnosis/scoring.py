"""Metrics of a model under several conditions on the same batches, with standard errors over batches."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from bnstudy.errors import UserError, one_line

Metric = Callable[[Tensor, Any], Any]
"""(outputs, targets) of a batch to its mean: a number, or a tensor with one number a sample."""
Array = NDArray[np.float64]

IGNORED = -100
"""The class of what is not labelled, as in torch's cross-entropy."""


def accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Share of right classes, 0 to 1; classes are dimension 1 of the outputs, targets of -100 do not count.

    A single logit a sample says class 1 where it is positive.
    """
    if _single_logit(outputs):
        return ((outputs > 0) == (_shaped(targets, outputs.shape) > 0.5)).double()
    predicted = outputs.argmax(1)
    classes = _shaped(targets, predicted.shape)
    return (predicted == classes)[classes != IGNORED].double()


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy in nats; targets are classes, of which -100 does not count, or probabilities.

    A single logit a sample is that of class 1: see `binary_cross_entropy`.
    """
    if _single_logit(outputs):
        return binary_cross_entropy(outputs, targets)
    if isinstance(targets, Tensor) and targets.is_floating_point():
        return F.cross_entropy(outputs.double(), _shaped(targets, outputs.shape).double())
    return F.cross_entropy(
        outputs.double(), _shaped(targets, outputs.shape[:1] + outputs.shape[2:]).long(), ignore_index=IGNORED
    )


def binary_cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Binary cross-entropy of every logit, in nats: labels that do not exclude each other."""
    return F.binary_cross_entropy_with_logits(outputs.double(), _shaped(targets, outputs.shape).double())


def mean_squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean squared error."""
    return F.mse_loss(outputs.double(), _shaped(targets, outputs.shape).double())


def output_rms(outputs: Tensor, targets: object) -> Tensor:
    """Root mean square of the outputs: their scale, where there are no targets."""
    return outputs.double().square().mean().sqrt()


NAMED: dict[str, Metric] = {
    "accuracy": accuracy,
    "loss": cross_entropy,
    "bce": binary_cross_entropy,
    "mse": mean_squared_error,
    "output_rms": output_rms,
}


def default_metrics(outputs: Tensor, targets: object) -> dict[str, Metric]:
    """What is measured if nobody says.

    Accuracy and loss of classes (also of one logit against 0 and 1), loss against probabilities, binary cross-entropy of
    logits against several labels, squared error of values, else the outputs' scale. Outputs that are probabilities already
    (all from 0 to 1) are compared with 0 and 1 by squared error, Brier's score.
    """
    if not isinstance(targets, Tensor) or targets.is_complex():
        return {"output_rms": output_rms}
    labels = targets.is_floating_point() or _single_logit(outputs)
    if not labels and targets.dtype != torch.bool and _fits(targets, outputs.shape[:1] + outputs.shape[2:]):
        return {"accuracy": accuracy, "loss": cross_entropy}
    if not _fits(targets, outputs.shape):
        return {"output_rms": output_rms}
    logits = not bool(((outputs >= 0) & (outputs <= 1)).all())
    values = targets.double()
    if logits and not _single_logit(outputs) and bool((values >= 0).all()):
        sums = _shaped(values, outputs.shape).sum(1)
        if torch.allclose(sums, torch.ones_like(sums), atol=1e-4):
            return {"loss": cross_entropy}
    if logits and bool(((values == 0) | (values == 1)).all()):
        return {"accuracy": accuracy, "loss": cross_entropy} if _single_logit(outputs) else {"bce": binary_cross_entropy}
    return {"mse": mean_squared_error}


def _single_logit(outputs: Tensor) -> bool:
    return outputs.dim() < 2 or outputs.size(1) == 1


def _fits(targets: Tensor, shape: Sequence[int]) -> bool:
    """Whether targets have a shape, but for dimensions of 1: (N, 1) for (N,)."""
    return [size for size in targets.shape if size != 1] == [size for size in shape if size != 1]


def _shaped(targets: object, shape: Sequence[int]) -> Tensor:
    """Targets in the shape of what they are compared with, never broadcast to it."""
    if not isinstance(targets, Tensor):
        raise TypeError(f"targets are {'missing' if targets is None else type(targets).__name__}; a tensor needed")
    if not _fits(targets, shape):
        raise ValueError(f"targets of shape {tuple(targets.shape)}; {tuple(shape)} needed")
    return targets.reshape(tuple(shape))


def score(name: str, metric: Metric, outputs: Tensor, targets: Any) -> float:
    """A batch's mean of a metric; NaN where an output is not finite, or the metric.

    Raises:
        UserError: the metric raises, or gives something else than a number or numbers.
    """
    if not bool(outputs.isfinite().all()):
        return math.nan
    try:
        value = metric(outputs, targets)
        if isinstance(value, Tensor):  # NumPy has no bfloat16
            value = (value.double() if value.is_floating_point() else value).numpy(force=True)
        numbers = np.asarray(value)
        if numbers.dtype.kind not in "biuf":
            raise TypeError(f"it returns {numbers.dtype if numbers.dtype.kind == 'c' else type(value).__name__}")
        mean = float(numbers.mean(dtype=np.float64)) if numbers.size else math.nan
        return mean if math.isfinite(mean) else math.nan
    except Exception as error:
        raise UserError(
            f"metric: {name!r} fails on outputs of shape {tuple(outputs.shape)} ({one_line(error)}); "
            "a function of (outputs, targets) that returns a number, or one a sample, expected"
        ) from error


@dataclass(frozen=True)
class Measured:
    """A number with its standard error over batches; NaN where one batch leaves none."""

    value: float
    error: float


class Means:
    """Weighted means of several conditions over batches, and their covariance: any contrast has a standard error.

    Args:
        names: the conditions.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = list(names)
        self.batches = 0
        size = len(self.names)
        self._weight = self._square = 0.0
        self._offset = np.zeros(size)
        self._sum, self._sum2, self._products = np.zeros(size), np.zeros(size), np.zeros((size, size))

    def add(self, values: Sequence[float], weight: float) -> None:
        """Take in a batch: one number a condition, and its number of samples."""
        row = np.asarray(values, dtype=np.float64)
        if self.batches == 0:
            self._offset = np.where(np.isfinite(row), row, 0.0)  # so that the squares do not eat small differences
        row = row - self._offset
        self.batches += 1
        self._weight += weight
        self._square += weight**2
        self._sum = self._sum + weight * row
        self._sum2 = self._sum2 + weight**2 * row
        self._products = self._products + weight**2 * np.outer(row, row)

    def contrast(self, **factors: float) -> Measured:
        """Σ factor·mean over the named conditions.

        The error is that of a ratio of sums: Var = Σ w²(x - x̄)²/(Σ w)² · B/(B-1) for B batches of weight w.
        """
        index = [self.names.index(name) for name in factors]
        share = np.fromiter(factors.values(), dtype=np.float64)
        mean = self._sum[index] / self._weight
        value = float(share @ (mean + self._offset[index]))
        if self.batches < 2:
            return Measured(value, math.nan)
        centre, moment = float(share @ mean), float(share @ self._sum2[index])
        square = float(share @ self._products[np.ix_(index, index)] @ share)
        spread = square - 2 * centre * moment + centre**2 * self._square
        scale = max(abs(square), abs(centre * moment), centre**2 * self._square)
        if spread < 1e-12 * scale:  # rounding of a contrast that does not vary
            spread = 0.0
        return Measured(value, math.sqrt(spread * self.batches / (self.batches - 1)) / self._weight)
