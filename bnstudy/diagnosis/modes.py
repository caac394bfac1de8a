"""Run a model in any condition, and give it back to the last bit as it was."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext

import numpy as np
import torch
from torch import Tensor, nn

from bnstudy.batchnorm.conventions import bessel
from bnstudy.diagnosis.moments import channels_first
from bnstudy.diagnosis.normlayers import BatchNorm, NormLayer
from bnstudy.errors import UserError

Statistics = Mapping[NormLayer, tuple[Tensor, Tensor] | None]
"""Mean and variance for each layer to normalise by; None for the batch's own."""


@contextmanager
def untouched(model: nn.Module, seed: int) -> Iterator[None]:
    """Without gradients, with random numbers of its own; on leaving, weights, modes, buffers and generators are as before.

    Args:
        model: any module.
        seed: of the generators inside (torch's, NumPy's, Python's), which dropout, shuffling and augmentation draw from.

    Raises:
        UserError: the model's forward has changed a weight, so that no two passes were of the same model.
    """
    modes = {module: module.training for module in model.modules()}
    weights = {name: (weight, weight.detach().clone()) for name, weight in model.named_parameters()}
    tensors = (*model.buffers(), *model.parameters())
    devices = sorted({tensor.device.index or 0 for tensor in tensors if tensor.device.type == "cuda"})
    changed: list[str] = []
    with torch.no_grad(), _seeded(devices, seed), _uncompiled(), _undone(model):
        try:
            yield
        finally:
            for module, training in modes.items():
                module.training = training
            for name, (weight, value) in weights.items():
                if not equal(weight, value):
                    changed.append(name)
                    weight.data.copy_(value)
    if changed:
        raise UserError(
            f"model: its forward changes the weight {changed[0]!r} without an optimizer, so that no two passes are of the "
            "same model; give one that leaves its weights alone (what it updates itself belongs into a buffer)"
        )


@contextmanager
def _seeded(devices: Sequence[int], seed: int) -> Iterator[None]:
    """Generators at a seed; on leaving, they are where they were. Only those that are put back: no other GPU's."""
    # NumPy's global generator is what users' data sets draw from, so this is where it must be put back.
    python, array = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(devices=devices):
        try:
            for generator in (torch.default_generator, *(torch.cuda.default_generators[index] for index in devices)):
                generator.manual_seed(seed)
            random.seed(seed)
            np.random.seed(seed % 2**32)  # noqa: NPY002
            yield
        finally:
            random.setstate(python)
            np.random.set_state(array)  # noqa: NPY002


def _uncompiled() -> AbstractContextManager[object]:
    """Run compiled models as they are written: compiled code takes no notice of hooks, and recompiles for every swap."""
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()


@contextmanager
def _undone(model: nn.Module, evaluating: bool = False) -> Iterator[None]:
    """Undo on leaving whatever happens to buffers: new ones, replaced ones, and values.

    Args:
        model: any module.
        evaluating: spare the copies of what BatchNorm layers in evaluation mode store; they do not write to it.
    """
    owned = [(module, dict(module._buffers.items())) for module in model.modules()]
    values = {
        buffer: buffer.clone()
        for module, buffers in owned
        for buffer in buffers.values()
        if buffer is not None and not (evaluating and isinstance(module, BatchNorm) and not module.training)
    }
    try:
        yield
    finally:
        for module, buffers in owned:
            if isinstance(module, torch.jit.ScriptModule):
                for name, buffer in buffers.items():
                    setattr(module, name, buffer)
            else:
                module._buffers.clear()
                module._buffers.update(buffers)
        for buffer, value in values.items():
            if buffer.shape != value.shape:
                buffer.data.resize_(value.shape)
            # Through .data: the same values again are no change to a backward pass that still waits for this buffer.
            buffer.data.copy_(value)


@contextmanager
def evaluation(model: nn.Module, statistics: Statistics) -> Iterator[None]:
    """Evaluation mode with the statistics of some layers replaced; the others use what they have stored.

    A layer without running statistics normalises by the batch's own, under its own convention: so for `None` the buffers
    are taken away for a while, which torch's forward understands and which changes no other behaviour. A layer with a
    forward of its own is put into its own training mode instead.

    Args:
        model: within `untouched`.
        statistics: by layer; None for the batch's own.
    """
    model.eval()
    trained = [layer for layer, given in statistics.items() if given is None and layer.own and not layer.fixed]
    for layer in trained:
        layer.module.training = True
    with _undone(model, evaluating=True), ExitStack() as stack:
        for layer, given in statistics.items():
            if given is not None:
                layer.module._buffers.update(zip(layer.buffers, fitting(layer, given), strict=True))
            elif layer.fixed:
                stack.enter_context(_normalised_by_batch(layer, unbiased=False))
            elif layer not in trained:
                layer.module._buffers.update(dict.fromkeys(layer.buffers))
        try:
            yield
        finally:
            for layer in trained:
                layer.module.training = False


@contextmanager
def training(model: nn.Module) -> Iterator[None]:
    """Training mode as `model.train()` leaves it; what it does to buffers is undone on leaving."""
    model.train()
    try:
        with _undone(model):
            yield
    finally:
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
    former = {name: layer.module._buffers.get(name) for name in layer.buffers}

    def store(module: nn.Module, args: tuple[Tensor, ...], named: dict[str, Tensor]) -> None:
        x = channels_first(next(iter((*args, *named.values()))), layer.axis)
        if x.numel() == 0:  # of a branch that no sample takes
            return
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        dims = [0, *range(2, x.dim())]
        var, mean = torch.var_mean(x, dims, correction=0)
        m = x.numel() // x.size(1)
        stored = fitting(layer, (mean, var * bessel(m) if unbiased and m > 1 else var))
        module._buffers.update(zip(layer.buffers, stored, strict=True))

    hook = layer.module.register_forward_pre_hook(store, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()
        layer.module._buffers.update(former)


def equal(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors hold the same, NaN where NaN."""
    return torch.equal(one, other) or (
        one.is_floating_point()
        and torch.equal(one.isnan(), other.isnan())
        and torch.equal(one.nan_to_num(), other.nan_to_num())
    )


def fitting(layer: NormLayer, given: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Statistics in the dtype that the layer takes them in: that of its stored ones or its weights, else as they are."""
    for like in (layer.module._buffers.get(layer.buffers[0]), getattr(layer.module, "weight", None)):
        if isinstance(like, Tensor):
            return given[0].to(like.dtype), given[1].to(like.dtype)
    return given
