"""paddle.nn.BatchNorm2D."""

from __future__ import annotations

import numpy as np
import paddle

from bnstudy.frameworks.audit.experiment import Kind, Stored, default_of, given
from bnstudy.frameworks.audit.observations import Array


class PaddleLayer:
    """The layer on the CPU device."""

    def __init__(self, channels: int, momentum: float | None) -> None:
        self._layer = paddle.nn.BatchNorm2D(channels, **given("momentum", momentum))

    def train(self, x: Array) -> Array:
        self._layer.train()
        return np.asarray(self._layer(paddle.to_tensor(x)).numpy())

    def evaluate(self, x: Array) -> Array:
        self._layer.eval()
        return np.asarray(self._layer(paddle.to_tensor(x)).numpy())

    def read(self) -> Stored:
        layer = self._layer
        return Stored(*(t.numpy().copy() for t in (layer._mean, layer._variance, layer.weight, layer.bias)))

    def write(self, mean: Array, variance: Array) -> None:
        self._layer._mean.set_value(paddle.to_tensor(mean))
        self._layer._variance.set_value(paddle.to_tensor(variance))


def kind(name: str) -> Kind:
    """The one kind of this module."""
    paddle.set_device("cpu")
    return Kind(PaddleLayer, default_of(paddle.nn.BatchNorm2D, "momentum"))
