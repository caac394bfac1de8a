"""Offline runs to a W&B server, with bounds on every wait and a check of every run."""

from __future__ import annotations

import configparser
import contextlib
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from bnstudy.sweeps.redaction import redacted
from bnstudy.tracking.ledger import Ledger, RunEntry
from bnstudy.tracking.record import PROJECT

PROBE = 3.0
"""Seconds that a server may take to accept a connection."""
SILENCE = 15.0
"""Seconds without new output after which `wandb sync` is stopped."""
RUNS_A_SYNC = 32
"""Runs that one call of `wandb sync` sends."""
_CLOUD = "https://api.wandb.ai"


@dataclass(frozen=True)
class Sent:
    """What became of sending.

    Args:
        count: runs that the server has now and had not before.
        problem: why others were not sent, in one line; None if all were.
    """

    count: int
    problem: str | None


class _Unsent(NamedTuple):
    job: str
    id: str
    entry: RunEntry
    file: Path


def server() -> str:
    """The W&B server: $WANDB_BASE_URL, else the one of `wandb login --host`, else W&B's own."""
    if url := os.environ.get("WANDB_BASE_URL"):
        return url.rstrip("/")
    folder = os.environ.get("WANDB_CONFIG_DIR") or str(Path.home() / ".config" / "wandb")
    settings = configparser.ConfigParser(interpolation=None)
    with contextlib.suppress(OSError, configparser.Error):
        settings.read(Path(folder) / "settings")
    return settings.get("default", "base_url", fallback=_CLOUD).rstrip("/")


def destination() -> str:
    """Where runs go, as the ledger notes it: the server, with entity and project where the environment sets them."""
    entity, project = os.environ.get("WANDB_ENTITY", ""), os.environ.get("WANDB_PROJECT") or PROJECT
    place = redacted(server())
    return place if (entity, project) == ("", PROJECT) else f"{place}/{entity}/{project}"


def send_runs(ledger: Ledger, jobs: Mapping[str, Sequence[str]], heard: Callable[[], None] = lambda: None) -> Sent:
    """Send written runs that the server does not have, some at a time.

    `wandb sync` retries for ever, exits with 0 after errors and does not say which runs arrived. So it is stopped after
    `SILENCE`, and a run counts as sent only when W&B has written the marker beside its log.

    Args:
        ledger: the study's.
        jobs: for each job the ids of its runs.
        heard: called at every sign of life.

    Returns:
        How many were sent, and what went wrong; nothing is raised.

    Source: docs/architecture.md, "Faults and secrets".
    """
    url, place = server(), destination()
    waiting = _unsent(ledger, jobs, place)
    if not waiting:
        return Sent(0, None)
    if (problem := _probe(url)) is not None:
        return Sent(0, problem)
    count = 0
    try:
        with ledger.lock("sending", seconds=1.0):
            waiting = _unsent(ledger, jobs, place)
            for start in range(0, len(waiting), RUNS_A_SYNC):
                batch = waiting[start : start + RUNS_A_SYNC]
                for run in batch:
                    _marker(run.file).unlink(missing_ok=True)  # of another server
                reason = _sync([run.file for run in batch], ledger.folder, url, heard)
                arrived = [run for run in batch if _marker(run.file).exists()]
                count += len(arrived)
                for job in {run.job for run in arrived}:
                    ledger.sent(job, {run.id: run.entry for run in arrived if run.job == job}, place)
                if len(arrived) < len(batch):
                    missed = f"{len(waiting) - count} of {len(waiting)} runs were not sent"
                    return Sent(count, f"{missed} to {redacted(url)} ({reason})")
    except OSError as error:  # TimeoutError is one
        return Sent(count, f"runs were not sent ({error.strerror or error})")
    return Sent(count, None)


def _unsent(ledger: Ledger, jobs: Mapping[str, Sequence[str]], place: str) -> list[_Unsent]:
    unsent = []
    for job, runs in jobs.items():
        for run, entry in ledger.entries(job).items():
            if run in runs and place not in entry["servers"] and (file := ledger.run_file(run, entry)) is not None:
                unsent.append(_Unsent(job, run, entry, file))
    return unsent


def _marker(file: Path) -> Path:
    return file.with_name(f"{file.name}.synced")


def _probe(url: str) -> str | None:
    """Why a server cannot be reached; None if it accepts a connection or is reached through a proxy."""
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return f"{redacted(url)!r} is no address of a server"
    if parts.scheme in urllib.request.getproxies() and not urllib.request.proxy_bypass(parts.hostname):
        return None
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
        with socket.create_connection((parts.hostname, port), timeout=PROBE):
            return None
    except (OSError, ValueError) as error:
        return f"{redacted(url)} cannot be reached ({getattr(error, 'strerror', None) or error})"


def _sync(files: Sequence[Path], folder: Path, url: str, heard: Callable[[], None]) -> str:
    """Run `wandb sync` until it ends or falls silent; the last thing it said that sounds like a reason."""
    command = [sys.executable, "-m", "wandb", "sync", "-n", "8", "--include-synced"]
    for option, name in (("--entity", "WANDB_ENTITY"), ("--project", "WANDB_PROJECT")):
        if value := os.environ.get(name):
            command += [option, value]
    # Settings of a run in progress, such as an agent's, are not for these.
    kept = ("WANDB_API_KEY", "WANDB_CONFIG_DIR", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_CREDENTIALS_FILE")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_") or name in kept}
    local = {f"WANDB_{kind}_DIR": str((folder / "local" / kind.lower()).absolute()) for kind in ("CACHE", "DATA")}
    process = subprocess.Popen(
        [*command, "--", *(str(file.absolute()) for file in files)],
        cwd=folder,
        env=environment | local | {"WANDB_BASE_URL": url, "WANDB_ERROR_REPORTING": "false"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        reason, ended = _listen(process, files, heard)
        return reason if ended else f"no answer for {SILENCE:.0f} s"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # its service too
        process.wait()


def _listen(process: subprocess.Popen[bytes], files: Sequence[Path], heard: Callable[[], None]) -> tuple[str, bool]:
    """Read a process's output until it ends (True) or has nothing new for too long (False); with the latest error."""
    assert process.stdout is not None
    seen: set[str] = set()
    reason, rest, arrived = "it did not take them; is the key one of its own?", b"", 0
    latest = time.monotonic()
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while time.monotonic() - latest < SILENCE:
            if selector.select(0.5):
                if not (piece := os.read(process.stdout.fileno(), 65536)):
                    return reason, True
                *lines, rest = (rest + piece).split(b"\n")
                for line in (_plain(raw) for raw in lines):
                    if line not in seen:  # an error repeated at every retry is no progress
                        seen.add(line)
                        latest = time.monotonic()
                    if "error" in line.lower() and "logs at" not in line and "no message" not in line:
                        reason = line.removeprefix("Error: ").rstrip(".")
            if (now := sum(_marker(file).exists() for file in files)) > arrived:
                arrived, latest = now, time.monotonic()
            heard()
    return reason, False


def _plain(raw: bytes) -> str:
    """A line for people: without colours, prefix and, in any case, the key."""
    return redacted(raw.decode(errors="replace").strip().removeprefix("wandb: "))
