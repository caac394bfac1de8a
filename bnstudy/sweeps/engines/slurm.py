"""Jobs on Slurm: job arrays through submitit, looked after through squeue."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
import unicodedata
import uuid
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import submitit
from submitit.core.utils import FailedJobError, FailedSubmissionError, UncompletedJobError, environment_variables
from submitit.helpers import clean_env

from bnstudy.errors import UserError, first_line
from bnstudy.factories import search_path
from bnstudy.sweeps.config import EngineConfig
from bnstudy.sweeps.engines.attempt import ATTEMPTS, attempt_job, gpus
from bnstudy.sweeps.interrupts import last_resort
from bnstudy.sweeps.job import Outcome
from bnstudy.sweeps.plan import Job
from bnstudy.sweeps.store import Record, Store

_POLL = 0.5  # seconds between two looks for results, which are files
_ASK = 5.0  # seconds between two questions to Slurm's controller
_ARRAY = 1000  # tasks of one array; Slurm's MaxArraySize is 1001 unless a site changes it
_ANSWER = 30.0  # seconds that Slurm's controller may take to answer
_GRACE = 2.0  # seconds in which cancelled jobs may let go of their claims
_ENDED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "DEADLINE", "OUT_OF_MEMORY"}
_ENDED |= {"BOOT_FAIL", "NODE_FAIL", "PREEMPTED", "REVOKED"}  # unless Slurm requeues the task


def run_slurm(jobs: Sequence[Job], root: str, source: Record, config: EngineConfig) -> Generator[Outcome, None, None]:
    """Run jobs as tasks of Slurm job arrays and yield each outcome as it comes.

    What Slurm requeues of itself (a node lost, a preemption) is waited for. A task that ends without an outcome (killed, out
    of memory or of time) is not the job's own fault: the job starts again, from its last checkpoint, and is reported as
    "lost" after `ATTEMPTS` in a row that brought no new checkpoint. One that somebody cancels is reported at once. Closing
    the generator cancels what is queued and running. States come from squeue, so no accounting is needed.

    submitit carries a job to its node, and the outcome back, in pickles of its own, in ROOT/slurm/NAME with the logs; the
    folder goes when all is well. Nothing else reads them, and what the store holds is never pickled.

    Args:
        jobs: what to run.
        root: the store's folder; every node must see it, and the folder the command is typed in, under this path.
        source: state of the code, for the records.
        config: `workers` tasks at a time, None for as many as Slurm allows; `threads`, `gpus_per_job`, `memory` and `time`
            asked for each; `partition`, `options` and `setup` as given.

    Raises:
        UserError: Slurm refuses the jobs.

    Source: docs/architecture.md, "Engines".
    """
    name = f"bnstudy-{uuid.uuid4().hex[:8]}"
    folder = Path(root).resolve() / "slurm" / name
    for path in (str(folder), os.getcwd(), sys.executable):
        if any(unicodedata.category(sign) in ("Cc", "Zl", "Zp") for sign in path):  # it becomes a line of sbatch's script
            raise UserError(f"output_dir: the path {path!r} has a control character in it; Slurm needs one without")
    waiting: dict[str, _Task] = {}
    well = False
    resort = contextlib.ExitStack()
    resort.enter_context(last_resort(lambda: _scancel(name)))
    try:
        waiting |= _submit([_Try(job, checkpoint=_checkpoint(root, job)) for job in jobs], root, source, config, folder)
        lost, asked = False, time.monotonic()
        while waiting:
            time.sleep(_POLL)
            states = None
            if time.monotonic() - asked > _ASK:
                states, asked = _states(name), time.monotonic()
            again: list[_Try] = []
            for key, task in list(waiting.items()):
                outcome = task.outcome(states)
                if outcome is None:
                    continue
                del waiting[key]
                if outcome.status == "lost" and not task.cancelled:
                    following = task.tried.next(_checkpoint(root, task.tried.job))
                    if following.vain < ATTEMPTS:
                        _call("scancel", key)  # preempted or held, it could come back beside its successor
                        again.append(following)
                        continue
                lost = lost or outcome.status == "lost"
                yield outcome
            waiting |= _submit(again, root, source, config, folder)
        well = not lost
    finally:
        if waiting or not well:
            _cancel(name)
        resort.close()
    if well:
        shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True)
class _Try:
    """One attempt at a job.

    Args:
        number: which one it is, from 1.
        vain: how many before it, in a row, ended without an outcome or a new checkpoint.
        checkpoint: when the job's checkpoint was written that it starts from; None if there was none.
    """

    job: Job
    number: int = 1
    vain: int = 0
    checkpoint: int | None = None

    def next(self, checkpoint: int | None) -> _Try:
        """The attempt after this one; with a time limit, a long job may take many and get on with each."""
        moved = checkpoint not in (None, self.checkpoint)
        return _Try(self.job, self.number + 1, 0 if moved else self.vain + 1, checkpoint)


class _Task:
    """An attempt as Slurm and submitit know it."""

    def __init__(self, handle: Any, tried: _Try) -> None:
        self.tried, self.cancelled = tried, False
        self._handle, self._missed = handle, 0

    def outcome(self, states: dict[str, tuple[str, str]] | None) -> Outcome | None:
        """What became of it; None while that is open.

        Args:
            states: the answer of `_states`, None if nobody asked.
        """
        if self._handle.paths.result_pickle.exists():
            try:
                result = self._handle.result()
            except (UncompletedJobError, FailedJobError) as error:
                return self._lost(first_line(error))
            assert isinstance(result, Outcome)
            return Outcome(result.job, "lost", self._times(result.message)) if result.status == "lost" else result
        if states is None:
            return None
        state, reason = states.get(self._handle.job_id, ("unknown", "None"))
        if state != "unknown" and state not in _ENDED and "held" not in reason:
            self._missed = 0
            return None
        # A result may reach a shared folder later than the news of its end, and a requeued task shows its old end first.
        self._missed += 1
        if self._missed < 2:
            return None
        self.cancelled = state == "CANCELLED"
        ending = f"Slurm task {self._handle.job_id} ended as {state}{'' if reason == 'None' else f' ({reason})'}"
        return self._lost(ending + ("; use a longer engine.time" if state == "TIMEOUT" else ""))

    def _lost(self, message: str) -> Outcome:
        return Outcome(self.tried.job.id, "lost", f"{self._times(message)}; see {self._handle.paths.stderr}")

    def _times(self, message: str) -> str:
        return message if self.tried.number == 1 else f"attempt {self.tried.number}: {message}"


def _checkpoint(root: str, job: Job) -> int | None:
    try:
        return (Store(root).checkpoints / f"{job.id}.safetensors").stat().st_mtime_ns
    except FileNotFoundError:
        return None


def _submit(attempts: Sequence[_Try], root: str, source: Record, config: EngineConfig, folder: Path) -> dict[str, _Task]:
    """Put jobs into Slurm's queue; the tasks by Slurm's number."""
    tasks: dict[str, _Task] = {}
    here, store, search = os.getcwd(), os.path.abspath(root), search_path()
    where = {key: os.environ[key] for key in ("SLURM_CONF",) if key in os.environ}
    for wanted in sorted({gpus(tried.job, config.gpus_per_job) for tried in attempts}):
        group = [tried for tried in attempts if gpus(tried.job, config.gpus_per_job) == wanted]
        executor = submitit.AutoExecutor(folder, cluster="slurm")
        threads = [f"export {variable}={config.threads}" for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")]
        executor.update_parameters(
            name=folder.name,
            cpus_per_task=config.threads,
            timeout_min=config.time,
            mem_gb=config.memory,
            gpus_per_node=int(wanted) or None,
            slurm_partition=config.partition,
            slurm_array_parallelism=config.workers or _ARRAY,
            slurm_setup=[*threads, *config.setup],
            slurm_srun_args=[f"--cpus-per-task={config.threads}"],  # since Slurm 22.05 srun does not take it from sbatch
            slurm_additional_parameters=dict(config.options) or None,
        )
        for start in range(0, len(group), _ARRAY):
            part = group[start : start + _ARRAY]
            columns = [(tried.job, store, source, tried.number, here, search) for tried in part]
            try:
                # A study may be started from inside a Slurm job; but where Slurm is found must stay known.
                with clean_env(), environment_variables(**where):
                    handles = executor.map_array(_work, *map(list, zip(*columns, strict=True)))
            except (FailedJobError, FailedSubmissionError) as error:
                raise UserError(f"engine: Slurm refuses the jobs ({' '.join(str(error).split())})") from error
            tasks |= {handle.job_id: _Task(handle, tried) for handle, tried in zip(handles, part, strict=True)}
    return tasks


def _work(job: Job, root: str, source: Record, attempt: int, folder: str, search: Sequence[str]) -> Outcome:
    """A task of the array, on its node."""
    # submitit's handlers ignore SIGTERM, and raise in the job, as its own exception, before the time is up.
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _leave)
    return attempt_job(job, root, source, attempt + int(os.environ.get("SLURM_RESTART_COUNT", 0)), folder, search)


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)  # past `except Exception`, through the claim's release


def _states(name: str, seconds: float = _ANSWER) -> dict[str, tuple[str, str]] | None:
    """State and reason of this run's tasks by number; those that ended some minutes ago are left out. None: no answer."""
    answer = _call(
        "squeue", "--me", "--name", name, "--states=all", "--array", "--noheader", "--format=%i|%T|%r", seconds=seconds
    )
    if answer is None:
        return None
    rows = [line.split("|", 2) for line in answer.splitlines()]
    return {number: (state, reason) for number, state, reason in rows}


def _cancel(name: str) -> None:
    """Cancel all that this run has submitted, and give running tasks a moment to let go of their claims."""
    patience = time.monotonic() + _GRACE
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        _scancel(name).wait(_GRACE)
    while time.monotonic() < patience:
        states = _states(name, seconds=1.0)
        if states is None or all(state in _ENDED for state, _ in states.values()):
            return
        time.sleep(0.2)


def _scancel(name: str) -> subprocess.Popen[bytes]:
    """A controller that does not answer may do so later: scancel waits for it in our place, whatever becomes of us."""
    nowhere = subprocess.DEVNULL
    command = ["scancel", "--me", "--name", name]
    return subprocess.Popen(command, stdin=nowhere, stdout=nowhere, stderr=nowhere, start_new_session=True)


def _call(*command: str, seconds: float = _ANSWER) -> str | None:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=seconds).stdout
    except (OSError, subprocess.SubprocessError):
        return None  # the controller may be away for a while; jobs go on without it
