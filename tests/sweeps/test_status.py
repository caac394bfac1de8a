"""A study's status, and runs that share a study: both see what a plan would see."""

from __future__ import annotations

import json
from collections.abc import Generator, Sequence
from pathlib import Path

import pytest

from bnstudy.sweeps.config import EngineConfig
from bnstudy.sweeps.job import Outcome
from bnstudy.sweeps.plan import Job
from bnstudy.sweeps.sharing import run_shared
from bnstudy.sweeps.status import study_status
from bnstudy.sweeps.store import LAYOUT, Record, Store, write_json
from tests.records import SOURCE, save_done
from tests.sweeps.test_job import job_of


def test_a_job_of_another_layout_is_missing_and_not_done(tmp_path: Path) -> None:
    store = Store(tmp_path)
    names = ["a-s0-1", "a-s2-3", "a-s4-5", "a-s6-7"]
    store.save_study("study", {"cells": [{"training": "a", "jobs": names, "fields": {}}]})
    save_done(store, names[0], [0, 1])
    store.save(names[1], {}, {"status": "failed", "message": "ValueError: x"})
    for name, status in zip(names[2:], ("done", "failed"), strict=True):
        write_json(store.jobs / name / "job.json", {"layout": LAYOUT + 1, "status": status})
    found = study_status(store, "study")
    assert (found.done, found.failed, found.missing) == ([names[0]], {names[1]: "ValueError: x"}, names[2:])


@pytest.mark.parametrize(
    ("record", "rounds"),
    [
        ({"status": "done"}, 1),
        ({"status": "failed", "started": 2.0, "seconds": 1.0, "message": "new"}, 1),
        ({"status": "failed", "started": 1.0, "seconds": 1.0, "message": "old"}, 2),
        ({"status": "done", "layout": LAYOUT + 1}, 2),
        (None, 2),
    ],
)
def test_what_another_run_leaves_counts_only_if_it_is_new_and_of_this_layout(
    tmp_path: Path, record: Record | None, rounds: int
) -> None:
    store, asked = Store(tmp_path), []
    plain = job_of()
    job = Job(plain.id, plain.training, plain.config, plain.seeds, plain.steps, failed=1.0)
    if record is not None:
        save_done(store, job.id, job.seeds)
        write_json(store.jobs / job.id / "job.json", (store.record(job.id) or {}) | record)

    def engine(jobs: Sequence[Job], root: str, source: Record, config: EngineConfig) -> Generator[Outcome, None, None]:
        """Somebody else has the job when it is asked for first."""
        asked.append([one.id for one in jobs])
        yield Outcome(job.id, "elsewhere" if len(asked) == 1 else "done")

    (outcome,) = run_shared(engine, [job], store, SOURCE, EngineConfig())
    assert asked == [[job.id]] * rounds
    told = "done" if rounds == 2 or record is None else record["status"]
    assert (outcome.job, outcome.status) == (job.id, told)
    assert json.dumps(outcome.message) != json.dumps("old")
