"""How long a plan will take: from jobs of the same kind in the store, else from a short probe."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from bnstudy.errors import one_line
from bnstudy.sweeps.plan import Job
from bnstudy.sweeps.store import Store, is_done
from bnstudy.sweeps.worker import prepare_process

_PROBE_STEPS = 12
_HISTORY_SHARE = 0.25
"""An epoch's measurements take three statistics, the last ones ten to thirteen."""


@dataclass(frozen=True)
class Estimate:
    """What a plan costs.

    Args:
        seconds: wall time with the given workers.
        core_seconds: of all jobs.
        measured: jobs estimated from finished ones of the same kind.
        probed: jobs estimated from a probe.
        disk: bytes that the missing jobs will take.
        problems: a line on every kind of job whose probe failed; its jobs are in none of the times.
    """

    seconds: float
    core_seconds: float
    measured: int
    probed: int
    disk: int
    problems: list[str] = field(default_factory=list)


def estimate(jobs: Sequence[Job], store: Store, workers: int) -> Estimate:
    """Estimate the jobs that a run would start.

    A job takes as long a step as finished jobs of the same data set, model, batch size and number of seeds did. For kinds
    that the store does not know, one job with the fewest and one with the most samples a step are begun for a dozen steps,
    and a step's time is taken to be linear in its samples between them.

    Args:
        jobs: the missing ones, and the failed ones that are to be tried again.
        store: finished jobs, of whatever study.
        workers: jobs at a time.
    """
    known, size = _known(store)
    seconds: dict[str, float] = {}
    unknown: dict[tuple[Any, ...], list[Job]] = {}
    for job in jobs:
        rate = known.get(
            _kind(
                dataclasses.asdict(job.config.dataset),
                dataclasses.asdict(job.config.model),
                job.config.batch_size,
                len(job.seeds),
            )
        )
        if rate is None:
            unknown.setdefault((repr(job.config.dataset), repr(job.config.model)), []).append(job)
        else:
            seconds[job.id] = rate * job.steps
    measured = len(seconds)
    problems = []
    for group in unknown.values():
        try:
            seconds |= _probe(group)
        except Exception as error:  # no GPU here, or too little memory: the job may run elsewhere, or fail with a record
            problems.append(_problem(group, error))
    total = sum(seconds.values())
    longest = max(seconds.values(), default=0.0)
    wall = max(total / workers, longest)
    return Estimate(wall, total, measured, len(seconds) - measured, size * len(jobs), problems)


def _problem(group: Sequence[Job], error: Exception) -> str:
    """One line on a probe that failed."""
    config = group[0].config
    return (
        f"{len(group)} jobs of model {config.model.name!r} on {config.dataset.name!r} are not estimated: {one_line(error)}"
    )


def _known(store: Store) -> tuple[dict[tuple[Any, ...], float], int]:
    """Seconds a step by kind of job, and the mean size of a job's files."""
    rates: dict[tuple[Any, ...], list[float]] = {}
    sizes = []
    for name in store.job_names():
        record = store.record(name, tables=False)
        if record is None or not is_done(record) or not record["steps"]:
            continue
        config = record["config"]
        kind = _kind(config["dataset"], config["model"], config["batch_size"], len(record["seeds"]))
        rates.setdefault(kind, []).append(record["seconds"] / record["steps"])
        with contextlib.suppress(OSError):  # another run may be writing there, and its temporary files come and go
            sizes.append(sum(file.stat().st_size for file in (store.jobs / name).iterdir()))
    mean_size = sum(sizes) // len(sizes) if sizes else 60_000  # a small study's job, for want of any
    return {kind: sum(values) / len(values) for kind, values in rates.items()}, mean_size


def _kind(dataset: dict[str, Any], model: dict[str, Any], batch_size: int, seeds: int) -> tuple[Any, ...]:
    named = {"name": dataset["name"], "factory": dataset.get("factory"), "args": dataset.get("args")}
    # Records from before there were imports have no word of them.
    parts = [repr(sorted((key, value) for key, value in part.items() if value)) for part in (named, model)]
    return (*parts, batch_size, seeds)


def _probe(group: Sequence[Job]) -> dict[str, float]:
    """Seconds of every job of one model and data set, from two of them begun for a few steps."""
    by_work = sorted(group, key=_samples)
    ends = (by_work[0], by_work[-1]) if _samples(by_work[0]) < _samples(by_work[-1]) else (by_work[0],)
    points = [(_samples(job), *_begin(job)) for job in ends]
    (low, step_low, final_low), (high, step_high, final_high) = points[0], points[-1]
    result = {}
    for job in group:
        share = (_samples(job) - low) / (high - low) if high > low else 0.0
        step, final = step_low + share * (step_high - step_low), final_low + share * (final_high - final_low)
        result[job.id] = job.steps * step + final * (1 + _HISTORY_SHARE * (job.config.epochs - 1))
    return result


def _samples(job: Job) -> int:
    return job.config.batch_size * len(job.seeds)


def _begin(job: Job) -> tuple[float, float]:
    """Seconds a step, and seconds of the measurements after the last epoch."""
    from bnstudy.training.data import load_dataset
    from bnstudy.training.measuring import measure_block

    prepare_process(job.config.engine.threads)
    config = dataclasses.replace(job.config, steps=_PROBE_STEPS)
    dataset = load_dataset(config.dataset, config.device)
    ticks: list[float] = []
    measure_block(config, dataset, job.seeds, lambda step: ticks.append(time.perf_counter()))
    steps = sorted(later - earlier for earlier, later in itertools.pairwise(ticks[1:]))
    return steps[len(steps) // 2], time.perf_counter() - ticks[-1]
