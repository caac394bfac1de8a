"""A training resumed from disk goes on as if nothing had happened, to the bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from bnstudy.training.checkpoint import load_checkpoint, save_checkpoint
from bnstudy.training.data import Dataset
from bnstudy.training.loop import Training
from tests.tiny import RESNET8, tiny

ADAMW = {"optimizer__name": "adamw", "optimizer__lr": 0.002}


@pytest.mark.parametrize("optimizer", [{}, ADAMW], ids=["sgd", "adamw"])
@pytest.mark.parametrize("model", [{}, {"model": RESNET8}], ids=["mlp", "resnet8"])
@pytest.mark.parametrize("seeds", [[0], [2, 0, 1]])
def test_the_optimizers_buffers_go_back_to_their_weights(
    digits: Dataset, tmp_path: Path, optimizer: dict[str, Any], model: dict[str, Any], seeds: list[int]
) -> None:
    """A ResNet's convolutions have their channels last in memory, and fused optimizers walk through memory."""
    config = tiny(epochs=3, **optimizer, **model)
    whole = Training(config, digits, seeds)
    whole.run_epoch()
    save_checkpoint(whole, [{"seed": 0}], tmp_path / "x.safetensors")
    resumed = Training(config, digits, seeds)
    assert load_checkpoint(resumed, tmp_path / "x.safetensors") == [{"seed": 0}]
    for training in (whole, resumed):
        while not training.finished:
            training.run_epoch()
    ours = dict(resumed.model.named_parameters()) | dict(resumed.model.named_buffers())
    theirs = dict(whole.model.named_parameters()) | dict(whole.model.named_buffers())
    assert [name for name, value in ours.items() if not torch.equal(value, theirs[name])] == []
