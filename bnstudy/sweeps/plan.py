"""From cells to jobs: which trainings serve which conventions, which seeds train together, what is done already."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bnstudy.batchnorm.conventions import RESCALED, Convention
from bnstudy.errors import UserError
from bnstudy.sweeps.checks import seed_list
from bnstudy.sweeps.config import Config
from bnstudy.sweeps.identity import job_id, training_fields, training_id
from bnstudy.sweeps.store import LAYOUT, Record, Store, is_done
from bnstudy.training.config import VarianceConfig
from bnstudy.training.data.shapes import describe
from bnstudy.training.keys import Role, keys, lookup, replaced


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
    """

    cells: list[Cell]
    jobs: list[Job]
    done: dict[str, Record]
    failed: dict[str, Record]
    missing: list[Job]
    foreign: list[str]

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


def make_plan(
    configs: Iterable[Config],
    store: Store,
    block_size: Mapping[str, int],
    steps: Mapping[str, int],
    cost: Mapping[str, float],
) -> Plan:
    """Merge cells into jobs and look up which are done.

    Conventions with the same normalising side share a training; the identity control has its own. A block of which some
    seeds are done already is completed by a job for the others.

    Args:
        configs: checked configurations, `device` resolved, one a cell.
        store: where finished jobs are.
        block_size: seeds that train together, by training.
        steps: optimizer steps, by training.
        cost: any number that grows with a training's time, by training; the longest start first.

    Returns:
        The plan; nothing is written.

    Source: DESIGN.md, "Replicas" and section 4; bnstudy issue 3.
    """
    siblings: dict[str, list[str]] = {}
    for name in store.job_names():
        siblings.setdefault(name.split("-")[0], []).append(name)
    cells: dict[str, Cell] = {}
    jobs: dict[str, Job] = {}
    records: dict[str, Record | None] = {}
    asked: dict[str, list[str]] = {}
    for config in configs:
        training = training_id(config)
        seeds = seed_list(config.seeds)
        for name in siblings.get(training, ()):
            if name not in records:
                records[name] = store.record(name)
        finished = {name: record for name in siblings.get(training, ()) if (record := records[name]) and is_done(record)}
        needed: list[str] = []
        for block in blocks(seeds, block_size[training]):
            for part in _cover(block, finished):
                name = job_id(training, part)
                needed.append(name)
                own = dataclasses.replace(canonical(config), seeds=list(part))
                jobs.setdefault(name, Job(name, training, own, part, steps[training]))
        if set(asked.setdefault(training, needed)) != set(needed):
            raise UserError(f"seeds: {config.seeds!r} differs between cells that share a training; use one value in a study")
        # A baseline accumulates nothing: all conventions are one cell.
        side = config.variance.accumulate if config.model.norm == "batch" else ""
        cells.setdefault(f"{training} {side}", Cell(config, training, tuple(needed)))
    ordered = sorted(jobs.values(), key=lambda job: (-cost[job.training] * len(job.seeds), job.id))
    found = {job.id: record for job in ordered if (record := records.get(job.id)) is not None}
    done = {name: record for name, record in found.items() if is_done(record)}
    foreign = [name for name, record in found.items() if record.get("layout") != LAYOUT]
    failed = {name: record for name, record in found.items() if record.get("status") == "failed" and name not in foreign}
    began = {name: record.get("started") for name, record in failed.items()}
    ordered = [dataclasses.replace(job, failed=began[job.id]) if job.id in began else job for job in ordered]
    missing = [job for job in ordered if job.id not in done and job.id not in failed]
    return Plan(list(cells.values()), ordered, done, failed, missing, foreign)


def _cover(block: tuple[int, ...], finished: Mapping[str, Record]) -> list[tuple[int, ...]]:
    """Cut a block into finished jobs inside it, the largest first, and one job for the seeds that are left."""
    left = set(block)
    parts: list[tuple[int, ...]] = []
    for record in sorted(finished.values(), key=lambda record: -len(record["seeds"])):
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
