"""A training resumed from disk goes on as if nothing had happened, to the bit."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import safetensors.torch
import torch

from bnstudy.atomic import DamagedError
from bnstudy.sweeps.config import Config
from bnstudy.sweeps.job import run_job
from bnstudy.sweeps.store import Store
from bnstudy.training.checkpoint import load_checkpoint, save_checkpoint
from bnstudy.training.data import Dataset
from bnstudy.training.loop import Training
from tests.records import SOURCE
from tests.sweeps.test_job import job_of
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


def tensors_of(training: Training) -> dict[str, torch.Tensor]:
    named = dict(training.model.named_parameters()) | dict(training.model.named_buffers())
    return {name: value.detach().clone() for name, value in named.items()}


def assert_refused(config: Config, digits: Dataset, path: Path, seeds: tuple[int, ...] = (0, 1)) -> None:
    training = Training(config, digits, seeds)
    before = tensors_of(training)
    with pytest.raises(DamagedError):
        load_checkpoint(training, path)
    assert (training.epoch, training.step) == (0, 0)
    assert all(torch.equal(value, before[name]) for name, value in tensors_of(training).items())
    assert [generator.initial_seed() for generator in training.order_generators] == [
        generator.initial_seed() for generator in Training(config, digits, seeds).order_generators
    ]


@pytest.fixture
def saved(digits: Dataset, tmp_path: Path) -> Path:
    training = Training(tiny(epochs=3), digits, (0, 1))
    training.run_epoch()
    save_checkpoint(training, [{"seed": 0}], tmp_path / "x.safetensors")
    return tmp_path / "x.safetensors"


def test_no_damage_to_a_checkpoint_goes_unnoticed(saved: Path, digits: Dataset) -> None:
    whole, chance = saved.read_bytes(), random.Random(0)
    contents = [b"", whole[: len(whole) // 2], whole[:8], b"no tensors" * 100, whole + b"\0"]
    for position in chance.sample(range(len(whole)), 60):
        contents.append(whole[:position] + bytes([whole[position] ^ 1 << chance.randrange(8)]) + whole[position + 1 :])
    for content in contents:
        saved.write_bytes(content)
        assert_refused(tiny(epochs=3), digits, saved)
    saved.unlink()
    saved.mkdir()
    assert_refused(tiny(epochs=3), digits, saved)


def test_a_checkpoint_of_another_training_is_refused(saved: Path, digits: Dataset) -> None:
    for changes in ({"optimizer__lr": 0.01}, {"variance": "inverted"}, {"batch_size": 4}, {"momentum": 0.2}):
        assert_refused(tiny(**({"epochs": 3} | changes)), digits, saved)
    assert_refused(tiny(epochs=3), digits, saved, seeds=(0, 2))
    assert load_checkpoint(Training(tiny(epochs=3), digits, (0, 1)), saved) == [{"seed": 0}]


@pytest.mark.parametrize("metadata", [None, {}, {"training": "{}"}, {"training": "{}", "seal": "0"}, {"seal": "0"}])
def test_a_checkpoint_without_its_metadata_is_refused(saved: Path, digits: Dataset, metadata: dict[str, str] | None) -> None:
    safetensors.torch.save_file(safetensors.torch.load_file(saved), saved, metadata)
    assert_refused(tiny(epochs=3), digits, saved)


def test_a_job_whose_checkpoint_is_damaged_is_trained_from_the_beginning_and_says_so(tmp_path: Path) -> None:
    job, sound, damaged = job_of(epochs=2), Store(tmp_path / "sound"), Store(tmp_path / "damaged")
    damaged.checkpoints.mkdir(parents=True)
    (damaged.checkpoints / f"{job.id}.safetensors").write_bytes(b"")
    assert run_job(job, str(sound.root), SOURCE).message == ""
    outcome = run_job(job, str(damaged.root), SOURCE)
    assert (outcome.status, outcome.message) == (
        "done", "its checkpoint cannot be read, so it was trained from the beginning"
    )  # fmt: skip
    assert not list(damaged.checkpoints.iterdir())
    for name in ("metrics", "folds", "layers"):
        pd.testing.assert_frame_equal(sound.table(job.id, name), damaged.table(job.id, name), check_exact=True)
