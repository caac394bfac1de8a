"""What layers do that are not torch's own code: asked of the layers themselves, by running them on what they see.

A layer is a BatchNorm layer if its training mode gives what its evaluation mode gives with the batch's own statistics in its
buffers. Which of the two variances that takes, which one it stores and with what weight follow from the same run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from bnstudy.batchnorm.conventions import Convention, bessel
from bnstudy.diagnosis import modes
from bnstudy.diagnosis.batches import Batch, answer
from bnstudy.diagnosis.moments import channels_first
from bnstudy.diagnosis.normlayers import BatchNorm, NormLayer
from bnstudy.errors import UserError

Call = tuple[tuple[Any, ...], dict[str, Any]]


def understood(model: nn.Module, layers: Sequence[NormLayer], batch: Batch, key: str) -> list[NormLayer]:
    """The layers that work as BatchNorm does; of those with a forward of their own, with what they showed of it.

    One that does not run on the batch is left as it is. What does something else is no BatchNorm layer; it counts as dropout
    does, as one that changes with the mode.

    Args:
        model: within `modes.untouched`.
        layers: as `norm_layers` gives them.
        batch, key: to run the model on, and where it comes from.

    Raises:
        UserError: no layer is left.
    """
    own = {layer.module: layer for layer in layers if layer.own}
    if not own:
        return list(layers)
    calls: dict[nn.Module, Call] = {}

    def keep(module: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        calls.setdefault(module, _copy((args, named)))

    hooks = [module.register_forward_pre_hook(keep, with_kwargs=True) for module in own]
    try:
        with modes.training(model):
            answer(model, batch, key)
    finally:
        for hook in hooks:
            hook.remove()
    found = [layer if layer.module not in calls else _shown(layer, calls[layer.module]) for layer in layers]
    kept = [layer for layer in found if layer is not None]
    if not kept:
        raise UserError(
            f"model: layer {layers[0].label} has a forward of its own, which normalises in another way than BatchNorm; put "
            "torch's BatchNorm in its place, or diagnose a model that has some"
        )
    return kept


def changing(model: nn.Module, layers: Sequence[NormLayer], batch: Batch, key: str) -> list[str]:
    """Modules beside the BatchNorm layers that give something else in training mode, by name and class.

    Each one is run twice more on what it sees in evaluation mode, with its own mode alone switched and the same random
    numbers: dropout, stochastic depth, noise, norm layers of other kinds, and functions called with `self.training`.

    Args:
        model: within `modes.untouched`.
        layers: its BatchNorm layers, which go by batch statistics meanwhile.
        batch, key: to run the model on, and where it comes from.
    """
    ours = {layer.module for layer in layers}
    names = {
        module: name or "the model itself"
        for name, module in model.named_modules()
        if module not in ours and not isinstance(module, torch.jit.ScriptModule)
    }
    found: dict[nn.Module, None] = {}
    busy = False

    def compare(module: nn.Module, args: tuple[Any, ...], named: dict[str, Any], _: Any) -> None:
        nonlocal busy
        if busy or module in found:
            return
        busy = True
        try:
            outputs = [_run(module, (args, named), training) for training in (False, True)]
            if _distance(*outputs) > 1e-5:
                found[module] = None
        except Exception:
            found[module] = None  # it runs in one mode only
        finally:
            busy = False

    with modes.evaluation(model, dict.fromkeys(layers)):
        hooks = [module.register_forward_hook(compare, with_kwargs=True) for module in names]
        try:
            answer(model, batch, key)
        finally:
            for hook in hooks:
                hook.remove()
    return [f"{names[module]} ({type(module).__name__})" for module in names if module in found]


def _shown(layer: NormLayer, call: Call) -> NormLayer | None:
    """What a layer is by what it does; None for something else than BatchNorm."""
    stored = layer.stored
    x = next(iter(tree_leaves(call)))
    if stored is None or not isinstance(x, Tensor) or x.dim() < 2 or x.numel() == 0:
        return layer
    with _buffers(layer, stored):
        trained = _run(layer.module, call, True)
        after = layer.stored
    with _buffers(layer, stored):
        evaluated = _run(layer.module, call, False)
    close = max(1e-3, 8 * torch.finfo(x.dtype).eps) if x.is_floating_point() else 1e-3
    moved = after is None or not all(map(modes.equal, after, stored))
    if not moved and _distance(trained, evaluated) < close:
        frozen = isinstance(layer.module, BatchNorm) or "BatchNorm" in type(layer.module).__name__
        return replace(layer, fixed=True) if frozen else None
    for axis in (1, -1):
        if x.size(axis) != len(stored[0]):
            continue
        values = channels_first(x, axis).to(torch.promote_types(x.dtype, torch.float32))
        var, mean = torch.var_mean(values, [0, *range(2, values.dim())], correction=0)
        c = bessel(values.numel() // values.size(1))
        distances = {}
        for name, variance in (("biased", var), ("unbiased", c * var)):
            with _buffers(layer, (mean, variance)):
                distances[name] = _distance(trained, _run(layer.module, call, False))
        normalize = min(distances, key=lambda name: distances[name])
        if distances[normalize] < close:
            rate, accumulate = _average(layer, stored, after or stored, (mean, var), c)
            return replace(layer, axis=axis, rate=rate, fixed=False, convention=Convention(normalize, accumulate))
    return None


def _average(
    layer: NormLayer, before: tuple[Tensor, Tensor], after: tuple[Tensor, Tensor], batch: tuple[Tensor, Tensor], c: float
) -> tuple[float | None, str]:
    """The weight that a batch got in a layer's moving average, None of a cumulative one; and the variance it stored."""
    (mean, var), (old, former), (new, latter) = (tuple(part.double() for part in pair) for pair in (batch, before, after))
    rate = float(((new - old) * (mean - old)).sum() / (mean - old).square().sum().clamp(min=1e-30))
    if getattr(layer.module, "momentum", rate) is None or not 0 < rate <= 1:
        return None, layer.convention.accumulate
    ratio = float((((latter - (1 - rate) * former) / rate).sum() / var.sum()).nan_to_num(c))
    return rate, "unbiased" if abs(ratio - c) <= abs(ratio - 1) else "biased"


def _run(module: nn.Module, call: Call, training: bool) -> Any:
    """What a module gives in one mode, its parts left in theirs; the same random numbers every time."""
    args, named = _copy(call)
    former, module.training = module.training, training
    devices = sorted({leaf.device.index or 0 for leaf in tree_leaves(call) if isinstance(leaf, Tensor) and leaf.is_cuda})
    try:
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(0)
            return module.forward(*args, **named)
    finally:
        module.training = former


@contextmanager
def _buffers(layer: NormLayer, statistics: tuple[Tensor, Tensor]) -> Iterator[None]:
    """Copies of all buffers while a layer runs, with other statistics among them."""
    former: Mapping[str, Tensor | None] = dict(layer.module._buffers)
    copies = {name: None if buffer is None else buffer.clone() for name, buffer in former.items()}
    given = zip(layer.buffers, modes.fitting(layer, statistics), strict=True)
    layer.module._buffers.update(copies | {name: part.clone() for name, part in given})
    try:
        yield
    finally:
        layer.module._buffers.update(former)


def _copy(call: Call) -> Call:
    copied: Call = tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, call)
    return copied


def _distance(one: Any, other: Any) -> float:
    """RMS difference of two outputs over the RMS of the first; infinite where they are not alike in form."""
    pairs = [[leaf for leaf in tree_leaves(side) if isinstance(leaf, Tensor)] for side in (one, other)]
    if [leaf.shape for leaf in pairs[0]] != [leaf.shape for leaf in pairs[1]]:
        return float("inf")
    squares = scale = 0.0
    for first, second in zip(*pairs, strict=True):
        a, b = (leaf.double().nan_to_num(0.0, 0.0, 0.0) for leaf in (first, second))
        squares += float((a - b).square().sum())
        scale += float(a.square().sum())
    return (squares / scale) ** 0.5 if scale > 0 else float(squares > 0)
