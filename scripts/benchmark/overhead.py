"""What the harness adds to its trainings: seconds a job on a warm worker, seconds to plan what is all done."""

from __future__ import annotations

import itertools
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bnstudy.sweeps.config import Config, EngineConfig
from bnstudy.sweeps.engines.local import run_local
from bnstudy.sweeps.plan import recorded_cells
from bnstudy.sweeps.planning import plan_study
from bnstudy.sweeps.provenance import machine, source_state, versions
from bnstudy.sweeps.store import Store
from bnstudy.training.config import OptimizerConfig, VarianceConfig
from bnstudy.training.data import load_dataset
from bnstudy.training.measuring import measure_block

RATES = tuple(round(0.001 * number, 3) for number in range(1, 51))
BATCH_SIZES = tuple(2**power for power in range(1, 11))
"""With two conventions that share no training, 1,000 cells of 8 seeds."""


def job_overhead(jobs: int) -> list[float]:
    """Seconds that a job takes on a warm local worker beyond its training and measuring.

    One worker does jobs of one kind (digits MLP, m = 16, one epoch, 16 seeds) through the local engine, and this process
    does their `measure_block` alone. The time between two outcomes, less the median time of `measure_block`, is what claim,
    record, tables and the way between the processes cost. The first job, which finds the worker cold, is left out.

    Args:
        jobs: how many are counted.
    """
    with tempfile.TemporaryDirectory() as folder:
        config = Config(batch_size=16, epochs=1, seeds=16 * (jobs + 1), device="cpu", output_dir=folder)
        plan, store = plan_study([config])
        dataset = load_dataset(config.dataset)
        alone = []
        for job in plan.jobs:
            begun = time.perf_counter()
            measure_block(job.config, dataset, job.seeds)
            alone.append(time.perf_counter() - begun)
        outcomes = []
        for outcome in run_local(plan.jobs, str(store.root), source_state(), EngineConfig(workers=1)):
            if outcome.status != "done":
                raise RuntimeError(f"{outcome.job}: {outcome.status}: {outcome.message}")
            outcomes.append(time.perf_counter())
    training = float(np.median(alone[1:]))
    return [later - earlier - training for earlier, later in itertools.pairwise(outcomes)]


def planning_time(calls: int, batch_sizes: Sequence[int] = BATCH_SIZES, rates: Sequence[float] = RATES) -> list[float]:
    """Seconds of `bnstudy plan` on a study whose cells are all done, as a process of its own, imports included.

    Args:
        calls: how often.
        batch_sizes, rates: the study's axes beside two conventions. Default: 1,000 cells.
    """
    with tempfile.TemporaryDirectory() as folder:
        cells, jobs = done_study(Path(folder) / "outputs", batch_sizes, rates)
        axes = [
            "variance=paper,karpathy",
            f"batch_size={','.join(map(str, batch_sizes))}",
            f"optimizer.lr={','.join(map(str, rates))}",
        ]
        command = [str(Path(sys.executable).parent / "bnstudy"), "plan", "-m", "name=done", "device=cpu", *axes]
        seconds = []
        for _ in range(calls):
            begun = time.perf_counter()
            said = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout
            seconds.append(time.perf_counter() - begun)
            if f"{cells} cells, {jobs} jobs: {jobs} done" not in said:
                raise RuntimeError(f"the plan is another one: {said}")
    return seconds


def done_study(root: Path, batch_sizes: Sequence[int], rates: Sequence[float]) -> tuple[int, int]:
    """Fill a store with the records of a study, called `done`, that has never run; its tables are a row each.

    Returns:
        How many cells and jobs it has.
    """
    sides = [VarianceConfig("paper", "biased", "unbiased"), VarianceConfig("consistent_unbiased", "unbiased", "unbiased")]
    base = Config(name="done", device="cpu", output_dir=str(root))
    configs = [
        replace(base, variance=side, batch_size=m, optimizer=OptimizerConfig(lr=rate))
        for side in sides
        for m in batch_sizes
        for rate in rates
    ]
    plan, store = plan_study(configs)
    origin = {"source": source_state(), "versions": versions(), "machine": machine()}
    for job in plan.jobs:
        rows = pd.DataFrame({"job": job.id, "seed": job.seeds})
        record: dict[str, Any] = origin | {"training": job.training, "seeds": list(job.seeds), "config": asdict(job.config)}
        record |= {"status": "done", "steps": job.steps, "seconds": 1.0, "threads": 1, "diverged": {}, "unstable": []}
        Store(root).save(job.id, dict.fromkeys(("metrics", "folds", "layers"), rows), record)
    store.save_study("done", {"command": "", "planned": time.time(), "source": {}, "cells": recorded_cells(plan)})
    return len(plan.cells), len(plan.jobs)
