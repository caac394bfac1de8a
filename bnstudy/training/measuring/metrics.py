"""How good predictions are, and how far two predictions of the same samples lie apart; one number a replica."""

from __future__ import annotations

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

    Source: Naeini et al. 2015 for ece; bnstudy issue 2. The tests hold ece and r2 against torchmetrics, whose import alone
    takes longer than a small training (it loads torchvision and torch's compiler).
    """
    finite = outputs.isfinite().all(2).all(0)
    wide = torch.promote_types(outputs.dtype, torch.float32)
    rows = [
        _measure_one(task, outputs[:, replica].to(wide), targets[:, replica]) if ok else {}
        for replica, ok in enumerate(finite.tolist())
    ]
    return {metric: [row.get(metric, float("nan")) for row in rows] for metric in metrics_for(task)}


def _measure_one(task: str, outputs: Tensor, targets: Tensor) -> dict[str, float]:
    if task == "regression":
        mse = F.mse_loss(outputs.double(), targets.double())
        if len(outputs) < 2:  # no variance to explain
            return {"mse": float(mse)}
        # Several targets: the mean of their r2.
        variance = targets.double().var(0, correction=0)
        r2 = (1 - (outputs.double() - targets.double()).square().mean(0) / variance).mean()
        return {"r2": float(r2), "mse": float(mse)}
    log_probabilities = outputs.double().log_softmax(1)
    log_confidence, predicted = log_probabilities.max(1)
    correct = (predicted == targets).double()
    return {
        "accuracy": float(correct.mean()),
        "loss": float(F.nll_loss(log_probabilities, targets)),
        "ece": _calibration_error(log_confidence.exp(), correct),
    }


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

    Source: bnstudy issue 2, part 8.
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
