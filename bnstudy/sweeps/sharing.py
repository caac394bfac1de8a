"""Several runs of one study at a time: each job is trained by one of them, and the others wait for it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Generator, Sequence

from bnstudy.sweeps.claims import living
from bnstudy.sweeps.config import EngineConfig
from bnstudy.sweeps.engines import Engine
from bnstudy.sweeps.job import Outcome, recorded
from bnstudy.sweeps.plan import Job, is_settled
from bnstudy.sweeps.store import Record, Store


def run_shared(
    run: Engine, todo: Sequence[Job], store: Store, source: Record, config: EngineConfig
) -> Generator[Outcome, None, None]:
    """Run jobs and wait for those that somebody else holds; should he die, they are taken over."""
    while todo:
        elsewhere: list[Job] = []
        with contextlib.closing(run(todo, str(store.root), source, config)) as runner:
            for outcome in runner:
                if outcome.status == "elsewhere":
                    elsewhere += [job for job in todo if job.id == outcome.job]
                else:
                    yield outcome
        todo = []
        while elsewhere and not todo:
            time.sleep(0.5)
            alive = living(store.claims)
            # Claims before records: a holder writes his record first and lets go of the job then.
            for job in [job for job in elsewhere if job.id not in alive]:
                record = store.record(job.id)
                if record is not None and is_settled(job, record):
                    yield recorded(job, record)
                else:
                    todo.append(job)
                elsewhere.remove(job)
        todo += elsewhere  # they are asked for again with the orphans, and waited for again
