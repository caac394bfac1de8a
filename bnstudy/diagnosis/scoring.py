"""Metrics of a model under several conditions on the same batches, with standard errors over batches."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor

from bnstudy.diagnosis.measured import Measured
from bnstudy.errors import UserError, one_line
from bnstudy.metric import metric_of

Metric = Callable[[Tensor, Any], Any]
"""(outputs, targets) of a batch to its mean: a number, or a tensor with one number a sample."""
IGNORED = -100
"""The class of what is not labelled, as in torch's cross-entropy."""


def accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Share of right classes, 0 to 1; targets of -100 do not count. See `_classes` for the dimension of the classes.

    A single logit a sample says class 1 where it is positive.
    """
    if _single_logit(outputs):
        return ((outputs > 0) == (_shaped(targets, outputs.shape) > 0.5)).double()
    scores, classes = _classes(outputs, targets)
    return (scores.argmax(1) == classes)[classes != IGNORED].double()


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy in nats; targets are classes, of which -100 does not count, or probabilities.

    A single logit a sample is that of class 1: see `binary_cross_entropy`.
    """
    if _single_logit(outputs):
        return binary_cross_entropy(outputs, targets)
    if isinstance(targets, Tensor) and targets.is_floating_point():
        return F.cross_entropy(outputs.double(), _shaped(targets, outputs.shape).double())
    scores, classes = _classes(outputs, targets)
    return F.cross_entropy(scores.double(), classes.long(), ignore_index=IGNORED)


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


def metrics_of(metric: str | Metric | Mapping[str, Metric] | None, outputs: Tensor, targets: Any) -> dict[str, Metric]:
    """The metrics by name that the argument `metric` of `bnstudy.diagnose` means, given the answer to a batch.

    Raises:
        UserError: an unknown name, an empty mapping, or no function.
    """
    if metric is None:
        return default_metrics(outputs, targets)
    if isinstance(metric, str):
        if metric not in NAMED:
            raise UserError(f"metric: {metric!r} is unknown; use {', '.join(NAMED)}, or a function of (outputs, targets)")
        return {metric: NAMED[metric]}
    if not isinstance(metric, Mapping):
        if not callable(metric):
            kind = type(metric).__name__
            raise UserError(f"metric: something of type {kind} is no function; use {', '.join(NAMED)}, or a function")
        metric = {getattr(metric, "__name__", type(metric).__name__): metric}
    if not metric:
        raise UserError("metric: an empty mapping; give at least one function of (outputs, targets)")
    for name, given in metric.items():
        if not callable(given):
            kind = type(given).__name__
            raise UserError(f"metric: {name!r} is something of type {kind}; a function of (outputs, targets) expected")
    return dict(metric)


def direction_of(name: str, higher: bool | Mapping[str, bool] | None) -> str | None:
    """Which side of a metric is better, "higher" or "lower"; None where nobody says."""
    known = metric_of(name).direction
    if isinstance(higher, Mapping):
        higher = higher.get(name)
    elif known is not None:
        return known  # what is said of all metrics is said of the user's own
    return known if higher is None else "higher" if higher else "lower"


def default_metrics(outputs: Tensor, targets: object) -> dict[str, Metric]:
    """What is measured if nobody says.

    Accuracy and loss of classes (also of one logit against 0 and 1), loss against probabilities, binary cross-entropy of
    logits against several labels, squared error of values, else the outputs' scale. Outputs that are probabilities already
    (all from 0 to 1) are compared with 0 and 1 by squared error, Brier's score.
    """
    if not isinstance(targets, Tensor) or targets.is_complex():
        return {"output_rms": output_rms}
    labels = targets.is_floating_point() or _single_logit(outputs)
    shapes = (outputs.shape[:1] + outputs.shape[2:], outputs.shape[:-1])  # classes in dimension 1, or in the last one
    if not labels and targets.dtype != torch.bool and any(_fits(targets, shape) for shape in shapes):
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


def _classes(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Scores with the classes in dimension 1, and targets that fit: classes are dimension 1, as in torch, or the last one.

    Raises:
        ValueError: targets that fit neither, or both; a label that is no class.
    """
    first, last = outputs.shape[:1] + outputs.shape[2:], outputs.shape[:-1]
    fits = [isinstance(targets, Tensor) and _fits(targets, shape) for shape in (first, last)]
    if outputs.dim() > 2 and all(fits):
        raise ValueError(
            f"classes may be dimension 1 or the last one, both of {outputs.size(1)}: give a function that says which"
        )
    if fits[1] and not fits[0]:
        outputs, first = outputs.movedim(-1, 1), last
    classes = _shaped(targets, first)
    wrong = classes[(classes != IGNORED) & ((classes < 0) | (classes >= outputs.size(1)))]
    if wrong.numel():
        raise ValueError(
            f"label {wrong[0].item():g} is none of the {outputs.size(1)} classes: set what is not labelled to {IGNORED}, "
            "or give a function with its ignore_index"
        )
    return outputs, classes


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
            f"metric: {name!r} fails on outputs of shape {tuple(outputs.shape)} ({one_line(error)}); a function of "
            "(outputs, targets) that returns a number, or one a sample, expected"
        ) from error


class Means:
    """Weighted means of several conditions over batches: any contrast of them has a standard error.

    Args:
        names: the conditions.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = list(names)
        self._values, self._weights = array("d"), array("d")  # eight bytes a number

    @property
    def batches(self) -> int:
        """How many there are."""
        return len(self._weights)

    def add(self, values: Sequence[float], weight: float) -> None:
        """Take in a batch: one number a condition, and its number of samples."""
        self._values.extend(values)
        self._weights.append(weight)

    def contrast(self, **factors: float) -> Measured:
        """Σ factor·mean over the named conditions.

        The error is that of a ratio of sums: Var = Σ w²(x - x̄)²/(Σ w)² · B/(B-1) for B batches of weight w.
        """
        rows, weights = np.array(self._values).reshape(-1, len(self.names)), np.array(self._weights)
        columns = rows[:, [self.names.index(name) for name in factors]]
        values = columns @ np.fromiter(factors.values(), np.float64)
        mean = float(weights @ values / weights.sum())
        if len(values) < 2:
            return Measured(mean, math.nan)
        spread = math.sqrt(float(np.square(weights * (values - mean)).sum()) * len(values) / (len(values) - 1))
        error = spread / float(weights.sum())
        # Rounding of a contrast that does not vary is none.
        return Measured(mean, 0.0 if error < 1e-13 * np.abs(columns).max() else error)


def smallest_effect(metric: str, level: float) -> float:
    """The smallest effect of interest: 0.1 pp of accuracy, 0.005 nats of a loss; of other metrics a hundredth of the level.

    Args:
        metric: its name.
        level: its size, the larger of two that are compared.
    """
    return {"accuracy": 0.001, "loss": 0.005, "bce": 0.005}.get(metric, 0.01 * level)


def chance(measured: Measured, batches: int) -> float:
    """The chance that luck alone makes a paired difference, by a t-test over batches; 1 where one batch leaves no error."""
    if not math.isfinite(measured.error):
        return 1.0
    if measured.error == 0:
        return 1.0 if measured.value == 0 else 0.0
    return float(2 * stats.t.sf(abs(measured.value / measured.error), batches - 1))
