"""Jobs on this machine: a pool of processes, one thread each unless told otherwise."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from concurrent.futures import Future as ConcurrentFuture
from multiprocessing.context import ForkServerContext
from multiprocessing.synchronize import RLock

from pebble import ProcessExpired, ProcessPool

from bnstudy.sweeps.job import Outcome, run_job
from bnstudy.sweeps.plan import Job
from bnstudy.sweeps.store import Record
from bnstudy.training.config import EngineConfig

ATTEMPTS = 2
"""How often a job is started whose process died under it."""


def workers(config: EngineConfig) -> int:
    """Processes at a time: as told, else as many as fill the cores."""
    return config.workers or max(1, len(os.sched_getaffinity(0)) // config.threads)


def run_local(jobs: Sequence[Job], root: str, source: Record, config: EngineConfig) -> Generator[Outcome, None, None]:
    """Run jobs in worker processes, in their order, and yield each outcome as it comes.

    A process that dies is not the job's own fault: the job starts once more, then is reported as "lost". Closing the
    iterator stops all workers.

    Args:
        jobs: what to run.
        root: the store's folder.
        source: state of the code, for the records.
        config: workers and threads.

    Source: bnstudy issue 3, part 2.
    """
    # Workers are forked from a server that has the heavy imports behind it and has computed nothing.
    context = _Context()
    context.set_forkserver_preload(["bnstudy.training.measurement", "pandas", "sklearn.datasets", "sklearn.model_selection"])
    pool = ProcessPool(max_workers=min(workers(config), max(1, len(jobs))), context=context)
    try:
        running: dict[ConcurrentFuture[Outcome], tuple[Job, int]] = {}
        with _interrupts_held_back():  # the pool's threads start here, and its processes inherit their mask
            for job in jobs:
                running[pool.schedule(run_job, args=(job, root, source))] = (job, 1)
        while running:
            finished, _ = wait(running, timeout=0.2, return_when=FIRST_COMPLETED)
            for future in finished:
                job, attempt = running.pop(future)
                try:
                    yield future.result()
                except ProcessExpired as death:
                    if attempt < ATTEMPTS:
                        again = pool.schedule(run_job, args=(job, root, source, attempt + 1))
                        running[again] = (job, attempt + 1)
                    else:
                        message = f"its process died {ATTEMPTS} times (exit code {death.exitcode})"
                        yield Outcome(job.id, "lost", message)
        pool.close()
        pool.join()
    finally:
        pool.stop()
        pool.join(timeout=5)


class _Context(ForkServerContext):
    """Keeps its locks for as long as it lives.

    The pool drops them before its workers are gone; a worker that is just starting would find the name of its lock missing,
    and say so with a traceback.
    """

    def __init__(self) -> None:
        super().__init__()
        self.locks: list[RLock] = []

    def RLock(self) -> RLock:  # noqa: N802
        """A lock of this context."""
        self.locks.append(super().RLock())
        return self.locks[-1]


@contextlib.contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """Block SIGINT in this thread and in what it starts: Ctrl-C reaches every process of a terminal, and is the parent's."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
