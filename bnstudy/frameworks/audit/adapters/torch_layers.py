"""torch.nn.BatchNorm2d eager and compiled, torch.batch_norm, torchvision's frozen layer, timm's layers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from bnstudy.frameworks.audit.experiment import Kind, Stored, default_of, given
from bnstudy.frameworks.audit.observations import Array


class ModuleLayer:
    """Any torch module with running_mean, running_var, weight and bias.

    Args:
        module: the layer.
        compiled: call it through `torch.compile`. Default: False.
    """

    def __init__(self, module: nn.Module, compiled: bool = False) -> None:
        self._module = module
        self._call: Callable[..., Tensor] = torch.compile(module) if compiled else module

    def train(self, x: Array) -> Array:
        return self._run(x, True)

    def evaluate(self, x: Array) -> Array:
        return self._run(x, False)

    def read(self) -> Stored:
        variance = _array(self._module.get_buffer("running_var"))
        mean = getattr(self._module, "running_mean", None)  # EvoNorm keeps no mean
        tensors = (getattr(self._module, "weight", None), getattr(self._module, "bias", None))
        gain, shift = (None if tensor is None else _array(tensor) for tensor in tensors)
        return Stored(
            np.zeros_like(variance) if mean is None else _array(mean),
            variance,
            np.ones_like(variance) if gain is None else gain,
            np.zeros_like(variance) if shift is None else shift,
        )

    def write(self, mean: Array, variance: Array) -> None:
        self._module.get_buffer("running_var").copy_(torch.from_numpy(variance))
        if getattr(self._module, "running_mean", None) is not None:
            self._module.get_buffer("running_mean").copy_(torch.from_numpy(mean))

    @torch.no_grad()
    def _run(self, x: Array, training: bool) -> Array:
        self._module.train(training)
        return _array(self._call(torch.from_numpy(x)))


class FunctionalLayer:
    """`torch.batch_norm` called with buffers that the caller keeps; it has no default for momentum or ε."""

    def __init__(self, channels: int, momentum: float | None) -> None:
        self._momentum = 0.1 if momentum is None else momentum
        self._mean, self._variance = torch.zeros(channels), torch.ones(channels)

    def train(self, x: Array) -> Array:
        return self._run(x, True)

    def evaluate(self, x: Array) -> Array:
        return self._run(x, False)

    def read(self) -> Stored:
        ones = np.ones(len(self._mean), np.float32)
        return Stored(_array(self._mean), _array(self._variance), ones, 0 * ones)

    def write(self, mean: Array, variance: Array) -> None:
        self._mean.copy_(torch.from_numpy(mean))
        self._variance.copy_(torch.from_numpy(variance))

    def _run(self, x: Array, training: bool) -> Array:
        tensor = torch.from_numpy(x)
        return _array(
            torch.batch_norm(tensor, None, None, self._mean, self._variance, training, self._momentum, 1e-5, False)
        )


def _array(tensor: Tensor) -> Array:
    return tensor.detach().numpy().copy()


def _batchnorm2d(channels: int, momentum: float | None) -> nn.Module:
    return nn.BatchNorm2d(channels, **given("momentum", momentum))


def kind(name: str) -> Kind:
    """The kind of a name in the registry."""
    if name == "torch-functional":
        return Kind(FunctionalLayer, None)
    if name in ("torch", "torch-compile"):
        compiled = name == "torch-compile"
        return Kind(
            lambda channels, momentum: ModuleLayer(_batchnorm2d(channels, momentum), compiled),
            default_of(nn.BatchNorm2d, "momentum"),
        )
    if name == "torchvision-frozen":
        from torchvision.ops import FrozenBatchNorm2d

        return Kind(lambda channels, _: ModuleLayer(FrozenBatchNorm2d(channels)), None, has_momentum=False)
    return _timm(name)


def _timm(name: str) -> Kind:
    from timm.layers import BatchNormAct2d, EvoNorm2dB0, FrozenBatchNormAct2d
    from timm.layers.split_batchnorm import SplitBatchNorm2d

    if name == "timm-frozen":
        return Kind(
            lambda channels, _: ModuleLayer(FrozenBatchNormAct2d(channels, apply_act=False)), None, has_momentum=False
        )
    kind, options = {
        "timm-batchnormact": (BatchNormAct2d, {"apply_act": False}),
        "timm-splitbatchnorm": (SplitBatchNorm2d, {}),
        "timm-evonorm-b0": (EvoNorm2dB0, {}),
    }[name]
    return Kind(
        lambda channels, momentum: ModuleLayer(kind(channels, **options, **given("momentum", momentum))),
        default_of(kind, "momentum"),
    )
