"""A training on disk between two epochs, so that an interrupted one goes on exactly where it stood."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from bnstudy.atomic import DamagedError, atomic_file
from bnstudy.training.config import TrainingConfig
from bnstudy.training.loop import Training

Row = dict[str, Any]


def save_checkpoint(training: Training, rows: list[Row], path: Path) -> None:
    """Write everything that the rest of a training depends on: weights, all buffers, optimizer, generators, rows so far.

    Args:
        training: between two epochs.
        rows: the `metrics` rows so far.
        path: a safetensors file, replaced atomically.

    Source: docs/architecture.md, "Faults and secrets".
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
        text = json.dumps(facts)
        seal = _seal(training, text, contiguous)
        file.write(safetensors.torch.save(contiguous, {"training": text, "seal": seal}))


def load_checkpoint(training: Training, path: Path) -> list[Row]:
    """Put a fresh training of the same configuration and seeds where the checkpoint stood.

    Returns:
        The rows so far; none if there is no checkpoint.

    Raises:
        DamagedError: it is not what was written, or was written by another training; this one is untouched then.
    """
    try:
        with safetensors.safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        return []
    except Exception as error:  # whatever a reader of damaged bytes stumbles over
        raise DamagedError("cannot be read") from error
    if metadata.get("seal") != _seal(training, metadata.get("training", ""), tensors):
        raise DamagedError("is not what this training wrote")
    facts = json.loads(metadata["training"])
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


def _seal(training: Training, text: str, tensors: Mapping[str, Tensor]) -> str:
    """A digest of a checkpoint and of what it belongs to: configuration and seeds."""
    config = dataclasses.asdict(training.config)
    plain = {field.name: config[field.name] for field in dataclasses.fields(TrainingConfig)}
    digest = hashlib.sha256(json.dumps([plain, training.seeds, text], sort_keys=True, default=str).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)} ".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _model_tensors(training: Training) -> dict[str, Tensor]:
    # state_dict() would leave out the averages that BatchNorm layers keep on the side.
    return dict(training.model.named_parameters()) | dict(training.model.named_buffers())


def _generators(training: Training) -> dict[str, Any]:
    return {"order": training.order_generators, "augmentation": training.augmentation_generators}
