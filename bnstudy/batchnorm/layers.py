"""Drop-in BatchNorm layers that take a variance convention, all of them on PyTorch's native kernel."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bnstudy.batchnorm import ghost
from bnstudy.batchnorm.averages import PENDING, Moments, MovingAverages
from bnstudy.batchnorm.conventions import Convention, bessel

Observer = Callable[[Tensor, Tensor, int], None]
"""Called with batch means and unbiased variances, both (groups, channels), and m, the values per channel in a group."""


class _PaperOnly:
    """Refuses tools that would swap a layer for a `paper` one behind the user's back.

    `torch.nn.SyncBatchNorm.convert_sync_batchnorm` replaces a BatchNorm by torch's own, which knows `paper` only, and leaves
    no way to refuse but the attribute `qconfig` that it asks for (so does eager-mode quantisation). Under `paper` the
    swap is right and goes through.
    """

    def __get__(self, layer: ConventionBatchNorm | None, owner: type[ConventionBatchNorm]) -> Any:
        if layer is None:
            return self
        if layer.convention.name != "paper" or layer.norm_batch_size is not None:
            raise TypeError(
                f"convention: {layer.convention.name!r} with norm_batch_size={layer.norm_batch_size} has no counterpart in "
                "torch's SyncBatchNorm or quantised layers, which are 'paper' over the whole batch; "
                "convert(model, 'paper') first if that is what you want"
            )
        raise AttributeError("qconfig")


class ConventionBatchNorm(MovingAverages):
    r"""BatchNorm with a choice of variance, for training and for inference.

    For a channel with m values (m = N for features, N·H·W for images), batch mean μ_B and s² either Σ(x-μ_B)²/m (biased)
    or Σ(x-μ_B)²/(m-1) (unbiased; c = m/(m-1) times the biased one):

        train   y = γ·(x-μ_B)/√(s²_normalize + ε) + β
        update  v ← (1-α)·v + α·s²_accumulate,   μ̂ ← (1-α)·μ̂ + α·μ_B        α is `momentum`
        eval    y = γ·(x-μ̂)/√(v + ε) + β

    Unbiased normalisation needs no kernel of its own, since √(c·s²_biased + ε) = √c·√(s²_biased + ε/c):

        BN_unbiased(x; γ, ε) = BN_biased(x; γ/√c, ε/c),   values and gradients both.

    A biased update takes the kernel's unbiased one from a buffer of zeros: t = α·s²_unbiased, v ← (1-α)·v + t/c. For the
    total variance s²_accumulate is s²_biased + (1 - α/2)·(μ_B - μ̂)² with μ̂ before its update (`MovingAverages`).

    Backward, with x̂ the normalised activation, σ = √(s²_normalize + ε) and dy the gradient of the output; sums and means
    run over the m values of the channel:

        dβ = Σ dy,   dγ = Σ dy·x̂
        biased     dx = γ/σ · (dy - mean(dy) - x̂·Σ(dy·x̂)/m)            (Ioffe & Szegedy 2015, section 3)
        unbiased   dx = γ/σ · (dy - mean(dy) - x̂·Σ(dy·x̂)/(m-1))        (since ∂s²_unbiased/∂x = 2(x-μ_B)/(m-1))

    Args:
        num_features: channels C of an input of shape (N, C, *spatial).
        eps: ε, added to the variance inside the root. Default: 1e-5.
        momentum: α, the weight of the new batch; None for the cumulative average over all batches. Default: 0.1.
        affine: learn γ and β. Default: True.
        track_running_stats: keep μ̂ and v; without them inference uses the batch's statistics. Default: True.
        device, dtype: of the parameters and buffers.
        bias: learn β (needs a torch whose own BatchNorm takes it). Default: True.
        convention: a name ("paper", "consistent_unbiased", "consistent_biased", "inverted", "total"), an alias ("pytorch",
            "karpathy", "flax"), or a pair (normalize, accumulate). Default: "paper", bit-identical to torch's layer.
        norm_batch_size: take statistics over consecutive groups of that many samples (ghost batches, Hoffer et al. 2017)
            instead of the whole batch. A remainder is a group of its own. One running update a step, of the mean over
            groups, each weighted by its samples, so that the lag does not depend on the group's size. Default: None.

    Raises:
        ValueError: an unknown convention; a norm_batch_size below 1; in training, a batch or group with one value per
            channel, or an input with a wrong number of dimensions (as torch's layers do).

    Source: Ioffe & Szegedy 2015, Algorithms 1 and 2; docs/method.md, "One kernel for all".
    """

    # What evaluation uses instead of the running buffers: (mean, variance), or the batch's own; see `inference.py`.
    override: tuple[Tensor, Tensor] | None = None
    force_batch_statistics: bool = False
    observer: Observer | None = None
    qconfig = _PaperOnly()

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        bias: bool = True,
        convention: str | Sequence[str] | Convention = "paper",
        norm_batch_size: int | None = None,
    ) -> None:
        options: dict[str, Any] = {} if bias else {"bias": False}  # older torch has no such argument
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype, **options)
        self.set_convention(convention, norm_batch_size)

    def set_convention(
        self, convention: str | Sequence[str] | Convention, norm_batch_size: int | None = None
    ) -> ConventionBatchNorm:
        """Take another convention and group size; parameters and buffers keep what they hold.

        Raises:
            ValueError: see the class.
        """
        self.convention, self.norm_batch_size = Convention.parse(convention), ghost.group_size(norm_batch_size)
        return self

    def extra_repr(self) -> str:
        group = "" if self.norm_batch_size is None else f", norm_batch_size={self.norm_batch_size}"
        return f"{super().extra_repr()}, convention={self.convention.name}{group}"  # type: ignore[no-untyped-call]

    def __dir__(self) -> list[str]:
        # Tools that read every attribute (torch.jit.trace, inspect.getmembers) must not meet the refusal of `qconfig`.
        return [name for name in super().__dir__() if name != "qconfig"]  # type: ignore[no-untyped-call]

    def forward(self, input: Tensor) -> Tensor:
        """Normalise `input`, of shape (N, C, *spatial); in training mode, update the running buffers.

        Raises:
            ValueError: see the class.
        """
        self._check_input_dim(input)  # type: ignore[no-untyped-call]
        mean, var = self.running_mean, self.running_var
        alpha = None
        if self.training:
            if self.track_running_stats and mean is not None and var is not None:
                batches = cast(Tensor, self.num_batches_tracked).add_(1)
                alpha = 1.0 / float(batches) if self.momentum is None else self.momentum
        elif not self.force_batch_statistics:
            if self.override is not None:
                mean, var = self.override
            if mean is not None:
                return F.batch_norm(input, mean, var, self.weight, self.bias, False, 0.0, self.eps)
        if self.observer is not None or self.norm_batch_size is not None:
            return self._measured(input, alpha)
        if alpha is None or mean is None or var is None:
            return self._native(input)
        alone = not self.tracks_all_statistics and self.convention.accumulate != "total"
        if alone and self.convention.accumulate == "unbiased":
            return self._native(input, mean, var, alpha)
        m = _values_per_channel(input)
        if m == 0:
            return self._native(input)  # an empty batch leaves the buffers alone
        # The kernel keeps the buffers it is given for its backward, so what is written afterwards is given to it as a copy.
        batch_var = torch.zeros_like(var)
        if alone:
            output = self._native(input, mean, batch_var, alpha)  # batch_var becomes α·s²_unbiased
            var.add_(var, alpha=-alpha).add_(batch_var, alpha=(m - 1) / m)
            return output
        batch_mean = torch.zeros_like(mean)
        output = self._native(input, batch_mean, batch_var, 1.0)  # they become the batch's own statistics
        if self.pending is not None and self.momentum is not None:
            self.pending.append((batch_mean, batch_var, m))
            if len(self.pending) == PENDING:
                self.take_pending()
            return output
        self._update(Moments(batch_mean, batch_var.sub(batch_var, alpha=1 / m), batch_var), alpha)
        return output

    def _native(
        self,
        input: Tensor,
        running_mean: Tensor | None = None,
        running_var: Tensor | None = None,
        alpha: float = 0.0,
        groups: int = 1,
    ) -> Tensor:
        """One native call on batch statistics under the normalising variance; γ and β are repeated for each group."""
        weight: Tensor | None = self.weight
        bias: Tensor | None = self.bias
        eps = self.eps
        if groups > 1:
            weight = None if weight is None else weight.repeat(groups)
            bias = None if bias is None else bias.repeat(groups)
        if self.convention.normalize == "unbiased":
            m = _values_per_channel(input)
            c = bessel(m) if m != 1 else 1.0  # the kernel refuses a single value, with torch's own words
            eps /= c
            # A product with a tensor, since one with a number has a slower backward.
            gain = torch.full_like(self._fresh(input, input.size(1)) if weight is None else weight, c**-0.5)
            weight = gain if weight is None else weight * gain
        return F.batch_norm(input, running_mean, running_var, weight, bias, True, alpha, eps)

    def _measured(self, input: Tensor, alpha: float | None) -> Tensor:
        """Batch mode in groups, each group's statistics shown to the observer; α is None where no average is updated."""
        parts = ghost.split(input, self.norm_batch_size)
        m = [_values_per_channel(part) // groups for part, groups in parts]
        if m[-1] == 0:
            return self._native(input)
        if 1 in m:
            cut = "" if self.norm_batch_size is None else f", cut into groups by norm_batch_size={self.norm_batch_size}"
            raise ValueError(f"Expected more than 1 value per channel when training, got input size {input.size()}{cut}")
        outputs, means, variances = [], [], []
        for part, groups in parts:
            mean, var = self._fresh(input, groups * self.num_features), self._fresh(input, groups * self.num_features)
            output = self._native(ghost.groups_to_channels(part, groups), mean, var, 1.0, groups)
            outputs.append(ghost.channels_to_groups(output, groups))
            means.append(mean.view(groups, -1))
            variances.append(var.view(groups, -1))
        if self.observer is not None:
            for batch in zip(means, variances, m, strict=True):
                self.observer(*batch)
        if alpha is not None:
            self._update(ghost.moments(means, variances, [part.size(0) for part, _ in parts], m), alpha)
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)

    def _fresh(self, input: Tensor, channels: int) -> Tensor:
        """A buffer of zeros of the type that the kernel wants beside `input` and the layer's own tensors."""
        like = self.weight if self.running_mean is None else self.running_mean
        if like is not None:
            dtype = like.dtype
        else:
            dtype = torch.float32 if input.dtype in (torch.float16, torch.bfloat16) else input.dtype
        return torch.zeros(channels, dtype=dtype, device=input.device)


class BatchNorm1d(ConventionBatchNorm, nn.BatchNorm1d):
    __doc__ = f"For inputs of shape (N, C) or (N, C, L). {ConventionBatchNorm.__doc__}"


class BatchNorm2d(ConventionBatchNorm, nn.BatchNorm2d):
    __doc__ = f"For inputs of shape (N, C, H, W). {ConventionBatchNorm.__doc__}"


class BatchNorm3d(ConventionBatchNorm, nn.BatchNorm3d):
    __doc__ = f"For inputs of shape (N, C, D, H, W). {ConventionBatchNorm.__doc__}"


BATCHNORM_LAYERS = (BatchNorm1d, BatchNorm2d, BatchNorm3d)


def _values_per_channel(input: Tensor) -> int:
    return input.size(0) * math.prod(input.shape[2:])
