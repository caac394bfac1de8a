"""What a checkpoint holds beside the model: optimizers and schedulers go along when γ is rescaled, or are named as stale."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bnstudy.errors import UserError, one_line
from bnstudy.frameworks.translate.files import Checkpoint, Keys, replaced, walk
from bnstudy.frameworks.translate.layers import LayerKeys, optimizer_keys
from bnstudy.frameworks.translate.optimizer import (
    check_shapes,
    is_optimizer,
    is_scheduler,
    translate_optimizer,
    translate_scheduler,
)
from bnstudy.frameworks.translate.state import Translated


def carry_along(
    checkpoint: Checkpoint, result: Translated, layers: Sequence[LayerKeys], alone: bool = True
) -> tuple[Checkpoint, list[str]]:
    """Rescale what the file holds of γ's training: the state of every optimizer, and rates of its schedulers.

    Args:
        checkpoint: with the translated state.
        result: what became of the state.
        layers: its BatchNorm layers.
        alone: no optimizer of another file goes along. Default: True.

    Returns:
        The checkpoint, and a note on what was rescaled, what was left stale, or that nothing was there.

    Raises:
        UserError: an optimizer that cannot be translated.
    """
    state, names = result.state, parameter_names(checkpoint, layers)
    content, notes = checkpoint.content, []
    optimizers = {keys: value for keys, value in walk(content) if is_optimizer(value)}
    schedulers = {keys: value for keys, value in walk(content) if is_scheduler(value)}
    stale = list(schedulers)
    for keys, optimizer in optimizers.items():
        check_shapes(optimizer, names, state)
        content = replaced(content, keys, translate_optimizer(optimizer, result.gains, names))
    if len(optimizers) == 1:  # of several, nothing says which one a scheduler belongs to
        (optimizer,) = optimizers.values()
        for keys, scheduler in schedulers.items():
            new = translate_scheduler(scheduler, optimizer, result.gains, names)
            if new is not None:
                content = replaced(content, keys, new)
                stale.remove(keys)
    changed = [*optimizers, *(keys for keys in schedulers if keys not in stale)]
    if changed:
        notes.append(f"γ was rescaled, and with it {_listed(changed)}: each factor has a parameter group of its own, "
                     "so build the target's optimizer with groups_for")  # fmt: skip
    moments = optimizer_keys(state, list(layers))
    if stale or moments:
        left = ", ".join(filter(None, (_listed(stale), f"{moments[0]} … ({len(moments)} tensors)" if moments else "")))
        notes.append(f"γ was rescaled, and what is still of the γ before must be built anew: {left}")
    elif alone and not changed:
        notes.append("γ was rescaled, and the file holds no optimizer's state: one that goes on needs translate_optimizer")
    return replace(checkpoint, content=content), notes


def optimizer_file(
    path: Path, result: Translated, names: Sequence[str] | None, state: Mapping[str, Tensor]
) -> Callable[[Any], object]:
    """A function that writes the translation of an optimizer in a file of its own.

    Raises:
        UserError: no such file, unreadable, or no optimizer that can be translated.
    """
    if not path.is_file():
        raise UserError(f"optimizer: {path} is no file")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(f"optimizer: {path} cannot be read as a torch file ({one_line(error)})") from error
    if not is_optimizer(content):
        raise UserError(f"optimizer: {path} holds no optimizer's state_dict; state and param_groups expected")
    check_shapes(content, names, state)
    new = translate_optimizer(content, result.gains, names)
    return lambda file: torch.save(new, file)


def parameter_names(checkpoint: Checkpoint, layers: Sequence[LayerKeys]) -> list[str] | None:
    """Names of the model's parameters in its order, for an optimizer that only counts them; None where the order is lost."""
    buffers = {key for layer in layers for key in (layer.mean, layer.variance, layer.count, layer.also)}
    return [key for key in checkpoint.state if key not in buffers] if checkpoint.keeps_order else None


def _listed(found: Sequence[Keys]) -> str:
    return ", ".join("/".join(map(str, keys)) for keys in found)
