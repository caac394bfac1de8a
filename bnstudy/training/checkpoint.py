"""A training on disk between two epochs, so that an interrupted one goes on exactly where it stood."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from bnstudy.atomic import atomic_file
from bnstudy.training.loop import Training

Row = dict[str, Any]


def save_checkpoint(training: Training, rows: list[Row], path: Path) -> None:
    """Write everything that the rest of a training depends on: weights, all buffers, optimizer, generators, rows so far.

    Args:
        training: between two epochs.
        rows: the `metrics` rows so far.
        path: a safetensors file, replaced atomically.

    Source: bnstudy issue 3, part 4.
    """
    tensors = {f"model.{name}": tensor for name, tensor in _model_tensors(training).items()}
    state = training.optimizer.state_dict()
    for index, slots in state["state"].items():
        tensors |= {f"optimizer.{index}.{slot}": value for slot, value in slots.items() if isinstance(value, Tensor)}
    for stream, generators in _generators(training).items():
        tensors |= {f"{stream}.{index}": generator.get_state() for index, generator in enumerate(generators)}
    facts = {"epoch": training.epoch, "step": training.step, "diverged": training.diverged, "rows": rows}
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic_file(path) as file:
        file.write(safetensors.torch.save(contiguous, {"training": json.dumps(facts)}))


def load_checkpoint(training: Training, path: Path) -> list[Row]:
    """Put a fresh training of the same configuration and seeds where the checkpoint stood.

    Returns:
        The rows so far; none, with the training untouched, if there is no checkpoint or it cannot be read.
    """
    try:
        with safetensors.safe_open(path, "pt") as file:
            facts = json.loads(file.metadata()["training"])
            tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, ValueError, KeyError, safetensors.SafetensorError):
        return []
    if any(
        tensors.get(f"model.{name}", tensor.new_empty(0)).shape != tensor.shape
        for name, tensor in _model_tensors(training).items()
    ):
        return []
    for name, tensor in _model_tensors(training).items():
        tensor.detach().copy_(tensors[f"model.{name}"])
    state = training.optimizer.state_dict()
    state["state"] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, index, slot = name.split(".", 2)
            state["state"].setdefault(int(index), {})[slot] = tensor
    training.optimizer.load_state_dict(state)
    for parameter, slots in training.optimizer.state.items():
        for slot, value in slots.items():
            # Fused optimizers walk through memory: laid out unlike its parameter, a buffer would move the wrong weights.
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                slots[slot] = torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value)
    for stream, generators in _generators(training).items():
        for replica, generator in enumerate(generators):
            generator.set_state(tensors[f"{stream}.{replica}"])
    training.take_up(facts["epoch"], facts["step"], facts["diverged"])
    rows: list[Row] = facts["rows"]
    return rows


def _model_tensors(training: Training) -> dict[str, Tensor]:
    # state_dict() would leave out the averages that BatchNorm layers keep on the side.
    return dict(training.model.named_parameters()) | dict(training.model.named_buffers())


def _generators(training: Training) -> dict[str, Any]:
    return {"order": training.order_generators, "augmentation": training.augmentation_generators}
