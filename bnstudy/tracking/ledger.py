"""Which runs of a study are mirrored: a record a job, beside W&B's folders, under a lock.

OUTPUT/wandb/NAME/wandb/offline-run-…-ID     W&B's own folder of a run
OUTPUT/wandb/NAME/jobs/JOB.json              run → content hash, folder, servers that have it
OUTPUT/wandb/NAME/lock, sending              held while runs are written, or sent

$WANDB_DIR takes the place of OUTPUT/wandb.
"""

from __future__ import annotations

import contextlib
import fcntl
import re
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from bnstudy.atomic import DamagedError
from bnstudy.names import check_name
from bnstudy.sweeps.records import check_kinds, read_json, write_json
from bnstudy.tracking.environment import mirror_folder

RunEntry = dict[str, Any]
_FOLDER = re.compile(r"(offline-)?run-[\w.-]+")


class Ledger:
    """The record of which runs of a study are mirrored, and where they were sent.

    Args:
        root: the store's folder.
        study: the study's name.
    """

    def __init__(self, root: Path | str, study: str) -> None:
        self.folder = mirror_folder(root) / check_name("name", study)

    @contextlib.contextmanager
    def lock(self, what: str = "lock", seconds: float = 20.0) -> Iterator[None]:
        """Keep other processes from mirroring the same study; the system releases the lock when this process dies.

        Args:
            what: "lock" for writing runs, "sending" for sending them.
            seconds: how long to wait for it.

        Raises:
            TimeoutError: another process held it for that long.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / what, "a") as file:
            deadline = time.monotonic() + seconds
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise TimeoutError("another process is mirroring the study") from None
                    time.sleep(0.1)
            yield

    def entries(self, job: str) -> dict[str, RunEntry]:
        """Runs of a job that were written completely, by id."""
        try:
            record = read_json(self._path(job)) or {}
            runs = record.get("runs")
            for entry in runs.values() if isinstance(runs, dict) else ():
                check_kinds(entry, {"digest": str, "folder": str, "servers": list})
                if not _FOLDER.fullmatch(entry["folder"]):
                    raise DamagedError("names a folder that W&B does not make")
        except DamagedError:
            return {}  # what cannot be read counts as not written: it is written again
        return dict(runs) if isinstance(runs, dict) else {}

    def jobs(self) -> list[str]:
        """Jobs of which something was written."""
        return sorted(path.stem for path in (self.folder / "jobs").glob("*.json"))

    def save(self, job: str, entries: dict[str, RunEntry]) -> None:
        """Record the runs of a job, once they are complete."""
        write_json(self._path(job), {"job": job, "runs": entries})

    def has(self, job: str, count: int, server: str | None = None) -> bool:
        """Whether that many runs of a job were written, and sent to `server` where given; contents are not compared.

        Servers here are destinations as `sending.destination` names them.
        """
        entries = self.entries(job)
        there = [run for run, entry in entries.items() if entry["servers"] or self.run_file(run, entry) is not None]
        return sum(server is None or server in entries[run]["servers"] for run in there) >= count

    def sent(self, job: str, runs: Mapping[str, RunEntry], server: str) -> None:
        """Record that a server has these runs, except those that were written again in the meantime."""
        with self.lock():
            entries = self.entries(job)
            for run, entry in runs.items():
                latest = entries.get(run)
                if latest is not None and latest["folder"] == entry["folder"] and server not in latest["servers"]:
                    latest["servers"].append(server)
            self.save(job, entries)

    def run_file(self, run: str, entry: RunEntry) -> Path | None:
        """W&B's log of a written run, unless it was cleaned away, or is not as long as it was when it was written."""
        file = self.folder / "wandb" / entry["folder"] / f"run-{run}.wandb"
        try:
            size = file.stat().st_size
        except OSError:
            return None
        return file if size and size == entry.get("bytes", size) else None

    def remove(self, runs: Iterable[str]) -> None:
        """Remove every folder of some runs: unfinished ones of a killed process, and those with old content."""
        wanted = set(runs)
        for path in (self.folder / "wandb").glob("*run-*"):
            parts = path.name.removeprefix("offline-").split("-", 2)  # run, time, id
            if len(parts) == 3 and parts[2] in wanted:
                shutil.rmtree(path, ignore_errors=True)

    def _path(self, job: str) -> Path:
        return self.folder / "jobs" / f"{job}.json"
