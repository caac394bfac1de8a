"""The pool of local workers: what a dead worker, an exception outside the job and an early Ctrl-C leave behind."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bnstudy.sweeps.claims import living
from bnstudy.sweeps.config import EngineConfig
from bnstudy.sweeps.engines.local import run_local
from bnstudy.sweeps.store import Store
from tests.records import SOURCE
from tests.sweeps.test_job import job_of


def until(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 60
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return found


@pytest.mark.slow
def test_the_death_of_idle_workers_costs_no_job(tmp_path: Path) -> None:
    quick, long = job_of(seeds=(0,)), job_of(seeds=(1,), epochs=600)
    claims = Store(tmp_path).claims
    outcomes = run_local([quick, long], str(tmp_path), SOURCE, EngineConfig(workers=2))
    assert next(outcomes).job == quick.id
    # While nobody looks, the running worker dies, and then those that wait for work.
    os.kill(until(lambda: living(claims).get(long.id))["pid"], signal.SIGKILL)
    until(lambda: not living(claims))
    for _ in range(2):
        time.sleep(0.5)
        for worker in multiprocessing.active_children():
            worker.kill()
    assert [(outcome.job, outcome.status) for outcome in outcomes] == [(long.id, "done")]
    assert Store(tmp_path).record(long.id)["attempt"] == 2  # type: ignore[index]


def test_an_exception_outside_the_jobs_own_is_a_lost_job_and_the_others_go_on(tmp_path: Path) -> None:
    good, bad = job_of(seeds=(0,)), job_of(seeds=(1,), engine__options={"a set": {"is no JSON"}})
    outcomes = {outcome.job: outcome for outcome in run_local([bad, good], str(tmp_path), SOURCE, EngineConfig(workers=1))}
    assert outcomes[good.id].status == "done"
    assert outcomes[bad.id].status == "lost"
    assert outcomes[bad.id].message.startswith("TypeError: Object of type set")
    assert living(Store(tmp_path).claims) == {}


def test_interrupts_stay_held_back_while_the_pool_starts() -> None:
    program = (
        "import signal\n"
        "from multiprocessing import resource_tracker\n"
        "from bnstudy.sweeps.engines.local import _interrupts_held_back\n"
        "with _interrupts_held_back():\n"
        "    resource_tracker.ensure_running()\n"  # as the pool does with its first lock
        "    print(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, []))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "True", done.stderr
