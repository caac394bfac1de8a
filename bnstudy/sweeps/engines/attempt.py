"""One attempt at a job on a machine of a cluster, where the claim of a lost predecessor may still look alive."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

from bnstudy.errors import one_line
from bnstudy.factories import add_search_path
from bnstudy.sweeps.claims import EXPIRY, HEARTBEAT
from bnstudy.sweeps.job import Outcome, run_job
from bnstudy.sweeps.plan import Job
from bnstudy.sweeps.store import Record

ATTEMPTS = 2
"""How often a job is started whose process, node or time was taken from it."""


def attempt_job(job: Job, root: str, source: Record, attempt: int, folder: str, search: Sequence[str] = ()) -> Outcome:
    """Run a job as `run_job` does, in the folder that the command was typed in.

    The claim of a process that died on another host is believed until it expires, so a further attempt waits that long.

    Args:
        job, root, source: see `run_job`; relative paths among them, the data's too, are taken from `folder`.
        attempt: which try this is, from 1.
        folder: absolute; every host must see it.
        search: further folders that modules of the user's own are looked for in, behind `folder` and the host's own.

    Returns:
        The outcome; "lost" with the reason where the machine cannot run it.
    """
    try:
        os.chdir(folder)
        add_search_path(search)
        outcome = run_job(job, root, source, attempt)
        patience = time.monotonic() + EXPIRY + 5 * HEARTBEAT
        while outcome.status == "elsewhere" and attempt > 1 and time.monotonic() < patience:
            time.sleep(HEARTBEAT)
            outcome = run_job(job, root, source, attempt)
    except Exception as error:
        return Outcome(job.id, "lost", one_line(error))
    return outcome


def gpus(job: Job, wanted: float | None) -> float:
    """GPUs that a job asks its cluster for: as told, else one where it computes on one."""
    if wanted is None:
        return 1 if job.config.device == "cuda" else 0
    return wanted
