"""haiku.BatchNorm; its averages are bias-corrected as they are stored, and its decay rate has no default."""

from __future__ import annotations

from typing import Any

import haiku
import jax
import numpy as np

from bnstudy.frameworks.audit.experiment import Kind, Stored
from bnstudy.frameworks.audit.observations import Array

_PREFIX = "batch_norm"


class HaikuLayer:
    """The transformed layer with its parameters and state."""

    def __init__(self, channels: int, momentum: float | None) -> None:
        decay = 0.9 if momentum is None else momentum

        def forward(x: Any, training: bool) -> Any:
            return haiku.BatchNorm(True, True, decay, data_format="NC...", name=_PREFIX)(x, is_training=training)

        self._transformed = haiku.transform_with_state(forward)
        blank = np.zeros((2, channels, 1, 1), np.float32)
        self._parameters, self._state = self._transformed.init(jax.random.key(0), blank, True)

    def train(self, x: Array) -> Array:
        y, self._state = self._transformed.apply(self._parameters, self._state, None, x, True)
        return np.asarray(y)

    def evaluate(self, x: Array) -> Array:
        return np.asarray(self._transformed.apply(self._parameters, self._state, None, x, False)[0])

    def read(self) -> Stored:
        parameters = self._parameters[_PREFIX]
        averages = [self._state[f"{_PREFIX}/~/{which}_ema"]["average"] for which in ("mean", "var")]
        arrays = (*averages, parameters["scale"], parameters["offset"])
        return Stored(*(np.asarray(array).ravel() for array in arrays))

    def write(self, mean: Array, variance: Array) -> None:
        state = {name: dict(values) for name, values in self._state.items()}
        for which, array in (("mean", mean), ("var", variance)):
            state[f"{_PREFIX}/~/{which}_ema"]["average"] = array.reshape(1, -1, 1, 1)
        self._state = state


def kind(name: str) -> Kind:
    """The one kind of this module."""
    return Kind(HaikuLayer, None)
