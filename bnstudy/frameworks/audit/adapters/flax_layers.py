"""flax.linen.BatchNorm and flax.nnx.BatchNorm."""

from __future__ import annotations

from typing import Any

import numpy as np
from flax import linen, nnx

from bnstudy.frameworks.audit.experiment import Kind, Stored, default_of, given
from bnstudy.frameworks.audit.observations import Array


class LinenLayer:
    """linen's layer: statistics live in the collection `batch_stats`, returned by `apply`."""

    def __init__(self, channels: int, momentum: float | None) -> None:
        import jax

        self._layer = linen.BatchNorm(axis=1, **given("momentum", momentum))
        blank = np.zeros((2, channels, 1, 1), np.float32)
        self._variables: dict[str, Any] = dict(self._layer.init(jax.random.key(0), blank, use_running_average=True))

    def train(self, x: Array) -> Array:
        y, new = self._layer.apply(self._variables, x, use_running_average=False, mutable=["batch_stats"])
        self._variables |= new
        return np.asarray(y)

    def evaluate(self, x: Array) -> Array:
        return np.asarray(self._layer.apply(self._variables, x, use_running_average=True))

    def read(self) -> Stored:
        stats, params = self._variables["batch_stats"], self._variables["params"]
        return Stored(*(np.asarray(array) for array in (stats["mean"], stats["var"], params["scale"], params["bias"])))

    def write(self, mean: Array, variance: Array) -> None:
        self._variables |= {"batch_stats": {"mean": mean, "var": variance}}


class NnxLayer:
    """nnx's layer: variables are objects of the module."""

    def __init__(self, channels: int, momentum: float | None) -> None:
        self._layer = nnx.BatchNorm(channels, axis=1, rngs=nnx.Rngs(0), **given("momentum", momentum))

    def train(self, x: Array) -> Array:
        return np.asarray(self._layer(x, use_running_average=False))

    def evaluate(self, x: Array) -> Array:
        return np.asarray(self._layer(x, use_running_average=True))

    def read(self) -> Stored:
        layer = self._layer
        return Stored(*(np.asarray(v.get_value()) for v in (layer.mean, layer.var, layer.scale, layer.bias)))

    def write(self, mean: Array, variance: Array) -> None:
        import jax.numpy as jnp

        self._layer.mean.set_value(jnp.asarray(mean))
        self._layer.var.set_value(jnp.asarray(variance))


def kind(name: str) -> Kind:
    """The kind of a name in the registry."""
    if name == "flax-linen":
        return Kind(LinenLayer, default_of(linen.BatchNorm, "momentum"))
    return Kind(NnxLayer, default_of(nnx.BatchNorm, "momentum"))
