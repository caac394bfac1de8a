"""One job from claim to record, in whatever process an engine gives it."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from bnstudy.errors import one_line
from bnstudy.sweeps.claims import acquire, living
from bnstudy.sweeps.identity import training_fields
from bnstudy.sweeps.plan import Job, is_settled
from bnstudy.sweeps.provenance import machine, versions
from bnstudy.sweeps.redaction import redacted, redacted_fields
from bnstudy.sweeps.store import Record, Store
from bnstudy.sweeps.worker import prepare_process
from bnstudy.training.config import DatasetConfig

if TYPE_CHECKING:  # data come as tensors, and a job that was done elsewhere needs no torch
    from bnstudy.training.data import Dataset

_KEPT = 4
_loaded: dict[tuple[str, str], Dataset] = {}


@dataclass(frozen=True)
class Outcome:
    """How a job ended.

    Args:
        job: its name.
        status: "done", "failed" (recorded with its traceback), "elsewhere" (somebody alive has it), "unsaved" (it ran, but
            the store could not take it) or "lost" (its process was).
        message: one line on what went wrong.
        seconds: wall time.
    """

    job: str
    status: str
    message: str = ""
    seconds: float = 0.0

    def __post_init__(self) -> None:
        # A job's own words go to terminals and logs, wherever it ended.
        object.__setattr__(self, "message", redacted(self.message))


def run_job(job: Job, root: str, source: Record, attempt: int = 1) -> Outcome:
    """Train and measure a job and put it in the store, unless it is there or somebody has claimed it.

    Args:
        job: what to do; its configuration names device and threads.
        root: the store's folder.
        source: state of the code, for the record.
        attempt: which try this is.

    Returns:
        The outcome; the job's own exceptions are recorded, not raised.

    Source: docs/architecture.md, "Jobs and identity" and "Faults and secrets".
    """
    store = Store(root)
    started = time.time()
    progress = {"step": 0, "steps": job.steps}
    try:
        claim = acquire(store.claims, job.id, lambda: dict(progress))
    except OSError as error:
        return _unsaved(job, root, error)
    if claim is None:
        return Outcome(job.id, "elsewhere")
    with claim:
        if (record := store.record(job.id)) is not None and is_settled(job, record):
            return recorded(job, record)  # ended between planning and claiming
        try:
            store.make_room(job.id, record)
        except OSError as error:
            return _unsaved(job, root, error)
        common = {
            "training": job.training,
            "seeds": list(job.seeds),
            "fields": redacted_fields(training_fields(job.config)),
            "config": redacted_fields(dataclasses.asdict(job.config)),
            "started": started,
            "attempt": attempt,
            "process": os.getpid(),
            "source": source,
            "versions": versions(),
            "machine": machine(),
        }
        try:
            tables, result = _measure(job, progress, store.checkpoints / f"{job.id}.safetensors")
            status, message = "done", result.pop("note")
        except Exception as error:
            tables, status, message = {}, "failed", redacted(one_line(error))
            result = {"message": message, "traceback": redacted(traceback.format_exc())}
        ended = time.time()
        if not claim.held and (job.id in living(store.claims) or is_settled(job, store.record(job.id))):
            return Outcome(job.id, "elsewhere")  # silent for too long, it was taken over
        try:
            store.save(job.id, tables, common | {"status": status, "ended": ended, "seconds": ended - started} | result)
        except OSError as error:
            return _unsaved(job, root, error)
        with contextlib.suppress(OSError):
            (store.checkpoints / f"{job.id}.safetensors").unlink(missing_ok=True)
    return Outcome(job.id, status, message, ended - started)


def recorded(job: Job, record: Record) -> Outcome:
    """The outcome that a record in the store tells."""
    return Outcome(job.id, str(record["status"]), str(record.get("message", "")), float(record.get("seconds", 0.0)))


def _measure(job: Job, progress: Record, checkpoint: Path) -> tuple[dict[str, pd.DataFrame], Record]:
    import torch

    from bnstudy.training.measuring import Checkpointing, measure_block

    prepare_process(job.config.engine.threads)
    dataset = _dataset(job.config.dataset, job.config.device)

    def advance(step: int) -> None:
        progress["step"] = step

    measured = measure_block(job.config, dataset, job.seeds, advance, Checkpointing(checkpoint))
    rows = {"metrics": measured.metrics, "folds": measured.folds, "layers": measured.layers}
    tables = {name: pd.DataFrame(content) for name, content in rows.items()}
    for table in tables.values():
        table.insert(0, "job", job.id)
    steps = {str(seed): step for seed, step in measured.diverged.items()}
    facts = {"diverged": steps, "unstable": measured.unstable, "steps": job.steps, "note": measured.note}
    return tables, facts | {"threads": torch.get_num_threads()}


def _dataset(config: DatasetConfig, device: str) -> Dataset:
    """A job's data set; the last few stay for the jobs that follow in this process."""
    from bnstudy.training.data import load_dataset

    key = (repr(config), device)
    if key not in _loaded:
        while len(_loaded) >= _KEPT:
            del _loaded[next(iter(_loaded))]
        _loaded[key] = load_dataset(config, device)
    return _loaded[key]


def _unsaved(job: Job, root: str, error: OSError) -> Outcome:
    hint = "free some space" if error.errno == errno.ENOSPC else "make it writable"
    return Outcome(job.id, "unsaved", f"output_dir: {root!r} cannot be written ({error.strerror}); {hint} and run again")
