"""Find the BatchNorm layers of a flat state by the names that frameworks give their tensors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from bnstudy.errors import UserError


@dataclass(frozen=True)
class LayerKeys:
    """The keys of one BatchNorm layer.

    Args:
        name: the layer's own name.
        mean, variance: keys of the running statistics.
        gain, shift, count: keys of γ, β and the number of batches; None where the file has none.
    """

    name: str
    mean: str
    variance: str
    gain: str | None
    shift: str | None
    count: str | None


# (mean, variance, γ, β) as torch, tinygrad and MLX; Paddle; Keras; Flax name them.
_FAMILIES = (
    ("running_mean", "running_var", "weight", "bias"),
    ("_mean", "_variance", "weight", "bias"),
    ("moving_mean", "moving_variance", "gamma", "beta"),
    ("mean", "var", "scale", "bias"),
)
_COUNT = "num_batches_tracked"
_COLLECTION = re.compile(r"^batch_stats(?=[./])")  # linen keeps statistics and parameters in collections of their own


def batchnorm_layers(state: Mapping[str, Tensor], place: str) -> list[LayerKeys]:
    """The BatchNorm layers of a state, in its order.

    Args:
        state: tensors by name; parts of a name are separated by "." or "/".
        place: the file, for messages.

    Raises:
        UserError: none at all, one of mean and variance missing, or shapes that do not fit each other.
    """
    found = []
    for key in state:
        match = re.fullmatch(r"(?P<prefix>(?:.*[./])?)(?P<last>[^./]+)", key)
        family = next((names for names in _FAMILIES if match is not None and match["last"] in names[:2]), None)
        if match is None or family is None:
            continue
        mean, variance, gain, shift = family
        prefix = match["prefix"]
        other = prefix + (variance if match["last"] == mean else mean)
        if other not in state:
            raise UserError(f"{place}: {key!r} has no {other!r} beside it; both are needed")
        if match["last"] == variance:
            parameters = _COLLECTION.sub("params", prefix)
            optional = [name if name in state else None for name in (parameters + gain, parameters + shift, prefix + _COUNT)]
            name = _COLLECTION.sub("", prefix).strip("./")
            layer = LayerKeys(name, prefix + mean, key, *optional)
            _check_shapes(layer, state, place)
            found.append(layer)
    if not found:
        raise UserError(
            f"{place}: no BatchNorm buffers in it; running_mean and running_var (or a framework's names) expected"
        )
    return found


def _check_shapes(layer: LayerKeys, state: Mapping[str, Tensor], place: str) -> None:
    expected = state[layer.variance].shape
    if len(expected) != 1 or not state[layer.variance].is_floating_point():
        raise UserError(
            f"{place}: {layer.variance!r} has shape {tuple(expected)}; one floating-point value a channel expected"
        )
    for key in (layer.mean, layer.gain, layer.shift):
        if key is not None and state[key].shape != expected:
            shapes = f"{tuple(state[key].shape)}, {layer.variance!r} has {tuple(expected)}"
            raise UserError(f"{place}: {key!r} has shape {shapes}; they must be equal")


def has_buffers(content: Mapping[Any, Any]) -> bool:
    """Whether a mapping holds, directly, tensors named as running variances are."""
    last = {
        re.split(r"[./]", key)[-1] for key, value in content.items() if isinstance(key, str) and isinstance(value, Tensor)
    }
    return any(variance in last for _, variance, _, _ in _FAMILIES)


def looks_convolutional(state: Mapping[str, Tensor]) -> bool:
    """Whether the state holds convolution kernels, so that m is not the batch size."""
    return any(tensor.dim() >= 3 for tensor in state.values())
