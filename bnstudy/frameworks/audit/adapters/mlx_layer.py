"""mlx.nn.BatchNorm, channels last."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from bnstudy.frameworks.audit.experiment import Kind, Stored, default_of, given
from bnstudy.frameworks.audit.observations import Array


class MlxLayer:
    """The layer on the CPU device."""

    def __init__(self, channels: int, momentum: float | None) -> None:
        mx.set_default_device(mx.cpu)
        self._layer = nn.BatchNorm(channels, **given("momentum", momentum))

    def train(self, x: Array) -> Array:
        self._layer.train()
        return self._run(x)

    def evaluate(self, x: Array) -> Array:
        self._layer.eval()
        return self._run(x)

    def read(self) -> Stored:
        layer = self._layer
        return Stored(*(np.array(a) for a in (layer.running_mean, layer.running_var, layer.weight, layer.bias)))

    def write(self, mean: Array, variance: Array) -> None:
        self._layer.running_mean, self._layer.running_var = mx.array(mean), mx.array(variance)

    def _run(self, x: Array) -> Array:
        return np.array(self._layer(mx.array(x.transpose(0, 2, 3, 1)))).transpose(0, 3, 1, 2)


def kind(name: str) -> Kind:
    """The one kind of this module."""
    return Kind(MlxLayer, default_of(nn.BatchNorm, "momentum"))
