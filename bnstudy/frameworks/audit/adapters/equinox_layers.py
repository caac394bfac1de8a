"""equinox.nn.BatchNorm in its two modes; it runs under `vmap` with a named axis and hands its state back."""

from __future__ import annotations

from typing import Any

import equinox
import jax
import numpy as np

from bnstudy.frameworks.audit.experiment import Kind, Stored, default_of, given
from bnstudy.frameworks.audit.observations import Array


class EquinoxLayer:
    """The layer and its state.

    Args:
        channels: C.
        momentum: argument, None for its default.
        mode: "batch" or "ema".
    """

    def __init__(self, channels: int, momentum: float | None, mode: str) -> None:
        self._layer, self._state = equinox.nn.make_with_state(equinox.nn.BatchNorm)(
            channels, axis_name="batch", mode=mode, **given("momentum", momentum)
        )
        self._index = self._layer.batch_state_index if mode == "batch" else self._layer.ema_state_index

    def train(self, x: Array) -> Array:
        y, self._state = self._run(x, False)
        return y

    def evaluate(self, x: Array) -> Array:
        return self._run(x, True)[0]

    def read(self) -> Stored:
        mean, variance = self._state.get(self._index)
        return Stored(*(np.asarray(array) for array in (mean, variance, self._layer.weight, self._layer.bias)))

    def write(self, mean: Array, variance: Array) -> None:
        self._state = self._state.set(self._index, (jax.numpy.asarray(mean), jax.numpy.asarray(variance)))

    def _run(self, x: Array, inference: bool) -> tuple[Array, Any]:
        def one(sample: Any, state: Any) -> Any:
            return self._layer(sample, state, inference=inference)

        y, state = jax.vmap(one, axis_name="batch", in_axes=(0, None), out_axes=(0, None))(x, self._state)
        return np.asarray(y), state


def kind(name: str) -> Kind:
    """The kind of a name in the registry."""
    mode = name.removeprefix("equinox-")
    return Kind(
        lambda channels, momentum: EquinoxLayer(channels, momentum, mode), default_of(equinox.nn.BatchNorm, "momentum")
    )
