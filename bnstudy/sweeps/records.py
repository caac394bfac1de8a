"""Records on disk as JSON: written atomically, and taken for what they say only where they say all that readers need."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bnstudy.atomic import DamagedError, atomic_file, read_file
from bnstudy.names import is_name
from bnstudy.sweeps.identity import job_id
from bnstudy.sweeps.tablefiles import check_table

Record = dict[str, Any]
LAYOUT = 2
"""Raised when files of the store change their form; a job of another layout is named, never misread."""

WRITES_AGAIN = "the study's own `bnstudy run` writes it again"
"""What helps against a damaged record of a study."""
Kinds = Mapping[str, type | tuple[type, ...]]
"""What a record must have, and of which types."""
_NUMBER, _NONE = (int, float), type(None)
_JOB: Kinds = {"layout": int, "job": str, "status": str}
_DONE: Kinds = {
    **{"training": str, "seeds": list, "steps": int, "seconds": _NUMBER, "threads": int, "diverged": dict, "unstable": list},
    **{"config": dict, "source": dict, "versions": dict, "machine": dict},
}
_PARTS: Mapping[str, Kinds] = {
    "config": {"dataset": dict, "model": dict, "batch_size": int, "drop_last": bool},
    "source": {"bnstudy": str, "commit": (str, _NONE), "dirty": (bool, _NONE)},
    "machine": {"processor": str, "cores": (int, _NONE), "system": str},
}
_FILE: Kinds = {"bytes": int, "rows": int, "sha256": str}
_CELL: Kinds = {"training": str, "jobs": list, "fields": dict}
_TABLES = frozenset(f"{name}.parquet" for name in ("metrics", "folds", "layers"))


def write_json(path: Path, record: Mapping[str, Any]) -> None:
    """Write a record atomically.

    Raises:
        OSError: from the system.
    """
    text = json.dumps(record, indent=1, ensure_ascii=False) + "\n"
    with atomic_file(path) as file:
        file.write(text.encode(errors="backslashreplace"))  # half of a surrogate pair, from bytes that were no text


def read_json(path: Path) -> Record | None:
    """A record, or None where there is none.

    Raises:
        DamagedError: what is there is no record.
        UserError: it cannot be read now, which does not make it missing.
    """
    data = read_file(path)
    if data is None:
        return None
    try:
        record = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DamagedError("is no JSON") from error
    if not isinstance(record, dict):
        raise DamagedError("is no record")
    return record


def job_record(folder: Path, tables: bool = True) -> Record | None:
    """What a job's folder says of it: `status` is "done", "failed", or "damaged" with the reason as `message`.

    Args:
        folder: OUTPUT/jobs/ID.
        tables: look at the tables of a done job, too.

    Returns:
        The record; None while the job is missing. One of another layout comes as it is.

    Raises:
        UserError: a file cannot be read now.
    """
    name = "job.json"
    try:
        record = read_json(folder / name)
        if record is None:
            return None
        check_kinds(record, {"layout": int})
        if record["layout"] != LAYOUT:
            return record
        _check_job(folder.name, record)
        if record["status"] == "done" and tables:
            for name, facts in _tables(record).items():
                check_table(folder / name, facts, folder.name)
    except DamagedError as error:
        return {"layout": LAYOUT, "job": folder.name, "status": "damaged", "message": f"{name} {error}"}
    return record


def study_record(path: Path) -> Record | None:
    """What a study's file says, or None where there is none.

    Raises:
        UserError: it is damaged, of another layout, or cannot be read now.
    """
    try:
        record = read_json(path)
        if record is not None:
            check_kinds(record, {"layout": int, "cells": list})
            if record["layout"] != LAYOUT:
                raise DamagedError("is of another version of bnstudy")
            for cell in record["cells"]:
                _check_cell(cell)
    except DamagedError as error:
        raise error.told(path, WRITES_AGAIN) from error
    return record


def check_kinds(record: Any, kinds: Kinds) -> None:
    """Check that a record has what its readers need.

    Raises:
        DamagedError: with the key.
    """
    if not isinstance(record, dict):
        raise DamagedError("has no record where there should be one")
    for key, kind in kinds.items():
        if key not in record:
            raise DamagedError(f"lacks {key!r}")
        if not isinstance(record[key], kind):
            raise DamagedError(f"has no sound {key!r}")


def _check_job(name: str, record: Record) -> None:
    check_kinds(record, _JOB)
    if record["job"] != name:
        raise DamagedError(f"is of {record['job'][:100]!r}")
    if record["status"] == "failed":
        return check_kinds(record, {"message": str})
    if record["status"] != "done":
        raise DamagedError(f"has the status {record['status'][:20]!r}")
    check_kinds(record, _DONE)
    for part, kinds in _PARTS.items():
        check_kinds(record[part], kinds)
    for part in ("dataset", "model"):
        check_kinds(record["config"][part], {"name": str})
    seeds = record["seeds"]
    if not (seeds and all(isinstance(seed, int) for seed in seeds) and job_id(record["training"], seeds) == name):
        raise DamagedError("has other seeds than its name says")
    if not (math.isfinite(record["seconds"]) and all(isinstance(step, int) for step in record["diverged"].values())):
        raise DamagedError("has no numbers where there should be some")
    return None


def _tables(record: Record) -> dict[str, Record | None]:
    """The files that a done job must have, with what is known of each."""
    if "files" not in record:  # older than the digests, and perhaps than the layers' probes
        names = _TABLES if "probe_batches" in record["config"] else _TABLES - {"layers.parquet"}
        return dict.fromkeys(sorted(names))
    files = record["files"]
    check_kinds(record, {"files": dict})
    check_kinds(files, dict.fromkeys(_TABLES, dict))
    for name, facts in files.items():
        check_kinds(facts, _FILE)
        if not is_name(name):
            raise DamagedError("names a table that cannot be one")
    return dict(files)


def _check_cell(cell: Any) -> None:
    check_kinds(cell, _CELL)
    training, jobs = cell["training"], cell["jobs"]
    if not (jobs and is_name(training) and all(is_name(job) and job.startswith(f"{training}-") for job in jobs)):
        raise DamagedError("has a cell whose jobs have no sound names")
