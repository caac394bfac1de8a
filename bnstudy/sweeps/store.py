"""The store: raw runs on disk, a folder a job, complete or absent.

OUTPUT/jobs/ID/*.parquet, job.json     a job's tables; job.json is written last and says "done" or "failed"
OUTPUT/studies/NAME.json               which cells and jobs a study consists of
OUTPUT/claims/ID.json                  who is working on a job, with a heartbeat
OUTPUT/damaged/                        what was not as it was written, moved out of the way
"""

from __future__ import annotations

import errno
import os
import socket
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from bnstudy.atomic import DamagedError, set_aside, sweep
from bnstudy.errors import UserError
from bnstudy.names import check_name
from bnstudy.sweeps.records import LAYOUT, Record, job_record, read_json, study_record, write_json
from bnstudy.sweeps.tablefiles import read_table, write_table

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["LAYOUT", "Record", "Store", "hostname", "is_done", "read_json", "store_option", "write_json"]


def is_done(record: Record | None) -> bool:
    """Whether a job's record says that its tables are complete, in the form that this code reads."""
    return record is not None and record.get("status") == "done" and record.get("layout") == LAYOUT


def is_damaged(record: Record | None) -> bool:
    """Whether a job's record or one of its tables is not what was written; `message` says which, and how."""
    return record is not None and record.get("status") == "damaged" and record.get("layout") == LAYOUT


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
        """Refuse a folder that cannot be written, before anything is trained; clear away what killed processes began.

        Raises:
            UserError: with the folder and the system's reason.
        """
        folders = (self.jobs, self.studies, self.claims, self.checkpoints)
        try:
            for folder in (self.root, *folders):
                if folder == self.root or os.path.lexists(folder):
                    folder.mkdir(parents=True, exist_ok=True)
                    with tempfile.TemporaryFile(dir=folder):
                        pass
        except OSError as error:
            raise self.not_writable(error) from error
        sweep(*folders[1:])

    def not_writable(self, error: OSError) -> UserError:
        """What to say where the system refuses to write."""
        hint = "free some space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "use a folder you may write to"
        return UserError(f"output_dir: {str(self.root)!r} cannot be written ({error.strerror or error}); {hint}")

    def record(self, job: str, tables: bool = True) -> Record | None:
        """What a finished job says of itself: "status" is "done", "failed" or "damaged"; None while it is missing.

        Args:
            job: its name.
            tables: look at its tables, too, and call it damaged where they are not what was written.

        Raises:
            UserError: a file cannot be read now, which does not make the job missing.
        """
        return job_record(self.jobs / job, tables)

    def job_names(self) -> list[str]:
        """Jobs with a folder, whether finished or not.

        Raises:
            UserError: the folder of jobs cannot be read.
        """
        try:
            return sorted(entry.name for entry in os.scandir(self.jobs) if not entry.name.startswith("."))
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise UserError(f"output_dir: {self.jobs} cannot be read ({error.strerror}); make it readable") from error

    def save(self, job: str, tables: Mapping[str, pd.DataFrame], record: Record) -> None:
        """Write a job's tables, then its record, with what their readers will check: the job exists from then on."""
        folder = self.jobs / job
        sweep(folder)
        files = {f"{name}.parquet": write_table(folder / f"{name}.parquet", table) for name, table in tables.items()}
        write_json(folder / "job.json", {"layout": LAYOUT, "job": job, **record, "files": files})

    def make_room(self, job: str, record: Record | None) -> None:
        """Move a damaged job, or one of another layout, out of the way to OUTPUT/damaged, so that it can be trained again.

        Args:
            job: its name.
            record: what `record` says of it.

        Raises:
            OSError: from the system.
        """
        there = self.jobs / job
        if os.path.isdir(there) and (record is None or (record["layout"] == LAYOUT and not is_damaged(record))):
            return  # it was begun, or has failed: its files are written over
        if os.path.lexists(there):
            set_aside(there, self.root / "damaged")

    def table(self, job: str, name: str, record: Record | None = None) -> pd.DataFrame:
        """One table of a finished job.

        Args:
            job: its name.
            name: "metrics", "folds" or "layers".
            record: the job's, where it is known.

        Raises:
            UserError: missing, damaged, of another job, or it cannot be read now.
        """
        record = record or self.record(job, tables=False) or {}
        path = self.jobs / job / f"{name}.parquet"
        try:
            table = read_table(path, record["files"][path.name] if "files" in record else None)
            if "job" not in table:
                raise DamagedError("lacks the column 'job'")
            if others := set(table["job"]) - {job}:
                raise DamagedError(f"has the rows of {min(map(str, others))[:100]!r}")
            seeds, planned = set(table.get("seed", ())), set(record.get("seeds", ()))
            if planned and (seeds - planned or (name == "metrics" and planned - seeds)):
                raise DamagedError("has other seeds than its job")
        except DamagedError as error:
            raise error.told(path, f"remove the folder {path.parent} and run the study again") from error
        return table

    def save_study(self, name: str, record: Record) -> None:
        """Write down what a study consists of; a folder in the file's place is set aside."""
        path = self.studies / f"{check_name('name', name)}.json"
        if path.is_dir():
            set_aside(path, self.root / "damaged")
        write_json(path, {"layout": LAYOUT, "study": name, **record})

    def study(self, name: str) -> Record | None:
        """What a study consists of, or None.

        Raises:
            UserError: it is damaged or cannot be read now; what cannot be a study's name.
        """
        return study_record(self.studies / f"{check_name('name', name)}.json")


def store_option(root: Path | str) -> tuple[str, ...]:
    """How a command is told where the store is, in words to type; none where it looks there anyway."""
    return () if Path(root) == Path("outputs") else ("--output-dir", str(root))


def hostname() -> str:
    """Name of the machine, for records."""
    return socket.gethostname()
