"""The mirror's child process, told of jobs on standard input: `… -m bnstudy.tracking.following -- NAME STORE MODE`."""

from __future__ import annotations

import contextlib
import json
import os
import select
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from bnstudy.errors import UserError
from bnstudy.sweeps.redaction import redacted
from bnstudy.sweeps.store import Store
from bnstudy.tracking.ledger import Ledger
from bnstudy.tracking.mirror import StudyMirror
from bnstudy.tracking.sending import Sent, send_runs
from bnstudy.tracking.writing import NotWrittenError, prepare, write_runs

BETWEEN = 30.0
"""Seconds between two rounds of sending while a study runs."""


def follow(name: str, output_dir: Path, online: bool) -> None:
    """Mirror jobs whose names come on standard input, until it ends. Progress and the first problem go to standard output.

    Args:
        name: the study.
        output_dir: the store's folder.
        online: also send runs, every now and then and at the end.

    Problems are reported, not raised.
    """
    os.nice(10)  # training goes first
    ledger = Ledger(output_dir, name)
    prepare(ledger)
    study: StudyMirror | None = None
    unsent: dict[str, list[str]] = {}
    broken = False
    latest = time.monotonic()
    for job in _jobs_asked_for(1.0 if online else None):
        if job is not None and not broken:
            try:
                # The study's record is there by the time that a job of it ended.
                study = study or StudyMirror(Store(output_dir), name)
                write_runs(ledger, job, study.runs(job), lambda: _report(alive=True))
                unsent[job] = study.run_ids(job)
                _report(written=job)
            except (NotWrittenError, UserError) as error:
                _report(problem=redacted(str(error)))
                broken = True
        if online and unsent and time.monotonic() - latest > BETWEEN:
            online = _send(ledger, unsent)
            latest = time.monotonic()
    if online and unsent:
        _send(ledger, unsent)


def _send(ledger: Ledger, unsent: dict[str, list[str]]) -> bool:
    """Send what is written; False where it is not worth trying again."""
    sent: Sent = send_runs(ledger, unsent, lambda: _report(alive=True))
    if sent.problem is not None:
        _report(problem=redacted(sent.problem))
        return False
    unsent.clear()
    return True


def _report(**what: object) -> None:
    with contextlib.suppress(OSError):  # the study may have ended; its jobs are mirrored all the same
        os.write(1, f"{json.dumps(what)}\n".encode())


def _jobs_asked_for(pause: float | None) -> Iterator[str | None]:
    """Names that come on standard input; None after `pause` seconds without one."""
    rest = b""
    while True:
        if not select.select([sys.stdin], [], [], pause)[0]:
            yield None
            continue
        if not (piece := os.read(sys.stdin.fileno(), 65536)):
            return
        *lines, rest = (rest + piece).split(b"\n")
        yield from (line.decode() for line in lines if line)


if __name__ == "__main__":
    follow(sys.argv[2], Path(sys.argv[3]), online=sys.argv[4] == "online")
