"""How good predictions are, as a whole and in parts of the samples."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from bnstudy.metric import metrics_for

CALIBRATION_BINS = 15
FOLDS = 200
"""Parts of a split between which differences are compared; their spread has a standard error of 5 %."""


def measure(task: str, outputs: Tensor, targets: Tensor) -> dict[str, list[float]]:
    """Metrics of every replica.

    accuracy, 0 to 1; loss, mean cross-entropy in nats; ece, calibration error over 15 bins of equal width, L1, 0 to 1;
    r2, share of variance explained; mse, in squared units of the (standardised) target. A replica with a non-finite output
    has NaN in every metric.

    Args:
        task: "classification" or "regression".
        outputs: logits or predictions, (n, replicas, K).
        targets: (n, replicas) class numbers, or (n, replicas, K) values.

    Returns:
        For each metric of the task one number a replica.

    Source: Naeini et al. 2015 for ece; docs/architecture.md, "How to add". The tests hold ece and r2 against torchmetrics,
    whose import alone takes longer than a small training (it loads torchvision and torch's compiler).
    """
    finite = outputs.isfinite().all(2).all(0).tolist()
    measured: dict[str, list[float]] = {metric: [] for metric in metrics_for(task)}
    for replica, ok in enumerate(finite):
        answers = outputs[:, replica].double()
        if task == "classification":
            answers = answers.log_softmax(1)
        for metric, values in measured.items():
            values.append(FORMULAS[metric](answers, targets[:, replica]) if ok else math.nan)
    return measured


def _accuracy(log_probabilities: Tensor, targets: Tensor) -> float:
    return float((log_probabilities.max(1).indices == targets).double().mean())


def _loss(log_probabilities: Tensor, targets: Tensor) -> float:
    return float(F.nll_loss(log_probabilities, targets))


def _ece(log_probabilities: Tensor, targets: Tensor) -> float:
    log_confidence, predicted = log_probabilities.max(1)
    return _calibration_error(log_confidence.exp(), (predicted == targets).double())


def _r2(predictions: Tensor, targets: Tensor) -> float:
    """Of several targets, the mean of their r2."""
    if len(predictions) < 2:  # no variance to explain
        return math.nan
    variance = targets.double().var(0, correction=0)
    return float((1 - (predictions - targets.double()).square().mean(0) / variance).mean())


def _mse(predictions: Tensor, targets: Tensor) -> float:
    return float(F.mse_loss(predictions, targets.double()))


FORMULAS: dict[str, Callable[[Tensor, Tensor], float]] = {
    "accuracy": _accuracy,
    "loss": _loss,
    "ece": _ece,
    "r2": _r2,
    "mse": _mse,
}
"""How each metric of a study is computed, from one replica's float64 outputs, (n, K), and its targets: log-probabilities and
class numbers (n,) in a classification, predictions and values (n, K) in a regression."""


def _calibration_error(confidence: Tensor, correct: Tensor) -> float:
    """Σ over bins of |share correct − mean confidence|·share of samples, for bins [k/15, (k+1)/15) of the confidence."""
    edges = torch.linspace(0, 1, CALIBRATION_BINS + 1, dtype=confidence.dtype, device=confidence.device)
    bins = (torch.bucketize(confidence, edges, right=True) - 1).clamp(max=CALIBRATION_BINS - 1)
    surplus = torch.zeros(CALIBRATION_BINS, dtype=confidence.dtype, device=confidence.device)
    return float(surplus.index_add(0, bins, correct - confidence).abs().sum() / len(confidence))


def by_fold(task: str, outputs: Tensor, targets: Tensor, folds: int = FOLDS) -> dict[str, list[float]]:
    """Metrics of parts of the samples, averaged over replicas: what tells how much of a difference is the samples' luck.

    Sample i is in fold i mod `folds`. Two conditions measured on the same samples differ fold by fold, and the spread of
    those differences over folds gives the standard error that a finite split leaves in their mean, paired by sample. Of the
    metrics only means over samples have folds: accuracy and loss, or mse and r2, whose variance to explain is that of all
        samples.

    Args:
        task, outputs, targets: as for `measure`; samples in the split's order.
        folds: how many; fewer samples than that are one a fold.

    Returns:
        For each metric one number a fold; replicas with an output that is not finite are left out, and where none is left
        all are NaN.

    Source: the method of batch means, Law 2015, section 9.5.3.
    """
    finite = outputs.isfinite().all(2).all(0)
    outputs, targets = outputs[:, finite].double(), targets[:, finite]
    if task == "classification":
        log_probabilities = outputs.log_softmax(2)
        values = {
            "accuracy": (outputs.argmax(2) == targets).double(),
            "loss": -log_probabilities.gather(2, targets.unsqueeze(2)).squeeze(2),
        }
    else:
        squares = (outputs - targets.double()).square()
        variance = targets.double().var(0, correction=0)
        values = {"r2": (1 - squares / variance).mean(2), "mse": squares.mean(2)}
    count = min(folds, len(outputs))
    fold = torch.arange(len(outputs), device=outputs.device) % count
    sizes = fold.bincount().double()
    means = {name: value.mean(1) for name, value in values.items()}
    return {name: (torch.zeros_like(sizes).index_add_(0, fold, mean) / sizes).tolist() for name, mean in means.items()}
