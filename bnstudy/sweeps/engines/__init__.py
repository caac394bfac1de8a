"""Where jobs run; every engine is a function from jobs to outcomes."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable, Generator, Sequence

from bnstudy.errors import UserError
from bnstudy.sweeps.config import EngineConfig
from bnstudy.sweeps.job import Outcome
from bnstudy.sweeps.plan import Job
from bnstudy.sweeps.store import Record

Engine = Callable[[Sequence[Job], str, Record, EngineConfig], Generator[Outcome, None, None]]
"""Runs jobs (jobs, the store's folder, state of the code, settings) and yields each outcome as it comes.

Closing the generator cancels what is queued and running. A lost process or node is not the job's own fault: the job starts
again, then is reported as "lost". The job's own exception is in the store and is not retried.
"""
_SLURM_COMMANDS = ("sbatch", "squeue", "scancel")


def engine(name: str) -> Engine:
    """The engine of a name, once what it needs is known to be there.

    Args:
        name: "local", "slurm" or "ray".

    Raises:
        UserError: a package or a command of the engine is missing.

    Source: bnstudy issue 3, part 2.
    """
    if name == "slurm":
        _require(name, "submitit")
        if absent := [command for command in _SLURM_COMMANDS if shutil.which(command) is None]:
            raise UserError(
                f"engine: 'slurm' needs the command {absent[0]}; use a login node of the cluster, or engine=local"
            )
        from bnstudy.sweeps.engines.slurm import run_slurm

        return run_slurm
    if name == "ray":
        _require(name, "ray")
        from bnstudy.sweeps.engines.ray import run_ray

        return run_ray
    from bnstudy.sweeps.engines.local import run_local

    return run_local


def _require(name: str, package: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise UserError(f"engine: {name!r} needs the package {package}; install bnstudy[{name}]")
