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

from bnstudy.errors import UserError

Metric = Callable[[Tensor, Any], Any]
"""(outputs, targets) of a batch to its mean: a number, or a tensor with one number a sample."""
Array = NDArray[np.float64]

HIGHER, LOWER = ("accuracy", "r2"), ("loss", "mse")


def accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Share of right classes, 0 to 1; classes are dimension 1 of the outputs."""
    return (outputs.argmax(1) == targets).double()


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy in nats."""
    return F.cross_entropy(outputs.double(), targets)


def mean_squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean squared error."""
    return F.mse_loss(outputs.double(), targets.double())


def output_rms(outputs: Tensor, targets: object) -> Tensor:
    """Root mean square of the outputs: their scale, where there are no targets."""
    return outputs.double().square().mean().sqrt()


NAMED: dict[str, Metric] = {"accuracy": accuracy, "loss": cross_entropy, "mse": mean_squared_error, "output_rms": output_rms}


def default_metrics(outputs: Tensor, targets: object) -> dict[str, Metric]:
    """What is measured if nobody says: accuracy and loss of classes, squared error of values, else the outputs' scale."""
    if isinstance(targets, Tensor):
        integer = not (targets.is_floating_point() or targets.is_complex() or targets.dtype == torch.bool)
        if integer and outputs.dim() == targets.dim() + 1 and outputs.size(1) > 1:
            return {"accuracy": accuracy, "loss": cross_entropy}
        if targets.is_floating_point() and targets.shape == outputs.shape:
            return {"mse": mean_squared_error}
    return {"output_rms": output_rms}


def score(name: str, metric: Metric, outputs: Tensor, targets: Any) -> float:
    """A batch's mean of a metric; NaN where an output is not finite.

    Raises:
        UserError: the metric raises, or gives something else than a number or numbers.
    """
    if not bool(outputs.isfinite().all()):
        return math.nan
    try:
        value = metric(outputs, targets)
        return float(value.double().mean()) if isinstance(value, Tensor) else float(value)
    except Exception as error:
        said = (str(error).strip().splitlines() or [""])[0][:160]
        raise UserError(
            f"metric: {name!r} fails on outputs of shape {tuple(outputs.shape)} ({type(error).__name__}: {said}); "
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
