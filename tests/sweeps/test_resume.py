"""A training whose process is killed goes on from its checkpoint and ends as if nothing had happened, to the bit."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from bnstudy.sweeps.config import Config
from bnstudy.sweeps.identity import job_id, training_id
from bnstudy.sweeps.job import run_job
from bnstudy.sweeps.plan import Job, canonical
from bnstudy.sweeps.store import Store
from bnstudy.sweeps.worker import prepare_process
from bnstudy.training.data import load_dataset
from bnstudy.training.measuring import Checkpointing, measure_block
from tests.tiny import tiny

SEEDS = (0, 2)
STEPS = 13
"""Of an epoch."""
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "sgd": {"optimizer__name": "sgd", "optimizer__momentum": 0.9, "optimizer__nesterov": True},
    "adamw": {"optimizer__name": "adamw", "optimizer__lr": 0.003, "optimizer__weight_decay": 0.1},
}


def long_training(optimizer: str) -> Config:
    """Five epochs in which everything that a checkpoint must carry matters: optimizer, schedule, order, augmentation."""
    more = {"schedule__name": "cosine", "schedule__warmup": 0.1, "dataset__augment": "crop_flip", "epochs": 5}
    return tiny(**OPTIMIZERS[optimizer], **more)


def train_and_die(config: Config, path: Path, last: int) -> None:
    """Train in this process, with a checkpoint after every epoch, until it kills itself at a step."""
    prepare_process(1)

    def kill_at(step: int) -> None:
        if step == last:
            os.kill(os.getpid(), signal.SIGKILL)

    measure_block(config, load_dataset(config.dataset), SEEDS, kill_at, Checkpointing(path, every=0.0))


def leave_a_checkpoint(config: Config, path: Path, last: int) -> None:
    child = multiprocessing.get_context("spawn").Process(target=train_and_die, args=(config, path, last))
    child.start()
    child.join(120)
    assert child.exitcode == -signal.SIGKILL
    assert path.exists()


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_killed_training_goes_on_and_ends_bit_identical(optimizer: str, tmp_path: Path) -> None:
    config = long_training(optimizer)
    dataset = load_dataset(config.dataset)
    whole = measure_block(config, dataset, SEEDS)
    path = tmp_path / "checkpoint.safetensors"
    leave_a_checkpoint(config, path, 2 * STEPS + 5)
    steps: list[int] = []
    resumed = measure_block(config, dataset, SEEDS, steps.append, Checkpointing(path))
    assert steps[0] == 2 * STEPS, "the epoch that was cut off is trained again, those before it are not"
    assert len(steps) == 1 + 3 * STEPS
    assert resumed == whole
    assert len({row["accuracy"] for row in whole.metrics}) > 10


@pytest.mark.slow
def test_a_job_goes_on_from_its_checkpoint_and_its_tables_are_the_same(tmp_path: Path) -> None:
    config = long_training("sgd")
    training = training_id(config)
    job = Job(job_id(training, SEEDS), training, canonical(config), SEEDS, 5 * STEPS)
    source: dict[str, Any] = {"bnstudy": "0", "commit": None, "dirty": None}
    stores = [Store(tmp_path / name) for name in ("whole", "killed")]
    assert run_job(job, str(stores[0].root), source).status == "done"

    path = stores[1].checkpoints / f"{job.id}.safetensors"
    leave_a_checkpoint(job.config, path, 4 * STEPS + 1)
    assert run_job(job, str(stores[1].root), source).status == "done"
    assert not path.exists()
    for table in ("metrics", "folds"):
        one, other = (store.table(job.id, table) for store in stores)
        pd.testing.assert_frame_equal(one, other, check_exact=True)


def test_a_checkpoint_that_cannot_be_read_is_a_training_from_the_start(tmp_path: Path) -> None:
    config = tiny()
    dataset = load_dataset(config.dataset)
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(b"half of a file")
    resumed = measure_block(config, dataset, SEEDS, checkpoint=Checkpointing(path))
    assert resumed.note == "its checkpoint cannot be read, so it was trained from the beginning"
    assert dataclasses.replace(resumed, note="") == measure_block(config, dataset, SEEDS)
