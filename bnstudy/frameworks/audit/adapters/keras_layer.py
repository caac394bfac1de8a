"""keras.layers.BatchNormalization; the registry sets KERAS_BACKEND for the child process."""

from __future__ import annotations

import keras
import numpy as np

from bnstudy.frameworks.audit.experiment import Kind, Stored, default_of, given
from bnstudy.frameworks.audit.observations import Array


class KerasLayer:
    """The layer, channels on axis 1."""

    def __init__(self, channels: int, momentum: float | None) -> None:
        self._layer = keras.layers.BatchNormalization(axis=1, **given("momentum", momentum))
        self._layer.build((None, channels, None, None))

    def train(self, x: Array) -> Array:
        return self._run(x, True)

    def evaluate(self, x: Array) -> Array:
        return self._run(x, False)

    def read(self) -> Stored:
        layer = self._layer
        variables = (layer.moving_mean, layer.moving_variance, layer.gamma, layer.beta)
        return Stored(*(np.array(keras.ops.convert_to_numpy(variable)) for variable in variables))

    def write(self, mean: Array, variance: Array) -> None:
        self._layer.moving_mean.assign(mean)
        self._layer.moving_variance.assign(variance)

    def _run(self, x: Array, training: bool) -> Array:
        return np.array(keras.ops.convert_to_numpy(self._layer(x, training=training)))


def kind(name: str) -> Kind:
    """The one kind of this module, for whichever backend the process has.

    Raises:
        RuntimeError: Keras took another backend than the name says.
    """
    backend = name.removeprefix("keras-")
    if keras.backend.backend() != backend:
        raise RuntimeError(f"Keras took the backend {keras.backend.backend()!r}, not {backend!r}")
    return Kind(KerasLayer, default_of(keras.layers.BatchNormalization, "momentum"))
