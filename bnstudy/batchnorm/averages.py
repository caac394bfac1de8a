"""Moving averages of batch statistics: the buffers that a BatchNorm layer keeps beside torch's own, and what they say."""

from __future__ import annotations

import math
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from bnstudy.batchnorm.conventions import EMA_STATISTICS, Convention

PENDING = 64
"""Batches that are taken into deferred averages at once."""


class Moments(NamedTuple):
    """A training batch's statistics, averaged over its groups with their shares f of the samples; shapes (channels,).

    Args:
        mean, biased, unbiased: Σ f·μ_B, Σ f·s²_biased, Σ f·s²_unbiased.
        spread: Σ f·(μ_B - mean)², None for a single group.
        share_square: Σ f².
    """

    mean: Tensor
    biased: Tensor
    unbiased: Tensor
    spread: Tensor | None = None
    share_square: float = 1.0


class MovingAverages(nn.modules.batchnorm._BatchNorm):
    """What every convention's layer keeps for inference: torch's running buffers, and on demand the other averages."""

    convention: Convention
    norm_batch_size: int | None
    pending: list[tuple[Tensor, Tensor, int]] | None = None
    """Batch means, unbiased variances and m that are not yet in the averages; None outside `deferred_averages`."""
    ema_var_biased: Tensor
    ema_var_unbiased: Tensor
    ema_mean_variance: Tensor
    ema_weight_square: Tensor | None

    @property
    def tracks_all_statistics(self) -> bool:
        """Whether `track_all_statistics` was called."""
        return "ema_var_biased" in self._buffers

    def track_all_statistics(self) -> None:
        """Keep the moving averages of s²_biased and s²_unbiased and the variance of μ_B from now on, outside the state_dict.

        The first two start at the running variance's present value, the third at 0; the running buffers go on as before.
        Call it before training, and again after loading a state_dict.

        Raises:
            ValueError: the layer has no running buffers.
        """
        if self.running_mean is None or self.running_var is None:
            raise ValueError("track_running_stats: False leaves nothing to track; build the layer with True")
        self.register_buffer("ema_var_biased", self.running_var.clone(), persistent=False)
        self.register_buffer("ema_var_unbiased", self.running_var.clone(), persistent=False)
        # E[μ_B²] - E[μ_B]² by S ← (1-α)·(S + α·(μ_B - μ̂)²), as the difference loses the small variance of a large mean.
        self.register_buffer("ema_mean_variance", torch.zeros_like(self.running_mean), persistent=False)
        groups = None if self.norm_batch_size is None else self.running_mean.new_tensor(self._weight_square())
        self.register_buffer("ema_weight_square", groups, persistent=False)

    def reset_running_stats(self) -> None:
        """Start the running buffers afresh, and the further averages where they are kept."""
        super().reset_running_stats()
        if self.tracks_all_statistics:
            self.track_all_statistics()

    def ema(self, name: str) -> tuple[Tensor, Tensor]:
        """Mean and variance of a moving-average statistic, each of shape (channels,).

        ema_biased and ema_unbiased are the moving averages of s²_biased and s²_unbiased. ema_pooled adds the variance of the
        batch means by the law of total variance, unbiased for the weights w (of sum 1) that the average gives to them:

            v = E[s²_biased] + (E[μ_B²] - E[μ_B]²)/(1 - Σw²)

        1/(1 - Σw²) is (2-α)/(2-2α) for a moving average once burnt in, t/(t-1) after t batches of a cumulative one, and
        less for ghost batches, whose groups share a step's weight. It is NaN where Σw² = 1, as after a single group.

        Raises:
            ValueError: not an `ema_` statistic, or one that the layer does not keep.
        """
        if name not in EMA_STATISTICS:
            raise ValueError(f"statistic: {name!r} is no moving average; use {', '.join(EMA_STATISTICS)}")
        if self.running_mean is None or self.running_var is None:
            raise ValueError(f"statistic: {name!r} needs running buffers; this layer has track_running_stats=False")
        if name == self.convention.own_statistic:
            return self.running_mean, self.running_var
        if not self.tracks_all_statistics:
            raise ValueError(f"statistic: {name!r} is not kept by this layer; call track_all_statistics() before training")
        if name != "ema_pooled":
            return self.running_mean, self.ema_var_biased if name == "ema_biased" else self.ema_var_unbiased
        weight_square = self.weight_square
        correction = 1 / (1 - weight_square) if weight_square < 1 else math.nan
        return self.running_mean, self.ema_var_biased + self.ema_mean_variance * correction

    @property
    def weight_square(self) -> float:
        """Σw² of the weights w, of sum 1, that the averages give to the groups of samples they have seen."""
        tracked = self._buffers.get("ema_weight_square")
        return self._weight_square() if tracked is None else float(tracked)

    def _weight_square(self) -> float:
        """Σw² of the batches in the average, one group each: its limit for a moving average."""
        if self.momentum is not None:
            return self.momentum / (2 - self.momentum)
        return 1 / max(1.0, 0.0 if self.num_batches_tracked is None else float(self.num_batches_tracked))

    def _update(self, batch: Moments, alpha: float) -> None:
        """Take a batch into every average with weight α."""
        own = batch.biased if self.convention.accumulate == "biased" else batch.unbiased
        averages, values = [cast(Tensor, self.running_mean), cast(Tensor, self.running_var)], [batch.mean, own]
        if self.tracks_all_statistics:
            variance = self.ema_mean_variance
            deviation = batch.mean - averages[0]
            variance.addcmul_(deviation, deviation, value=alpha).add_(variance, alpha=-alpha)
            if batch.spread is not None:
                variance.add_(batch.spread, alpha=alpha)
            if self.ema_weight_square is not None:
                self.ema_weight_square.mul_((1 - alpha) ** 2).add_(alpha**2 * batch.share_square)
            averages += [self.ema_var_biased, self.ema_var_unbiased]
            values += [batch.biased, batch.unbiased]
        torch._foreach_lerp_(averages, values, alpha)  # one call: at small batches the calls are what costs

    def take_pending(self) -> None:
        """Take the pending batches b = 1…T into every average, as T single updates would.

        With w_b = α·(1-α)^(T-b): μ̂ ← (1-α)^T·μ̂ + Σ w_b·μ_b, likewise the variances, and for the variance of the means
        S ← (1-α)^T·(S + (μ̂_old - μ̂_new)²) + Σ w_b·(μ_b - μ̂_new)².
        """
        if not self.pending:
            return
        alpha, running_mean = cast(float, self.momentum), cast(Tensor, self.running_mean)
        means, variances, counts = zip(*self.pending, strict=True)
        self.pending.clear()
        mean, unbiased = torch.stack(means), torch.stack(variances)  # (T, channels)
        batches = len(mean)
        weight = mean.new_tensor([alpha * (1 - alpha) ** age for age in reversed(range(batches))])
        left = (1 - alpha) ** batches
        mean_now = left * running_mean + weight @ mean
        spread = left * (running_mean - mean_now).square() + weight @ (mean - mean_now).square()
        self.ema_mean_variance.mul_(left).add_(spread)
        running_mean.copy_(mean_now)
        new_unbiased = weight @ unbiased
        new_biased = (weight * mean.new_tensor([(m - 1) / m for m in counts])) @ unbiased
        own = new_biased if self.convention.accumulate == "biased" else new_unbiased
        averages = (self.ema_var_biased, self.ema_var_unbiased, cast(Tensor, self.running_var))
        for average, new in zip(averages, (new_biased, new_unbiased, own), strict=True):
            average.mul_(left).add_(new)
