"""What batch statistics say about a layer: estimates with standard errors over batches, for replicas side by side."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Estimate(NamedTuple):
    """A number for each replica.

    Args:
        value, error: the estimate and its standard error, shape (replicas,), float64.
    """

    value: Tensor
    error: Tensor


def varying(means: Tensor, variances: Tensor) -> Tensor:
    """Which channels are not constant: those whose variance is more than the rounding of their values.

    Args:
        means, variances: μ and σ² of the values, any shape, in the precision that they were measured in.

    Returns:
        Booleans of that shape. A variance that is no number counts as one that varies, so that it shows.
    """
    rounding = 64 * torch.finfo(means.dtype).eps
    return ~(variances.sqrt() <= rounding * means.abs())  # not squared, where infinite would equal infinite


def total_variance(means: Tensor, variances: Tensor) -> Tensor:
    """σ² = E[s²_biased] + Var(μ_B), the law of total variance.

    Args:
        means: batch means μ_B, shape (batches, …).
        variances: biased batch variances s²_B, of the same shape.

    Returns:
        σ², shape (…); Var(μ_B) has divisor batches − 1.
    """
    return variances.mean(0) + means.var(0, correction=1)


def inverse_effective_size(means: Tensor, variances: Tensor, alive: Tensor) -> Estimate:
    """1/m_eff = Var(μ_B)/σ², averaged over channels; m_eff is the number of independent samples that a batch is worth.

    The standard error is the delta method's: with V = Var(μ_B), S = E[s²_biased] and f = V/(V + S) of a channel, batch b
    moves the average by the mean over channels of

        ((1 - f)·((μ_b - μ̄)² - V) - f·(s²_b - S))/σ²

    and its spread over batches gives the error, whatever the channels have in common.

    Args:
        means: batch means μ_B, shape (batches, replicas, channels).
        variances: biased batch variances s²_B, likewise.
        alive: channels to average over, (replicas, channels).

    Returns:
        1/m_eff; 0 where the batch means do not vary, NaN where no channel is alive.

    Raises:
        ValueError: fewer than two batches.

    Source: docs/method.md, "Theory, layer by layer".
    """
    if len(means) < 2:
        raise ValueError(f"batches: {len(means)} have no variance of their means; use 2 or more")
    means, variances = means.double(), variances.double()
    between, within = means.var(0, correction=1), variances.mean(0)
    total = between + within
    share = between / total
    moves = (1 - share) * ((means - means.mean(0)).square() - between) - share * (variances - within)
    influence = over_channels(moves / total, alive)
    return Estimate(over_channels(share, alive), influence.std(0, correction=1) / math.sqrt(len(means)))


def squared_variation(variances: Tensor, alive: Tensor) -> Estimate:
    """CV²(s²) = Var(s²)/E[s²]², averaged over channels: how noisy a batch's variance is; 2/(m-1) for Gaussian samples.

    The standard error is the delta method's: with S = E[s²] and v = Var(s²) of a channel, batch b moves the average by the
    mean over channels of ((s²_b - S)² - v)/S² - 2·v·(s²_b - S)/S³.

    Args:
        variances: batch variances of either divisor, (batches, replicas, channels).
        alive: channels to average over, (replicas, channels).

    Returns:
        CV²; NaN where no channel is alive.

    Raises:
        ValueError: fewer than two batches.

    Source: docs/method.md, "Probes".
    """
    if len(variances) < 2:
        raise ValueError(f"batches: {len(variances)} have no variance of their variances; use 2 or more")
    relative = variances.double() / variances.double().mean(0) - 1
    value = relative.var(0, correction=1)
    influence = over_channels(relative.square() - value - 2 * value * relative, alive)
    return Estimate(over_channels(value, alive), influence.std(0, correction=1) / math.sqrt(len(variances)))


def ratio_of_means(above: Tensor, below: Tensor) -> Estimate:
    """E[above]/E[below] over batches, with the delta method's error: that of the mean of (above − ratio·below)/E[below].

    Args:
        above, below: one number a batch and replica, shape (batches, replicas).

    Returns:
        The ratio of the means.

    Raises:
        ValueError: fewer than two batches.
    """
    if len(above) < 2:
        raise ValueError(f"batches: {len(above)} give no standard error; use 2 or more")
    scale = below.mean(0)
    ratio = above.mean(0) / scale
    return Estimate(ratio, ((above - ratio * below) / scale).std(0, correction=1) / math.sqrt(len(above)))


def over_channels(values: Tensor, alive: Tensor) -> Tensor:
    """Mean over the channels that are alive: (…, replicas, channels) to (…, replicas); NaN where none is."""
    return torch.where(alive, values, 0.0).sum(-1) / alive.sum(-1)
