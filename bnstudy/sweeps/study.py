"""A study from cells to a filled store: check, plan, run what is missing, say how it went."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import NoReturn, Protocol

from bnstudy.errors import UserError
from bnstudy.names import check_layer
from bnstudy.sweeps.checks import check_cell
from bnstudy.sweeps.config import Config
from bnstudy.sweeps.engines import ENGINES, engine
from bnstudy.sweeps.engines.local import workers
from bnstudy.sweeps.identity import training_id
from bnstudy.sweeps.job import Outcome
from bnstudy.sweeps.plan import Job, Plan, cell_fields, make_plan
from bnstudy.sweeps.progress import Display
from bnstudy.sweeps.provenance import source_state
from bnstudy.sweeps.redaction import redacted_fields
from bnstudy.sweeps.sharing import run_shared
from bnstudy.sweeps.store import Record, Store
from bnstudy.training.checks import check_values_per_channel
from bnstudy.training.data.files import require_files
from bnstudy.training.data.shapes import DatasetShape
from bnstudy.training.imported import with_imports
from bnstudy.training.networks.grouping import block_size
from bnstudy.training.schedule import total_steps


class Listener(Protocol):
    """Who wants to hear of a study's jobs while it runs, such as the mirror in W&B."""

    def expect(self, plan: Plan, todo: Sequence[Job]) -> None:
        """Jobs of `plan` that `todo` names are about to run."""

    def add(self, job: str) -> None:
        """A job is in the store as done."""


@dataclass(frozen=True)
class StudyOutcome:
    """What became of a study.

    Args:
        plan: as it was before running.
        outcomes: of the jobs that ran.
        interrupted: whether somebody stopped it.
    """

    plan: Plan
    outcomes: list[Outcome]
    interrupted: bool

    @property
    def complete(self) -> bool:
        """Whether every job is in the store as done."""
        good = {outcome.job for outcome in self.outcomes if outcome.status == "done"}
        return all(job.id in good or job.id in self.plan.done for job in self.plan.jobs)


def plan_study(configs: Sequence[Config]) -> tuple[Plan, Store]:
    """Check every cell and plan the study; nothing is written.

    Args:
        configs: the cells, as composed.

    Returns:
        The plan and the store it looked into.

    Raises:
        UserError: the first thing wrong with a cell.
    """
    configs = [with_imports(config) for config in configs]
    shapes = [check_cell(config) for config in configs]  # before torch is imported: a typing mistake is told at once
    device = _resolve_device(configs)
    resolved = [dataclasses.replace(config, device=device) for config in configs]
    for key in ("name", "output_dir", "results_dir", "tracking"):
        if len({getattr(config, key) for config in resolved}) > 1:
            raise UserError(f"{key}: differs between the cells of one study; use one value")
    size: dict[str, int] = {}
    steps: dict[str, int] = {}
    cost: dict[str, float] = {}
    spatial: dict[tuple[object, ...], dict[str, int]] = {}
    for config, shape in zip(resolved, shapes, strict=True):
        training = training_id(config)
        if training in size:
            continue
        require_files(config.dataset)
        network = (repr(config.model), shape.input_shape, shape.outputs)
        if network not in spatial:
            spatial[network] = _spatial(config, shape)
            for layer in spatial[network]:
                check_layer("model.factory", layer)
        check_values_per_channel(config, shape, spatial[network])
        size[training] = block_size(config, shape)
        steps[training] = total_steps(config, shape.train_samples)
        # Only an order is needed here: the longest first. A step costs a call for each layer, and its samples' work.
        layers = len(spatial[network]) + 1
        work = sum(spatial[network].values()) * config.model.width * config.batch_size
        cost[training] = steps[training] * (layers * 200_000 / size[training] + work)
    store = Store(resolved[0].output_dir)
    return make_plan(resolved, store, size, steps, cost), store


def plan_changes(plan: Plan, store: Store, name: str) -> list[str]:
    """What a study's jobs were when it was last run, if they are others now: its YAML or the command has changed."""
    before = store.study(name)
    if before is None:
        return []
    old = {job for cell in before["cells"] for job in cell["jobs"]}
    new = {job.id for job in plan.jobs}
    lines = []
    if gone := sorted(old - new):
        kept = sum(store.record(job) is not None for job in gone)
        lines.append(f"{name}: {len(gone)} jobs of its last run no longer belong ({kept} of them ran and stay in the store)")
    if gone and (added := len(new - old)):
        lines.append(f"{name}: {len(new & old)} jobs still belong, {added} are new")
    return lines


def recorded_cells(plan: Plan) -> list[Record]:
    """A study's cells for the store: training, jobs, and the flat configuration."""
    return [
        {"training": cell.training, "jobs": cell.jobs, "fields": redacted_fields(cell_fields(cell))} for cell in plan.cells
    ]


def run_study(
    configs: Sequence[Config],
    command: str,
    planned: tuple[Plan, Store] | None = None,
    listener: Listener | None = None,
) -> StudyOutcome:
    """Train what is missing and record the study.

    Args:
        configs: the cells, as composed.
        command: the command line, for the record.
        planned: what `plan_study` gave for them, if that has been asked already.
        listener: told of jobs as they are done. Default: nobody.

    Returns:
        The outcome. An interruption (Ctrl-C, SIGTERM) ends the workers and is told in it, not raised.

    Raises:
        UserError: as `plan_study`; and a store that cannot be written.

    Source: bnstudy issues 2 and 3.
    """
    plan, store = planned or plan_study(configs)
    first = configs[0]
    run = engine(first.engine.name)
    store.require_writable()
    source = source_state()
    changes = plan_changes(plan, store, first.name)
    store.save_study(
        first.name,
        {
            "command": command,
            "planned": time.time(),
            "source": source,
            "study_fields": dataclasses.asdict(first.study),
            "cells": recorded_cells(plan),
        },
    )
    todo = plan.to_run(first.retry_failed)
    if listener is not None:
        listener.expect(plan, todo)
    outcomes: list[Outcome] = []
    interrupted = False
    display = Display(store, plan, todo, workers(first.engine), changes)
    with _sigterm_interrupts(), display:
        try:
            with contextlib.closing(run_shared(run, todo, store, source, first.engine)) as runner:
                for outcome in runner:
                    outcomes.append(outcome)
                    display.finished(outcome)
                    if outcome.status == "done" and listener is not None:
                        listener.add(outcome.job)
        except KeyboardInterrupt:
            interrupted = True
    return StudyOutcome(plan, outcomes, interrupted)


def _resolve_device(configs: Sequence[Config]) -> str:
    wanted = {config.device for config in configs}
    if len(wanted) > 1:
        raise UserError("device: differs between the cells of one study; use one value")
    device = wanted.pop()
    asked = configs[0].engine
    if ENGINES[asked.name].elsewhere:
        # This machine is not the one that computes: what is asked of the cluster decides.
        return device if device != "auto" else "cuda" if (asked.gpus_per_job or 0) > 0 else "cpu"
    if device == "cpu":
        return device
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("device: 'cuda' is not there; use cpu or auto")
    return "cuda" if torch.cuda.is_available() and device in ("auto", "cuda") else "cpu" if device == "auto" else device


def _spatial(config: Config, shape: DatasetShape) -> dict[str, int]:
    from bnstudy.training.networks.imported import check_imported
    from bnstudy.training.networks.models import build_model, values_per_channel

    if config.model.imported:
        check_imported(config.model, shape.input_shape, shape.outputs)
    # Positions do not depend on the width, and a network too large for this machine is its job's affair.
    narrow = dataclasses.replace(config.model, width=min(config.model.width, 8))
    return values_per_channel(build_model(narrow, shape.input_shape, shape.outputs, seed=0), shape.input_shape, 1)


@contextlib.contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """Let SIGTERM end a study the way Ctrl-C does."""

    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def describe_failures(outcome: StudyOutcome) -> list[str]:
    """One line for every job that is not done, and what to do about them."""
    lines = [f"{item.job}: {item.status}: {item.message}" for item in outcome.outcomes if item.status != "done"]
    told = {item.job for item in outcome.outcomes}
    for name, record in outcome.plan.failed.items():
        if name not in told:
            lines.append(f"{name}: failed earlier: {record.get('message', '')}")
    if outcome.plan.failed and any(name not in told for name in outcome.plan.failed):
        lines.append("retry_failed=true tries failed jobs again")
    return lines


__all__ = ["StudyOutcome", "describe_failures", "plan_study", "run_study"]
