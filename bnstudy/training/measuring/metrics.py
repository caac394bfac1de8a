"""How good predictions are, and how far two predictions of the same samples lie apart; one number a replica."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from bnstudy.metric import metrics_for

CALIBRATION_BINS = 15


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


def distances(task: str, outputs: Tensor, reference: Tensor) -> dict[str, list[float]]:
    """How far predictions under one statistic lie from those under another, on the same weights and samples.

        flip_rate      share of samples whose predicted class differs
        rms_distance   √ mean (z - z_ref)² over samples and outputs, in logits or target units
        kl             mean KL(reference ‖ prediction), nats

    Args:
        task: "classification", or "regression" (rms_distance only).
        outputs, reference: (n, replicas, K), the same samples in the same order.

    Returns:
        For each measure one number a replica; NaN where a replica's outputs are not finite.

    Source: Kullback & Leibler 1951 for kl; docs/method.md, "Statistics".
    """
    outputs, reference = outputs.double(), reference.double()
    result = {"rms_distance": (outputs - reference).square().mean((0, 2)).sqrt()}
    if task == "classification":
        flips = (outputs.argmax(2) != reference.argmax(2)).double().mean(0)
        log_p, log_q = reference.log_softmax(2), outputs.log_softmax(2)
        result["flip_rate"] = flips
        # Rounding can make a KL of nearly equal distributions a little negative.
        result["kl"] = (log_p.exp() * (log_p - log_q)).sum(2).mean(0).clamp(min=0.0)
    finite = (outputs.isfinite() & reference.isfinite()).all(2).all(0)
    return {measure: torch.where(finite, values, torch.nan).tolist() for measure, values in result.items()}
