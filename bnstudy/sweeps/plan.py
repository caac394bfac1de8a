"""From cells to jobs: which trainings serve which conventions, which seeds train together, what is done already."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from bnstudy.batchnorm.conventions import RESCALED, Convention
from bnstudy.errors import UserError
from bnstudy.sweeps.checks import seed_list
from bnstudy.sweeps.config import Config
from bnstudy.sweeps.identity import job_id, training_fields, training_id
from bnstudy.sweeps.redaction import redacted_fields
from bnstudy.sweeps.store import LAYOUT, Record, Store, is_damaged, is_done
from bnstudy.training.config import VarianceConfig
from bnstudy.training.data import describe
from bnstudy.training.keys import Role, keys, lookup, replaced


class Effort(NamedTuple):
    """What a training takes.

    Args:
        block: seeds that train together.
        steps: optimizer steps.
        cost: any number that grows with its time.
    """

    block: int
    steps: int
    cost: float


@dataclass(frozen=True)
class Job:
    """One block of seeds of one training.

    Args:
        id: the job's name in the store.
        training: the training's name, shared by all its blocks.
        config: the training's configuration; what does not change its numbers is set to one value for all that share it.
        seeds: which seeds.
        steps: optimizer steps.
        failed: when its failed attempt began that the plan found, by its record; None where there was none.
    """

    id: str
    training: str
    config: Config
    seeds: tuple[int, ...]
    steps: int
    failed: float | None = None


@dataclass(frozen=True)
class Cell:
    """One configuration under one convention, and the jobs that answer it.

    Args:
        config: as composed.
        training: the training's name.
        jobs: names of the jobs that hold its seeds.
    """

    config: Config
    training: str
    jobs: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """Everything a study needs, and what of it is there.

    Args:
        cells: in the order asked for, equal ones once.
        jobs: each job once, the longest first.
        done, failed: the jobs that ended, with their records.
        missing: the others.
        foreign: jobs in the store under a needed name that another layout of the store wrote.
        damaged: jobs in the store that are not what was written, and what is wrong with them; they are missing.
    """

    cells: list[Cell]
    jobs: list[Job]
    done: dict[str, Record]
    failed: dict[str, Record]
    missing: list[Job]
    foreign: list[str]
    damaged: dict[str, str] = field(default_factory=dict)

    def to_run(self, retry_failed: bool) -> list[Job]:
        """The jobs that a run starts: the missing ones, and those that failed where they are to be tried again."""
        again = [job for job in self.jobs if job.id in self.failed] if retry_failed else []
        return [*self.missing, *again]


def is_settled(job: Job, record: Record | None) -> bool:
    """Whether a record answers a job: it is done, or has failed in an attempt that the job's plan did not know of."""
    if record is None or record.get("layout") != LAYOUT:
        return False
    return is_done(record) or (record.get("status") == "failed" and record.get("started") != job.failed)


def blocks(seeds: Sequence[int], size: int) -> list[tuple[int, ...]]:
    """Aligned blocks of seeds: 0…B-1, B…2B-1, …; a block with seeds left out is a smaller one."""
    grouped: dict[int, list[int]] = {}
    for seed in sorted(seeds):
        grouped.setdefault(seed // size, []).append(seed)
    return [tuple(block) for block in grouped.values()]


def canonical(config: Config) -> Config:
    """The configuration of a training, whoever asks for it: what says nothing of the training takes its default.

    Of the variance the normalising side is left; the accumulated one is a selection among what every training keeps.
    """
    defaults = Config()
    variance = VarianceConfig(f"normalize_{config.variance.normalize}", config.variance.normalize)
    if config.variance.rescaled:
        variance = VarianceConfig(RESCALED, "biased", "biased", rescaled=True)
    for key in keys(Config):
        if key.role in (Role.PRESENTATION, Role.SELECTION):
            config = replaced(config, key.name, lookup(defaults, key.name))
    if config.port.variance is not None:
        config = replaced(config, "port.variance", Convention.parse(config.port.variance).name)
    return replaced(config, "variance", variance)


def make_plan(configs: Iterable[Config], store: Store, efforts: Mapping[str, Effort]) -> Plan:
    """Merge cells into jobs and look up which are done.

    Conventions with the same normalising side share a training; the identity control has its own. A block of which some
    seeds are done already is completed by a job for the others.

    Args:
        configs: checked configurations, `device` resolved, one a cell.
        store: where finished jobs are.
        efforts: what each training takes, by its name; the longest start first.

    Returns:
        The plan; nothing is written.

    Raises:
        UserError: cells that share a training and differ in their seeds.

    Source: docs/method.md, "Replicas and pairing"; docs/architecture.md, "Jobs and identity".
    """
    records = _records(store, efforts)
    cells: dict[str, Cell] = {}
    jobs: dict[str, Job] = {}
    needed: dict[str, list[str]] = {}
    for config in configs:
        training = training_id(config)
        parts = _parts(seed_list(config.seeds), efforts[training].block, records[training])
        names = [job_id(training, part) for part in parts]
        if training not in needed:
            needed[training], shared = names, canonical(config)
            for name, part in zip(names, parts, strict=True):
                settings = dataclasses.replace(shared, seeds=list(part))
                jobs[name] = Job(name, training, settings, part, efforts[training].steps)
        elif set(names) != set(needed[training]):
            raise UserError(f"seeds: {config.seeds!r} differs between cells that share a training; use one value in a study")
        # A baseline accumulates nothing: all conventions are one cell.
        side = config.variance.accumulate if config.model.norm == "batch" else ""
        cells.setdefault(f"{training} {side}", Cell(config, training, tuple(names)))
    plan = Plan(list(cells.values()), [], {}, {}, [], [])
    for job in sorted(jobs.values(), key=lambda job: (-efforts[job.training].cost * len(job.seeds), job.id)):
        _enter(plan, job, records[job.training].get(job.id))
    return plan


def _records(store: Store, trainings: Iterable[str]) -> dict[str, dict[str, Record]]:
    """What the store has of each training, by the jobs' names."""
    found: dict[str, dict[str, Record]] = {training: {} for training in trainings}
    for name in store.job_names():
        training = name.split("-")[0]
        if training in found and (record := store.record(name)) is not None:
            found[training][name] = record
    return found


def _parts(seeds: Sequence[int], size: int, records: Mapping[str, Record]) -> list[tuple[int, ...]]:
    """Seeds of each job of a training: finished jobs where they fit into a block, and one job for what is left of it."""
    finished = [record for record in records.values() if is_done(record)]
    return [part for block in blocks(seeds, size) for part in _cover(block, finished)]


def _enter(plan: Plan, job: Job, record: Record | None) -> None:
    """Put a job into a plan as what its record says it is."""
    if record is not None and is_done(record):
        plan.done[job.id] = record
    elif record is not None and record.get("layout") != LAYOUT:
        plan.foreign.append(job.id)
        plan.missing.append(job)
    elif record is not None and record.get("status") == "failed":
        plan.failed[job.id] = record
        job = dataclasses.replace(job, failed=record.get("started"))
    else:
        if record is not None and is_damaged(record):
            plan.damaged[job.id] = str(record["message"])
        plan.missing.append(job)
    plan.jobs.append(job)


def _cover(block: tuple[int, ...], finished: Sequence[Record]) -> list[tuple[int, ...]]:
    """Cut a block into finished jobs inside it, the largest first, and one job for the seeds that are left."""
    left = set(block)
    parts: list[tuple[int, ...]] = []
    for record in sorted(finished, key=lambda record: -len(record["seeds"])):
        seeds = tuple(record["seeds"])
        if seeds and left.issuperset(seeds):
            parts.append(seeds)
            left.difference_update(seeds)
    return [*parts, tuple(sorted(left))] if left else parts


def cell_fields(cell: Cell) -> dict[str, Any]:
    """Flat configuration of a cell, for records: what changes its numbers, its convention, and the task of an import."""
    task = {"dataset.task": describe(cell.config.dataset).task} if cell.config.dataset.imported else {}
    return (
        training_fields(cell.config)
        | task
        | {
            "variance.name": cell.config.variance.name,
            "variance.accumulate": cell.config.variance.accumulate,
        }
    )


def recorded_cells(plan: Plan) -> list[Record]:
    """A study's cells for the store: training, jobs, and the flat configuration."""
    return [
        {"training": cell.training, "jobs": cell.jobs, "fields": redacted_fields(cell_fields(cell))} for cell in plan.cells
    ]
