"""The BatchNorm1d of Karpathy's makemore lecture (part 3), written from its description: unbiased variance on both sides.

The lecture's layer takes x.mean(0) and x.var(0) of (N, C) activations; torch's `var` divides by m-1 unless told otherwise.
Here the statistics run over every axis but the channel's, as the lecture does for (N, T, C) in part 5.
"""

from __future__ import annotations

import torch

from bnstudy.frameworks.audit.experiment import Kind, Stored
from bnstudy.frameworks.audit.observations import Array

_AXES = (0, 2, 3)


class LectureBatchNorm:
    """x̂ = (x - x.mean())/√(x.var() + ε), running statistics of the same mean and variance.

    Args:
        channels: C.
        eps: ε. Default: 1e-5.
        momentum: weight of the new batch. Default: 0.1.
    """

    def __init__(self, channels: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        self.eps, self.momentum, self.training = eps, momentum, True
        shape = (1, channels, 1, 1)
        self.gamma, self.beta = torch.ones(shape), torch.zeros(shape)
        self.running_mean, self.running_var = torch.zeros(shape), torch.ones(shape)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            mean, var = x.mean(_AXES, keepdim=True), x.var(_AXES, keepdim=True)
            self.running_mean = (1 - self.momentum) * self.running_mean + self.momentum * mean
            self.running_var = (1 - self.momentum) * self.running_var + self.momentum * var
        else:
            mean, var = self.running_mean, self.running_var
        return self.gamma * (x - mean) / torch.sqrt(var + self.eps) + self.beta


class _Layer:
    def __init__(self, channels: int, momentum: float | None) -> None:
        self._layer = LectureBatchNorm(channels) if momentum is None else LectureBatchNorm(channels, momentum=momentum)

    def train(self, x: Array) -> Array:
        self._layer.training = True
        return self._layer(torch.from_numpy(x)).numpy()

    def evaluate(self, x: Array) -> Array:
        self._layer.training = False
        return self._layer(torch.from_numpy(x)).numpy()

    def read(self) -> Stored:
        layer = self._layer
        tensors = (layer.running_mean, layer.running_var, layer.gamma, layer.beta)
        return Stored(*(tensor.flatten().numpy().copy() for tensor in tensors))

    def write(self, mean: Array, variance: Array) -> None:
        self._layer.running_mean = torch.from_numpy(mean).view(1, -1, 1, 1)
        self._layer.running_var = torch.from_numpy(variance).view(1, -1, 1, 1)


def kind(name: str) -> Kind:
    """The one kind of this module."""
    return Kind(_Layer, 0.1)
