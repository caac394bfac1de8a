"""What planning needs to know of a network, found out by running one: nothing is worked out from how it was configured."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property

from torch import Tensor, nn

from bnstudy.batchnorm.mode import batchnorm_layers


@dataclass(frozen=True, eq=False)
class NetworkFacts:
    """A network's sizes.

    Args:
        input_shape: of one sample.
        positions: for every BatchNorm layer by its name, in the order of registration, the values per channel of one sample
            (H·W; 1 for features).
        activations: values of one sample in the largest output of a layer that has parameters, the last layer apart.
        weights: numbers in the largest parameter.
        try_stacking: finds out why networks like this one cannot train side by side as one module; None where they can.
    """

    input_shape: tuple[int, ...]
    positions: dict[str, int]
    activations: int
    weights: int
    try_stacking: Callable[[], str | None] = lambda: None

    @cached_property
    def unstackable(self) -> str | None:
        """Why several networks cannot train as one module; None where they can. Tried out when it is first asked."""
        return self.try_stacking()

    def values_per_channel(self, batch_size: int, norm_batch_size: int | None = None) -> dict[str, int]:
        """M of every BatchNorm layer: m = N·H·W, where N samples share statistics.

        Source: Ioffe & Szegedy 2015, section 3.2 (m' = m·p·q).
        """
        samples = min(norm_batch_size or batch_size, batch_size)
        return {layer: samples * positions for layer, positions in self.positions.items()}


@dataclass
class Passes:
    """What the layers of a network did in passes on the same number of samples.

    Args:
        runs: how often each BatchNorm layer ran.
        positions: values per channel of one sample in each of them that ran.
        sizes: values in the output of each layer that has parameters, in the order in which they first ran.
    """

    runs: Counter[str] = field(default_factory=Counter)
    positions: dict[str, int] = field(default_factory=dict)
    sizes: dict[nn.Module, int] = field(default_factory=dict)

    def facts(self, model: nn.Module, x: Tensor, try_stacking: Callable[[], str | None] = lambda: None) -> NetworkFacts:
        """The facts of the network that was watched, which ran on `x`."""
        positions = {name: self.positions[name] for name in batchnorm_layers(model)}
        *hidden, last = self.sizes.values()
        activations = max(1, max(hidden, default=last) // len(x))
        weights = max(parameter.numel() for parameter in model.parameters())
        return NetworkFacts(tuple(x.shape[1:]), positions, activations, weights, try_stacking)


@contextmanager
def watched(model: nn.Module, passes: Passes) -> Iterator[None]:
    """Note what layers do while a model runs."""
    names = {layer: name for name, layer in batchnorm_layers(model).items()}

    def note(layer: nn.Module, args: tuple[object, ...], output: object) -> None:
        if not isinstance(output, Tensor):
            return
        if layer in names:
            passes.runs[names[layer]] += 1
            passes.positions[names[layer]] = math.prod(output.shape[2:])
        passes.sizes[layer] = max(passes.sizes.get(layer, 0), output.numel())

    layers = [layer for layer in model.modules() if next(layer.parameters(recurse=False), None) is not None]
    hooks = [layer.register_forward_hook(note) for layer in dict.fromkeys([*names, *layers])]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
