"""Three Ctrl-C in a row, at random moments of a study: everything ends, nothing is left running, and one line is told."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

STUDY = ("-m", "name=small", "batch_size=2,4,8,16", "variance=paper,karpathy", "seeds=2", "epochs=300", "model.width=8")
LONG = 30.0
"""Seconds after which a study that was interrupted counts as one that goes on: alone it would take minutes."""


def living(mark: str) -> list[str]:
    """Command lines of the processes that have `mark` in their environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            ended = (process / "stat").read_text().rpartition(")")[2].split()[0] in "ZX"
            if not ended and mark.encode() in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")[:100])
        except OSError:
            continue
    return found


@pytest.mark.slow
@pytest.mark.parametrize("draw", range(10))
def test_three_interrupts_end_everything(draw: int, tmp_path: Path) -> None:
    chance = random.Random(draw)
    mark = f"INTERRUPTED={os.getpid()}-{draw}"
    name, _, value = mark.partition("=")
    environment = os.environ | {name: value, "OMP_NUM_THREADS": "1"}
    tracking = f"tracking={'offline' if draw % 2 else 'disabled'}"
    command = [str(Path(sys.executable).parent / "bnstudy"), "run", *STUDY, tracking]
    running = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    if draw % 3:
        while running.poll() is None and not list((tmp_path / "outputs").glob("claims/*.json")):
            time.sleep(0.02)
        time.sleep(chance.uniform(0, 2))
    else:  # while it plans, or measures how long its steps take
        time.sleep(chance.uniform(0.5, 8))
    for _ in range(3):
        try:
            os.killpg(running.pid, signal.SIGINT)
        except ProcessLookupError:
            break
        time.sleep(chance.choice([0, 0.001, 0.01, 0.05, 0.2, 0.5]))
    _, errors = running.communicate(timeout=LONG)
    until = time.monotonic() + LONG
    while living(mark) and time.monotonic() < until:
        time.sleep(0.1)
    assert not living(mark)
    assert running.returncode in (130, -signal.SIGINT), errors
    assert "Traceback" not in errors
