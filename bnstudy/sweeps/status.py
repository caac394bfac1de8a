"""What has become of a study, running or dead: from the store and the claims on it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bnstudy.errors import UserError
from bnstudy.printing import say
from bnstudy.sweeps.claims import living
from bnstudy.sweeps.redaction import redacted
from bnstudy.sweeps.store import LAYOUT, Record, Store, is_damaged, is_done


@dataclass(frozen=True)
class Status:
    """A study as it stands.

    Args:
        cells: number of cells.
        done, missing: jobs by name; a missing job may be running.
        failed: reason by job.
        damaged: what is not as it was written, by job.
        again: the command that trains again what is damaged.
        running: living claims by job: host, process, step, steps, since.
        diverged: for each job the seeds that diverged and at which step.
    """

    cells: int
    done: list[str]
    missing: list[str]
    failed: dict[str, str]
    running: dict[str, Record]
    diverged: dict[str, dict[str, int]]
    damaged: dict[str, str] = field(default_factory=dict)
    again: str = ""


def print_status(name: str, output_dir: Path) -> int:
    """Print what has become of a study; 1 if some job is failed, missing or damaged."""
    found = study_status(Store(output_dir), name)
    for line in status_lines(found):
        say(line)
    return 0 if not (found.failed or found.missing or found.damaged) else 1


def study_status(store: Store, name: str) -> Status:
    """Look up every job of a study.

    Raises:
        UserError: no such study.

    Source: docs/architecture.md, "The store".
    """
    study = store.study(name)
    if study is None:
        raise UserError(f"{name}: no study of that name in {str(store.root)!r}; run it with `bnstudy run`")
    names = list(dict.fromkeys(job for cell in study["cells"] for job in cell["jobs"]))
    records = {job: record for job in names if (record := store.record(job)) is not None}
    # As a run would see it: what another layout of the store wrote is trained again.
    records = {job: record for job, record in records.items() if record.get("layout") == LAYOUT}
    done = [job for job, record in records.items() if is_done(record)]
    failed = {job: str(record.get("message", "")) for job, record in records.items() if record.get("status") == "failed"}
    damaged = {job: str(record["message"]) for job, record in records.items() if is_damaged(record)}
    ended, claims = {*done, *failed, *damaged}, living(store.claims)
    return Status(
        cells=len(study["cells"]),
        done=done,
        missing=[job for job in names if job not in ended],
        failed=failed,
        running={job: claims[job] for job in names if job in claims},
        diverged={job: records[job]["diverged"] for job in done if records[job].get("diverged")},
        damaged=damaged,
        again=training_command(study),
    )


def status_lines(status: Status) -> list[str]:
    """A status for reading, a fact a line."""
    jobs = len(status.done) + len(status.missing) + len(status.failed) + len(status.damaged)
    waiting = len([job for job in status.missing if job not in status.running])
    lines = [
        f"{status.cells} cells, {jobs} jobs: {len(status.done)} done, {len(status.running)} running, {waiting} missing, "
        f"{len(status.failed)} failed" + (f", {len(status.damaged)} damaged" if status.damaged else "")
    ]
    for job, claim in status.running.items():
        lines.append(f"running: {job} on {claim['host']}, process {claim['pid']}, {_progress(claim)}")
    lines += [f"failed: {job}: {redacted(message)}" for job, message in status.failed.items()]
    lines += [damage_line(job, reason, status.again) for job, reason in status.damaged.items()]
    for job, seeds in status.diverged.items():
        lines.append(f"diverged: {job}: " + ", ".join(f"seed {seed} at step {step}" for seed, step in seeds.items()))
    return lines


def training_command(study: Record) -> str:
    """The command that trains what is missing of a study, as it was typed."""
    return f"`{study['command']}`" if study.get("command") else "the study's own `bnstudy run`"


def damage_line(job: str, reason: str, again: str) -> str:
    """One line on a damaged job: what is wrong with it, and what trains it again."""
    return f"{job}: damaged: {reason}; {again} trains it again"


def _progress(claim: Record) -> str:
    steps: Any = claim.get("steps", 0)
    elapsed = max(0.0, time.time() - float(claim.get("since", time.time())))
    return f"step {claim.get('step', 0)} of {steps}, {elapsed:.0f} s"
