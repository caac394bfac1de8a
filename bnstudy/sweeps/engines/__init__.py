"""Where jobs run: every engine is a function from jobs to outcomes, found by its name in one table."""

from __future__ import annotations

import importlib.util
import pkgutil
import shutil
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias, cast

from bnstudy.errors import UserError

if TYPE_CHECKING:  # the checks of a configuration read the table below, and everything here imports them
    from bnstudy.sweeps.config import EngineConfig
    from bnstudy.sweeps.job import Outcome
    from bnstudy.sweeps.plan import Job
    from bnstudy.sweeps.store import Record

Engine: TypeAlias = "Callable[[Sequence[Job], str, Record, EngineConfig], Generator[Outcome, None, None]]"
"""Runs jobs (jobs, the store's folder, state of the code, settings) and yields each outcome as it comes.

Closing the generator cancels what is queued and running. A lost process or node is not the job's own fault: the job starts
again, then is reported as "lost". The job's own exception is in the store and is not retried.
"""


@dataclass(frozen=True)
class Entry:
    """What is known of an engine before it is imported.

    Args:
        function: an `Engine`, as "package.module:function".
        package: what it needs beside bnstudy's own requirements, the extra of the engine's name; "" for nothing.
        commands: programs that it calls.
        elsewhere: whether jobs run on other machines than this one, whose devices do not count then.
        whole_gpus: whether a job takes whole GPUs only.

    Source: docs/architecture.md, "Engines".
    """

    function: str
    package: str = ""
    commands: tuple[str, ...] = ()
    elsewhere: bool = False
    whole_gpus: bool = False


ENGINES = {
    "local": Entry("bnstudy.sweeps.engines.local:run_local"),
    "slurm": Entry(
        "bnstudy.sweeps.engines.slurm:run_slurm",
        package="submitit",
        commands=("sbatch", "squeue", "scancel"),
        elsewhere=True,
        whole_gpus=True,
    ),
    "ray": Entry("bnstudy.sweeps.engines.ray:run_ray", package="ray", elsewhere=True),
}
"""Every engine by the name that `engine.name` takes."""


def engine(name: str) -> Engine:
    """The engine of a name in `ENGINES`, once what it needs is known to be there.

    Raises:
        UserError: a package or a command of the engine is missing.

    Source: docs/architecture.md, "Engines".
    """
    entry = ENGINES[name]
    if entry.package and importlib.util.find_spec(entry.package) is None:
        raise UserError(f"engine: {name!r} needs the package {entry.package}; install bnstudy[{name}]")
    if absent := [command for command in entry.commands if shutil.which(command) is None]:
        raise UserError(f"engine: {name!r} needs the command {absent[0]}; use a login node of the cluster, or engine=local")
    return cast(Engine, pkgutil.resolve_name(entry.function))
