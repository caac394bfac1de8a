"""Run a model in any condition, and give it back to the last bit as it was."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from bnstudy.batchnorm.conventions import bessel
from bnstudy.diagnosis.normlayers import NormLayer

Statistics = Mapping[NormLayer, tuple[Tensor, Tensor] | None]
"""Mean and variance for each layer to normalise by; None for the batch's own."""

_STORED = ("running_mean", "running_var")


@contextmanager
def untouched(model: nn.Module, seed: int) -> Iterator[None]:
    """Without gradients, with random numbers of its own; on leaving, modes, buffers and generators are what they were.

    Args:
        model: any module.
        seed: of the generators inside, which dropout and shuffling loaders draw from.
    """
    modes = {module: module.training for module in model.modules()}
    buffers = {module: dict(module._buffers) for module in model.modules()}
    values = {buffer: buffer.clone() for owned in buffers.values() for buffer in owned.values() if buffer is not None}
    devices = {buffer.device.index or 0 for buffer in (*values, *model.parameters()) if buffer.device.type == "cuda"}
    with torch.no_grad(), torch.random.fork_rng(devices=sorted(devices)):
        torch.manual_seed(seed)
        try:
            yield
        finally:
            for module, owned in buffers.items():
                module._buffers.clear()
                module._buffers.update(owned)
            for buffer, value in values.items():
                buffer.copy_(value)
            for module, training in modes.items():
                module.training = training


@contextmanager
def evaluation(model: nn.Module, statistics: Statistics) -> Iterator[None]:
    """Evaluation mode with the statistics of some layers replaced; the others use what they have stored.

    A layer without running statistics normalises by the batch's own, under its own convention: so for `None` the buffers
    are taken away for a while, which every subclass of torch's layers understands and which changes no other behaviour.

    Args:
        model: within `untouched`.
        statistics: by layer; None for the batch's own.
    """
    model.eval()
    former = {layer: {name: layer.module._buffers.get(name) for name in _STORED} for layer in statistics}
    with ExitStack() as stack:
        try:
            for layer, given in statistics.items():
                if given is None and layer.fixed:
                    stack.enter_context(_normalised_by_batch(layer, unbiased=False))
                else:
                    layer.module._buffers.update(zip(_STORED, given or (None, None), strict=True))
            yield
        finally:
            for layer, buffers in former.items():
                layer.module._buffers.update(buffers)


@contextmanager
def training(model: nn.Module) -> Iterator[None]:
    """Training mode as `model.train()` leaves it; what it does to buffers is undone on leaving."""
    kept = [(buffer, buffer.clone()) for buffer in model.buffers()]
    model.train()
    try:
        yield
    finally:
        for buffer, value in kept:
            buffer.copy_(value)
        model.eval()


@contextmanager
def other_divisor(model: nn.Module, layers: Sequence[NormLayer]) -> Iterator[None]:
    """Evaluation mode on batch statistics, each layer dividing by the variance that its convention does not take."""
    with evaluation(model, {}), ExitStack() as stack:
        for layer in layers:
            stack.enter_context(_normalised_by_batch(layer, unbiased=layer.convention.normalize == "biased"))
        yield


@contextmanager
def _normalised_by_batch(layer: NormLayer, unbiased: bool) -> Iterator[None]:
    """Let a layer in evaluation mode take each input's own statistics for the stored ones."""
    former = {name: layer.module._buffers.get(name) for name in _STORED}

    def store(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        x = args[0]
        dims = [0, *range(2, x.dim())]
        var, mean = torch.var_mean(x, dims, correction=0)
        m = x.numel() // x.size(1)
        stored = (mean, var * bessel(m) if unbiased and m > 1 else var)
        module._buffers.update(zip(_STORED, stored, strict=True))

    hook = layer.module.register_forward_pre_hook(store)
    try:
        yield
    finally:
        hook.remove()
        layer.module._buffers.update(former)
