"""Jobs on this machine: a pool of processes, one thread each unless told otherwise."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from concurrent.futures import Future as ConcurrentFuture
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import forkserver, resource_tracker
from multiprocessing.context import ForkServerContext
from multiprocessing.synchronize import RLock

from pebble import ProcessExpired, ProcessPool

from bnstudy.errors import one_line
from bnstudy.sweeps.config import EngineConfig
from bnstudy.sweeps.interrupts import last_resort
from bnstudy.sweeps.job import Outcome, run_job
from bnstudy.sweeps.plan import Job
from bnstudy.sweeps.store import Record

ATTEMPTS = 2
"""How often a job is started whose process died under it."""
_PR_SET_PDEATHSIG = 1  # of <sys/prctl.h>
_POOLS = 3
"""How many pools may break in a row before one job has ended."""


def workers(config: EngineConfig) -> int:
    """Processes at a time: as told, else as many as fill the cores."""
    return config.workers or max(1, len(os.sched_getaffinity(0)) // config.threads)


def run_local(jobs: Sequence[Job], root: str, source: Record, config: EngineConfig) -> Generator[Outcome, None, None]:
    """Run jobs in worker processes, in their order, and yield each outcome as it comes.

    A process that dies is not the job's own fault: the job starts once more, then is reported as "lost"; a pool that breaks
    is built again. Closing the iterator stops all workers.

    Args:
        jobs: what to run.
        root: the store's folder.
        source: state of the code, for the records.
        config: workers and threads.

    Source: docs/architecture.md, "Engines".
    """
    # Workers are forked from a server that has the heavy imports behind it and has computed nothing.
    context = _Context()
    context.set_forkserver_preload(
        ["bnstudy.training.measuring.measurement", "pandas", "sklearn.datasets", "sklearn.model_selection"]
    )
    with last_resort(_end_workers):
        yield from _run_pools(deque((job, 1) for job in jobs), root, source, config, context)


def _run_pools(
    queue: deque[tuple[Job, int]], root: str, source: Record, config: EngineConfig, context: _Context
) -> Generator[Outcome, None, None]:
    fruitless = 0
    while queue and fruitless < _POOLS:
        fruitless += 1
        size = min(workers(config), len(queue))
        pool = ProcessPool(size, initializer=_end_with, initargs=[_server()], context=context)
        running: dict[ConcurrentFuture[Outcome], tuple[Job, int]] = {}
        ordered = False
        try:
            while queue or running:
                running |= _hand_over(pool, queue, root, source)
                if queue:
                    break
                finished, _ = wait(running, timeout=0.2, return_when=FIRST_COMPLETED)
                for future in finished:
                    job, attempt = running.pop(future)
                    outcome = _outcome(future, job)
                    if outcome is None:
                        queue.append((job, attempt))
                    elif outcome.status == "lost" and attempt < ATTEMPTS:
                        queue.append((job, attempt + 1))
                    else:
                        fruitless = 0
                        yield outcome
                if not finished and not pool.active:  # whoever has not been told by now never will be
                    break
            queue.extend(running.values())  # of a pool that broke: what it had done already is found in the store
            ordered = True
        finally:
            pool.stop()
            if not ordered:
                _end_workers()  # joining them takes no time then
            pool.join(timeout=5)
    for job, _ in queue:
        yield Outcome(job.id, "lost", f"no process would run it: {_POOLS} pools of workers broke in a row")


def _server() -> int | None:
    """The number of the process that workers are forked from; started here if it is not there."""
    with _interrupts_held_back():
        forkserver.ensure_running()
    return getattr(forkserver._forkserver, "_forkserver_pid", None)


def _end_with(server: int | None) -> None:
    """Let the kernel end this worker with the process that it was forked from, and that one ends with the study's own."""
    with contextlib.suppress(OSError, AttributeError):  # elsewhere than on Linux
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if server is not None and os.getppid() != server:
            os._exit(1)  # it had ended before


def _end_workers() -> None:
    """End all workers at once, whatever their pool is doing."""
    server = getattr(forkserver._forkserver, "_forkserver_pid", None)
    if server is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(server, signal.SIGKILL)


def _hand_over(
    pool: ProcessPool, queue: deque[tuple[Job, int]], root: str, source: Record
) -> dict[ConcurrentFuture[Outcome], tuple[Job, int]]:
    """Schedule what is queued; what a broken pool does not take stays in the queue."""
    taken: dict[ConcurrentFuture[Outcome], tuple[Job, int]] = {}
    # The pool's threads start with the first job, and its processes inherit their mask.
    with _interrupts_held_back(), contextlib.suppress(RuntimeError):
        while queue:
            job, attempt = queue[0]
            future = pool.schedule(run_job, args=(job, root, source, attempt))
            taken[future] = queue.popleft()
    return taken


def _outcome(future: ConcurrentFuture[Outcome], job: Job) -> Outcome | None:
    """What became of a job; None where the whole pool broke (an idle worker died), which is not the job's fault."""
    try:
        return future.result()
    except BrokenProcessPool:
        return None
    except ProcessExpired as death:
        return Outcome(job.id, "lost", f"its process died {ATTEMPTS} times (exit code {death.exitcode})")
    except Exception as error:  # its own exceptions are recorded: it could not begin, or not end
        return Outcome(job.id, "lost", one_line(error))


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
    # When it starts, it unblocks SIGINT. It clears up after a process that was ended at once, and need not complain of it.
    sys.warnoptions.append("ignore:resource_tracker")
    try:
        resource_tracker.ensure_running()
    finally:
        sys.warnoptions.remove("ignore:resource_tracker")
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
