"""How many values per channel, m, each layer saw in training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bnstudy.errors import UserError, shown


def measured_values(model: nn.Module, batch: Tensor) -> dict[str, int]:
    """Measure m of every BatchNorm layer by sending one batch through a model; nothing in the model changes.

    Args:
        model: any torch model; called as model(batch).
        batch: an input of the training batch size.

    Returns:
        m = N·H·W by layer name, as `--per-layer` and `translate_state` take it.

    Raises:
        ValueError: a layer that sees two different m in one pass.

    Source: docs/architecture.md, "Translation".
    """
    found: dict[str, int] = {}
    modes = {module: module.training for module in model.modules()}

    def record(name: str) -> Any:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            m = inputs[0].size(0) * math.prod(inputs[0].shape[2:])
            if found.setdefault(name, m) != m:
                raise ValueError(f"layer {shown(name)} sees {found[name]} and {m} values per channel in one pass")

        return hook

    handles = [
        module.register_forward_pre_hook(record(name))
        for name, module in model.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm)
    ]
    try:
        with torch.no_grad():
            model.eval()(batch)
    finally:
        for handle in handles:
            handle.remove()
        for module, training in modes.items():
            module.training = training
    return found


def resolve(
    names: Sequence[str],
    *,
    batch_size: int | str | None,
    spatial: tuple[int, int] | None,
    per_layer: Mapping[str, Any] | None,
    convolutional: bool,
) -> dict[str, int]:
    """Work out m for each layer from what the user gave.

    Args:
        names: layers of the checkpoint.
        batch_size: N, or "varying" where it was not constant, or None where it is unknown.
        spatial: (H, W), the same for every layer.
        per_layer: m, or [H, W], by layer name.
        convolutional: the checkpoint has convolutions, so that the batch size alone does not say m.

    Raises:
        UserError: m is unknown, was not constant, or makes no sense; says what is missing.
    """
    if batch_size == "varying":
        raise UserError("batch_size: it was not constant in training, and then no single factor m/(m-1) applies")
    if isinstance(batch_size, str):
        raise UserError(f"batch_size: {shown(batch_size)} is no number of samples; use a whole number, or 'varying'")
    if per_layer is not None:
        return _from_layers(names, per_layer, batch_size)
    if batch_size is None:
        raise UserError(
            "batch_size: m, the values per channel in training, is unknown; give --batch-size or --per-layer FILE"
        )
    if spatial is None and convolutional:
        raise UserError(
            "spatial: the file has convolutions, where m = N·H·W differs from the batch size; "
            "give --spatial H W or --per-layer FILE"
        )
    m = batch_size * math.prod(spatial or (1, 1))
    return {name: _at_least_two(m, "batch_size") for name in names}


def _from_layers(names: Sequence[str], per_layer: Mapping[str, Any], batch_size: int | None) -> dict[str, int]:
    strangers = [str(name) for name in per_layer if name not in names]
    missing = [name for name in names if name not in per_layer]
    if strangers or missing:
        wrong = f"{shown(strangers[0])} is no layer of the file" if strangers else f"layer {shown(missing[0])} is missing"
        raise UserError(f"per_layer: {wrong}; give m, or [H, W], for each of {_listed(names)}")
    found = {}
    for name in names:
        value = per_layer[name]
        if isinstance(value, list) and 0 < len(value) <= 3 and all(_whole(side) and side > 0 for side in value):
            if batch_size is None:
                raise UserError(
                    f"per_layer: layer {shown(name)} has {shown(value)} but the batch size is unknown; give --batch-size"
                )
            value = batch_size * math.prod(value)
        if not _whole(value):
            raise UserError(f"per_layer: layer {shown(name)} has {shown(value)}; use a whole number m, or [H, W]")
        found[name] = _at_least_two(value, f"per_layer: layer {shown(name)}")
    return found


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63


def _at_least_two(m: int, key: str) -> int:
    if m < 2:
        raise UserError(f"{key}: {m} values per channel have no unbiased variance; use 2 or more")
    return m


def _listed(names: Sequence[str]) -> str:
    short = [shown(name)[1:-1] for name in (names if len(names) <= 4 else [*names[:3], names[-1]])]
    return ", ".join(short) if len(names) <= 4 else f"{', '.join(short[:3])} … {short[3]} ({len(names)} layers)"
