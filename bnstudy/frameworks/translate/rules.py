"""The formulas of a translation, on the tensors of one layer; float64 inside, the tensor's own type outside."""

from __future__ import annotations

import torch
from torch import Tensor

from bnstudy.batchnorm.conventions import Convention, bessel
from bnstudy.errors import UserError


def normalising_ratio(source: Convention, target: Convention, m: int) -> float:
    """The factor k = k_target/k_source between the training divisors of two conventions at m values per channel."""
    return target.divisor(m) / source.divisor(m)


def accumulating_ratio(source: Convention, target: Convention, m: int) -> float:
    """The factor A = A_target/A_source between the variances that two conventions accumulate at m values per channel.

    Raises:
        UserError: see `check_stored`.
    """
    check_stored(source, target)
    powers = {("biased", "unbiased"): 1, ("unbiased", "biased"): -1}
    return float(bessel(m) ** powers.get((source.accumulate, target.accumulate), 0))


def check_stored(source: Convention, target: Convention) -> None:
    """Refuse two conventions of which one stores the total variance: no m says what the batch means add to it.

    Raises:
        UserError: exactly one of them does.
    """
    stored = {source.accumulate, target.accumulate}
    if len(stored) == 2 and "total" in stored:
        raise UserError(
            "convention: 'total' stores E[s²] + Var(mean of a batch), and no factor leads to it from another stored "
            "variance, or back; use --keep inference, or measure it on data with bnstudy diagnose --recalibrate"
        )


def as_trained(variance: Tensor, ratio: float, source_start: float, target_start: float) -> Tensor:
    """The running variance as the target would have stored it, fed the batches that the source was fed.

    After t batches a moving average of weight α still holds the share w = (1-α)ᵗ of its start value 1, which no convention
    rescales; the rest is the batches' and carries the convention's factor:

        v_target = w_target + (1-w_target)/(1-w_source) · A·(v_source - w_source)

    With equal shares, biased to unbiased, this is v_u = c·(v_b - (1-α)ᵗ) + (1-α)ᵗ.

    Args:
        variance: running variance of the source, shape (channels,).
        ratio: A, see `accumulating_ratio`.
        source_start, target_start: w; 0 for a cumulative or bias-corrected average, 1 before the first batch.

    Returns:
        Shape (channels,).

    Raises:
        ValueError: a variance below what w alone would leave: t, α or the start value are not what they are said to be.

    Source: docs/architecture.md, "Translation".
    """
    if source_start >= 1 or target_start >= 1:
        return variance.clone()
    wide = variance.double()
    if bool((wide < source_start * (1 - 1e-4)).any()):
        raise ValueError(f"a running variance of {float(wide.min()):.4g} is below {source_start:.4g}")
    result = target_start + (1 - target_start) / (1 - source_start) * ratio * (wide - source_start)
    return result.to(variance.dtype)


def start_share(momentum: float | None, steps: int, bias_corrected: bool) -> float:
    """The share w of the start value that is left after `steps` batches; `momentum` None is the cumulative average."""
    if steps == 0:
        return 1.0
    return 0.0 if momentum is None or bias_corrected else float((1.0 - momentum) ** steps)


def fold(gamma: Tensor, variance: Tensor, eps: float, new_eps: float) -> Tensor:
    """The γ that gives the same inference output under another ε.

        γ' = γ·√(v + ε')/√(v + ε)

    Args:
        gamma, variance: shape (channels,).
        eps, new_eps: ε and ε'.
    """
    wide = variance.double()
    return (gamma.double() * torch.sqrt((wide + new_eps) / (wide + eps))).to(gamma.dtype)


def scaled(tensor: Tensor, factor: float) -> Tensor:
    """`tensor` times a number, computed in float64."""
    return (tensor.double() * factor).to(tensor.dtype)
