"""Moving averages of batch statistics: the buffers that a BatchNorm layer keeps beside torch's own, and what they say."""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from bnstudy.batchnorm.conventions import EMA_STATISTICS, STORED, Convention

PENDING = 64
"""Batches that are taken into deferred averages at once."""


class Moments(NamedTuple):
    """A training batch's statistics, averaged over its groups with their shares f of the samples; shapes (channels,).

    Args:
        mean, biased, unbiased: Σ f·μ_B, Σ f·s²_biased, Σ f·s²_unbiased.
        spread: Σ f·(μ_B - mean)², None for a single group.
    """

    mean: Tensor
    biased: Tensor
    unbiased: Tensor
    spread: Tensor | None = None


def surprise_weight(alpha: float, cumulative: bool) -> float:
    """The weight g of (μ_B - μ̂)² in the total variance, μ̂ being the running mean before the batch.

    For batch means that are independent of each other, E[(μ_B - μ̂)²] = Var(μ_B)·(1 + Σw²), with the weights w of sum 1 that
    μ̂ gives to the batches before. g = 1/(1 + Σw²) makes g·(μ_B - μ̂)² unbiased for Var(μ_B). Under a constant α, Σw² is
    α/(2-α) once burnt in, so g = 1 - α/2. Under the cumulative average, α = 1/t for batch t and Σw² = 1/(t-1), so g = 1 - α;
    the first batch has nothing to be compared with (g = 0), and the second counts for both (g = 1).

    Args:
        alpha: weight of the new batch.
        cumulative: whether α is 1/t.

    Source: docs/method.md, "Statistics".
    """
    if not cumulative:
        return 1 - alpha / 2
    return 1.0 if alpha == 0.5 else 1 - alpha


class MovingAverages(nn.modules.batchnorm._BatchNorm):
    """What every convention's layer keeps for inference: torch's running buffers, and on demand the other averages.

    The total variance σ² = E[s²_biased] + Var(μ_B) is an average like the others, of what a batch says of it:

        v ← (1-α)·v + α·(s²_biased + g·(μ_B - μ̂)²),   μ̂ before its own update, g from `surprise_weight`

    so torch's own buffers are all its state: a checkpoint of any layer goes on exactly where it stood. With ghost batches
    the spread of the groups' means around μ_B is added, as the law of total variance asks within a step.
    """

    convention: Convention
    norm_batch_size: int | None
    pending: list[tuple[Tensor, Tensor, int]] | None = None
    """Batch means, unbiased variances and m that are not yet in the averages; None outside `deferred_averages`."""
    ema_var_biased: Tensor
    ema_var_unbiased: Tensor
    ema_var_total: Tensor

    @property
    def tracks_all_statistics(self) -> bool:
        """Whether `track_all_statistics` was called."""
        return "ema_var_biased" in self._buffers

    def track_all_statistics(self) -> None:
        """Keep the moving averages of every variance that can be stored from now on, outside the state_dict.

        All start at the running variance's present value; the running buffers go on as before. Call it before training, and
        again after loading a state_dict.

        Raises:
            ValueError: the layer has no running buffers.
        """
        if self.running_mean is None or self.running_var is None:
            raise ValueError("track_running_stats: False leaves nothing to track; build the layer with True")
        for variance in STORED:
            self.register_buffer(f"ema_var_{variance}", self.running_var.clone(), persistent=False)

    def reset_running_stats(self) -> None:
        """Start the running buffers afresh, and the further averages where they are kept."""
        super().reset_running_stats()
        if self.tracks_all_statistics:
            self.track_all_statistics()

    def ema(self, name: str) -> tuple[Tensor, Tensor]:
        """Mean and variance of a moving-average statistic, each of shape (channels,).

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
        return self.running_mean, self._kept(name.removeprefix("ema_"))

    def _kept(self, variance: str) -> Tensor:
        return cast(Tensor, self._buffers[f"ema_var_{variance}"])

    def _update(self, batch: Moments, alpha: float) -> None:
        """Take a batch into every average with weight α."""
        running_mean = cast(Tensor, self.running_mean)
        own = self.convention.accumulate
        seen = {"biased": batch.biased, "unbiased": batch.unbiased}
        if own == "total" or self.tracks_all_statistics:
            surprise = batch.mean - running_mean
            weight = surprise_weight(alpha, self.momentum is None)
            seen["total"] = torch.addcmul(batch.biased, surprise, surprise, value=weight)
            if batch.spread is not None:
                seen["total"] = seen["total"] + batch.spread
        averages, values = [running_mean, cast(Tensor, self.running_var)], [batch.mean, seen[own]]
        if self.tracks_all_statistics:
            averages += [self._kept(variance) for variance in seen]
            values += list(seen.values())
        if torch.compiler.is_compiling():  # inductor (torch 2.15) lets one call read a mean that it has already moved
            for average, value in zip(averages, values, strict=True):
                average.lerp_(value, alpha)
        else:
            torch._foreach_lerp_(averages, values, alpha)  # one call: at small batches the calls are what costs

    def take_pending(self) -> None:
        """Take the pending batches b = 1…T into every average, as T single updates would.

        With w_b = α·(1-α)^(T-b), each average becomes (1-α)^T times itself plus Σ w_b·(what batch b says).
        """
        if not self.pending:
            return
        alpha, running_mean = cast(float, self.momentum), cast(Tensor, self.running_mean)
        means, variances, counts = zip(*self.pending, strict=True)
        self.pending.clear()
        mean, unbiased = torch.stack(means), torch.stack(variances)  # (T, channels)
        batches = len(mean)
        decay = (1 - alpha) ** torch.arange(batches + 1, dtype=torch.float64)  # 0 to the power of 0 is 1, as it must
        # Row b: what μ̂ gives to the batches before b, (1-α)^(b-1-i)·α; the last row is what every average gives to all.
        age = torch.arange(batches + 1).unsqueeze(1) - torch.arange(1, batches + 1)
        weights = torch.where(age >= 0, alpha * decay[age.clamp(min=0)], 0.0).to(mean)
        left = decay.to(mean)
        history = torch.addmm(left.unsqueeze(1) * running_mean, weights, mean)  # μ̂ before each batch, and after the last
        biased = unbiased * mean.new_tensor([(m - 1) / m for m in counts]).unsqueeze(1)
        total = torch.addcmul(biased, mean - history[:-1], mean - history[:-1], value=surprise_weight(alpha, False))
        running_mean.copy_(history[-1])
        averages = [cast(Tensor, self.running_var), *(self._kept(variance) for variance in STORED)]
        seen = {"biased": biased, "unbiased": unbiased, "total": total}
        for average, variance in zip(averages, (self.convention.accumulate, *STORED), strict=True):
            average.mul_(left[-1]).add_(weights[-1] @ seen[variance])
