"""What a running study shows: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from types import TracebackType

from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from bnstudy.printing import console, plain, quiet
from bnstudy.sweeps.claims import living
from bnstudy.sweeps.identity import training_fields
from bnstudy.sweeps.job import Outcome
from bnstudy.sweeps.plan import Job, Plan
from bnstudy.sweeps.store import Store


class Display:
    """Progress of a study on standard error; a context manager.

    Running jobs are read from their claims, so jobs of other processes, hosts and engines show as well.

    Args:
        store: where claims are.
        plan: the study's plan.
        todo: the jobs that are to run now.
        workers: how many run at a time.
        notes: lines to say first.
    """

    def __init__(self, store: Store, plan: Plan, todo: Sequence[Job], workers: int, notes: Sequence[str] = ()) -> None:
        self.store, self.todo = store, {job.id: job for job in todo}
        self.console = console(stderr=True, quiet=quiet())
        self.errors = console(stderr=True) if quiet() else self.console
        self.labels = _labels(plan)
        self.plain = not self.console.is_terminal
        self.counts = {"done": 0, "failed": 0}
        self.begun = time.monotonic()
        done = len(plan.done)
        self.console.print(
            f"{len(plan.cells)} cells, {len(plan.jobs)} jobs: {done} done, {len(plan.failed)} failed before, "
            f"{len(todo)} to run on {workers} worker{'s' if workers > 1 else ''}"
        )
        for note in notes:
            self.console.print(plain(note))
        for name in plan.foreign:
            self.console.print(plain(f"{name}: written by another version of bnstudy; it is trained again"))
        for name, reason in plan.damaged.items():
            self.console.print(plain(f"{name}: damaged: {reason}; it is trained again"))
        self.progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self.console,
            disable=self.plain,
            transient=True,
        )
        self.bars: dict[str, TaskID] = {}
        # In steps, so that it moves and knows a time left before the first job ends.
        self.ended: set[str] = set()
        self.overall = self.progress.add_task(self._standing(), total=sum(job.steps for job in todo))
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Display:
        self.progress.start()
        if self.todo and not self.plain:
            self.thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.stop.set()
        if self.thread.is_alive():
            self.thread.join()
        self.progress.stop()
        if self.todo and not self.plain:
            self.console.print(plain(f"{self._standing()}, {time.monotonic() - self.begun:.0f} s"))

    def finished(self, outcome: Outcome) -> None:
        """Count a job that ended."""
        good = outcome.status == "done"
        self.counts["done" if good else "failed"] += 1
        self.ended.add(outcome.job)
        self.progress.update(self.overall, description=self._standing())
        ended = sum(self.counts.values())
        if not good or outcome.message:
            line = f"{outcome.job} ({self.labels[outcome.job]}): {outcome.status}: {outcome.message}"
            if outcome.status == "failed":
                line += f"; its traceback is in {self.store.jobs / outcome.job / 'job.json'}"
            self.errors.print(plain(line))
        if self.plain and (ended == len(self.todo) or ended % max(1, len(self.todo) // 20) == 0):
            seconds = time.monotonic() - self.begun
            left = seconds / ended * (len(self.todo) - ended)
            line = f"{ended}/{len(self.todo)} jobs, {seconds:.0f} s, about {left:.0f} s left"
            self.console.print(line)

    def _watch(self) -> None:
        while not self.stop.wait(0.5):
            left = self.todo.keys() - self.ended
            claims = {job: record for job, record in living(self.store.claims).items() if job in left}
            for job in set(self.bars) - set(claims):
                self.progress.remove_task(self.bars.pop(job))
            for job, record in claims.items():
                if job not in self.bars:
                    self.bars[job] = self.progress.add_task(self.labels[job], total=int(record.get("steps", 0)))
                self.progress.update(self.bars[job], completed=int(record.get("step", 0)))
            steps = sum(self.todo[job].steps for job in tuple(self.ended))
            steps += sum(int(record.get("step", 0)) for record in claims.values())
            self.progress.update(self.overall, completed=steps)

    def _standing(self) -> str:
        left = len(self.todo) - sum(self.counts.values())
        return f"{self.counts['done']} done, {self.counts['failed']} failed, {left} left"


def _labels(plan: Plan) -> dict[str, str]:
    """What tells a job from the others of its study: the keys that differ, the conventions it serves, and its seeds."""
    fields = {job.id: training_fields(job.config) for job in plan.jobs}
    keys = {key for own in fields.values() for key in own} - {"variance.normalize", "variance.rescaled"}
    varying = [key for key in sorted(keys) if len({str(own.get(key)) for own in fields.values()}) > 1]
    served: dict[str, list[str]] = {}
    for cell in plan.cells:
        for name in cell.jobs:
            served.setdefault(name, []).append(cell.config.variance.name)
    labels = {}
    for job in plan.jobs:
        parts = [f"{key}={fields[job.id].get(key)}" for key in varying]
        parts += ["/".join(dict.fromkeys(served.get(job.id, ()))), f"seeds {job.seeds[0]}–{job.seeds[-1]}"]
        labels[job.id] = ", ".join(filter(None, parts))
    return labels
