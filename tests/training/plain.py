"""A network with BatchNorm written in plain tensor operations: the oracle of what batch mode computes."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from bnstudy.batchnorm.layers import ConventionBatchNorm


class PlainNorm(nn.Module):
    """Batch statistics of consecutive groups, in plain operations; keeps the statistics it met.

    Args:
        layer: whose γ, β and ε to take.
        group: samples a group; None for the whole batch.
    """

    def __init__(self, layer: ConventionBatchNorm, group: int | None) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = layer.weight, layer.bias, layer.eps
        self.ddof = 1 if layer.convention.normalize == "unbiased" else 0
        self.group = group
        self.seen: list[tuple[Tensor, Tensor, int]] = []
        self.fixed: tuple[Tensor, Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        parts = [x] if self.fixed is not None or self.group is None else list(x.split(self.group))
        return torch.cat([self.normalised(part) for part in parts])

    def normalised(self, x: Tensor) -> Tensor:
        axes, shape = (0, *range(2, x.dim())), (1, -1, *(1,) * (x.dim() - 2))
        if self.fixed is None:
            mean, total = x.mean(axes), (x - x.mean(axes, keepdim=True)).square().sum(axes)
            m = x.numel() // x.size(1)
            self.seen.append((mean, total, m))
            variance = total / (m - self.ddof)
        else:
            mean, variance = self.fixed
        return (x - mean.view(shape)) / (variance.view(shape) + self.eps).sqrt() * self.weight.view(shape) + self.bias.view(
            shape
        )


def plain_copy(model: nn.Module) -> tuple[nn.Module, dict[str, PlainNorm]]:
    """A copy of a single network with plain norms, and these by name."""
    model = copy.deepcopy(model)
    norms = {}
    for name, layer in list(model.named_modules()):
        if isinstance(layer, ConventionBatchNorm):
            path, _, last = name.rpartition(".")
            norms[name] = PlainNorm(layer, layer.norm_batch_size)
            setattr(model.get_submodule(path), last, norms[name])
    return model, norms
