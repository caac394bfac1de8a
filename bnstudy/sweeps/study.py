"""The second half of a study: what is missing of its plan is run, the store records it, and somebody may listen."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from bnstudy.sweeps.config import Config
from bnstudy.sweeps.engines import engine
from bnstudy.sweeps.engines.local import workers
from bnstudy.sweeps.interrupts import interrupts
from bnstudy.sweeps.job import Outcome
from bnstudy.sweeps.plan import Job, Plan, recorded_cells
from bnstudy.sweeps.planning import plan_changes
from bnstudy.sweeps.progress import Display
from bnstudy.sweeps.provenance import source_state
from bnstudy.sweeps.redaction import redacted, redacted_fields
from bnstudy.sweeps.sharing import run_shared
from bnstudy.sweeps.store import Store


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


def run_study(config: Config, plan: Plan, store: Store, command: str, listener: Listener | None = None) -> StudyOutcome:
    """Train what is missing and record the study.

    Args:
        config: any of the study's cells, for what they share: name, question, engine.
        plan, store: what `plan_study` gave.
        command: the command line, for the record.
        listener: told of jobs as they are done. Default: nobody.

    Returns:
        The outcome. An interruption (Ctrl-C, SIGTERM) ends the workers and stands in it, and is not raised.

    Raises:
        UserError: an engine that cannot be used, or a store that cannot be written.

    Source: docs/architecture.md, "The way of a batch size" and "Engines".
    """
    run = engine(config.engine.name)
    store.require_writable()
    source = source_state()
    changes = plan_changes(plan, store, config.name)
    record = {
        "command": command,
        "planned": time.time(),
        "source": source,
        "study_fields": redacted_fields(dataclasses.asdict(config.study)),
        "cells": recorded_cells(plan),
    }
    try:
        store.save_study(config.name, record)
    except OSError as error:
        raise store.not_writable(error) from error
    todo = plan.to_run(config.retry_failed)
    if listener is not None:
        listener.expect(plan, todo)
    outcomes: list[Outcome] = []
    interrupted = False
    with interrupts(), Display(store, plan, todo, workers(config.engine), changes) as display:
        try:
            with contextlib.closing(run_shared(run, todo, store, source, config.engine)) as runner:
                for outcome in runner:
                    outcomes.append(outcome)
                    display.finished(outcome)
                    if outcome.status == "done" and listener is not None:
                        listener.add(outcome.job)
        except KeyboardInterrupt:
            interrupted = True
    return StudyOutcome(plan, outcomes, interrupted)


def describe_failures(outcome: StudyOutcome) -> list[str]:
    """One line for every job that failed before and was not tried again; those of this run were told when they ended."""
    ran = {item.job for item in outcome.outcomes}
    earlier = {job: record for job, record in outcome.plan.failed.items() if job not in ran}
    lines = [redacted(f"{job}: failed earlier: {record.get('message', '')}") for job, record in earlier.items()]
    return [*lines, "retry_failed=true tries failed jobs again"] if earlier else lines
