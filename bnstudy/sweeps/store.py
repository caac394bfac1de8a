"""The store: raw runs on disk, a folder a job, complete or absent.

OUTPUT/jobs/ID/*.parquet, job.json     a job's tables; job.json is written last and says "done" or "failed"
OUTPUT/studies/NAME.json               which cells and jobs a study consists of
OUTPUT/claims/ID.json                  who is working on a job, with a heartbeat
"""

from __future__ import annotations

import json
import os
import socket
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from bnstudy.atomic import atomic_file
from bnstudy.errors import UserError
from bnstudy.names import check_name

Record = dict[str, Any]
LAYOUT = 1
"""Raised when files of the store change their form; a job of another layout is named, never misread."""


def write_json(path: Path, record: Mapping[str, Any]) -> None:
    """Write a record atomically."""
    with atomic_file(path) as file:
        file.write((json.dumps(record, indent=1, ensure_ascii=False) + "\n").encode())


def read_json(path: Path) -> Record | None:
    """A record, or None where there is none or it cannot be read."""
    try:
        record = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None


def is_done(record: Record | None) -> bool:
    """Whether a job's record says that its tables are complete, in the form that this code reads."""
    return record is not None and record.get("status") == "done" and record.get("layout") == LAYOUT


class Store:
    """Raw runs under one folder; several processes and hosts may share it.

    Args:
        root: the folder, `output_dir` of the configuration; made when something is first written.
    """

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)
        self.jobs = self.root / "jobs"
        self.studies = self.root / "studies"
        self.claims = self.root / "claims"
        self.checkpoints = self.root / "checkpoints"

    def require_writable(self) -> None:
        """Refuse a folder that cannot be written, before anything is trained.

        Raises:
            UserError: with the folder and the system's reason.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.root):
                pass
        except OSError as error:
            reason = error.strerror or str(error)
            raise UserError(
                f"output_dir: {str(self.root)!r} cannot be written ({reason}); use a folder you may write to"
            ) from error

    def record(self, job: str) -> Record | None:
        """What a finished job says of itself: "status" is "done" or "failed"; None while it is missing."""
        return read_json(self.jobs / job / "job.json")

    def job_names(self) -> list[str]:
        """Jobs with a folder, whether finished or not."""
        return sorted(entry.name for entry in os.scandir(self.jobs) if entry.is_dir()) if self.jobs.is_dir() else []

    def save(self, job: str, tables: Mapping[str, pd.DataFrame], record: Record) -> None:
        """Write a job's tables, then its record: the job exists from then on."""
        folder = self.jobs / job
        for name, table in tables.items():
            with atomic_file(folder / f"{name}.parquet") as file:
                table.to_parquet(file, index=False)
        write_json(folder / "job.json", {"layout": LAYOUT, "job": job, **record})

    def table(self, job: str, name: str) -> pd.DataFrame:
        """One table of a finished job.

        Raises:
            UserError: missing or damaged.
        """
        path = self.jobs / job / f"{name}.parquet"
        try:
            return pd.read_parquet(path)
        except (OSError, ValueError) as error:
            raise UserError(
                f"output_dir: {path} is missing or damaged; remove the folder {path.parent} and run the study again"
            ) from error

    def save_study(self, name: str, record: Record) -> None:
        """Write down what a study consists of."""
        write_json(self.studies / f"{check_name('name', name)}.json", {"layout": LAYOUT, "study": name, **record})

    def study(self, name: str) -> Record | None:
        """What a study consists of, or None.

        Raises:
            UserError: what cannot be a study's name.
        """
        return read_json(self.studies / f"{check_name('name', name)}.json")


def store_option(root: Path | str) -> tuple[str, ...]:
    """How a command is told where the store is, in words to type; none where it looks there anyway."""
    return () if Path(root) == Path("outputs") else ("--output-dir", str(root))


def hostname() -> str:
    """Name of the machine, for records."""
    return socket.gethostname()
