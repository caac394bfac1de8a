"""tinygrad.nn.BatchNorm; without clang it runs on tinygrad's own Python device, slow and exact enough for small layers."""

from __future__ import annotations

import os
import shutil

import numpy as np

from bnstudy.frameworks.audit.experiment import Kind, Stored, default_of, given
from bnstudy.frameworks.audit.observations import Array

os.environ.setdefault("DEV", "PYTHON" if shutil.which("clang") is None else "CPU")  # read when tinygrad is imported

from tinygrad import Tensor
from tinygrad.helpers import Context
from tinygrad.nn import BatchNorm


class TinygradLayer:
    """The layer; training mode is a context."""

    def __init__(self, channels: int, momentum: float | None) -> None:
        self._layer = BatchNorm(channels, **given("momentum", momentum))

    def train(self, x: Array) -> Array:
        with Context(TRAINING=1):
            y = self._layer(Tensor(x)).numpy()
        # Assignments are lazy: without this a later batch would find them pending.
        self._layer.running_mean.realize()
        self._layer.running_var.realize()
        return np.asarray(y)

    def evaluate(self, x: Array) -> Array:
        with Context(TRAINING=0):
            return np.asarray(self._layer(Tensor(x)).numpy())

    def read(self) -> Stored:
        layer = self._layer
        return Stored(*(t.numpy().copy() for t in (layer.running_mean, layer.running_var, layer.weight, layer.bias)))

    def write(self, mean: Array, variance: Array) -> None:
        self._layer.running_mean.assign(Tensor(mean)).realize()
        self._layer.running_var.assign(Tensor(variance)).realize()


def kind(name: str) -> Kind:
    """The one kind of this module."""
    return Kind(TinygradLayer, default_of(BatchNorm, "momentum"))
