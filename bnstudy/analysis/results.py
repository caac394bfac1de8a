"""results/NAME: the tables of a study on disk, and how its numbers came about."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from bnstudy.analysis.manifest import remove_written, written_by
from bnstudy.analysis.provenance import provenance_of
from bnstudy.analysis.schemas import OPTIONAL, TABLES, checked
from bnstudy.analysis.tables import study_tables
from bnstudy.atomic import DamagedError, atomic_file, read_file, sweep
from bnstudy.errors import UserError
from bnstudy.names import check_name, suggested
from bnstudy.sweeps.records import Kinds, check_kinds
from bnstudy.sweeps.store import Record, Store, read_json, write_json
from bnstudy.sweeps.tablefiles import read_table, write_table

_ORIGIN: Kinds = {
    **{"command": str, "sources": list, "versions": list, "machines": list, "seeds": list, "runs": int, "trainings": int},
    **{"cpu_seconds": (int, float), "cells": list, "missing": list, "failed": dict, "diverged": dict},
}
"""What a report reads of provenance."""


def write_results(folder: Path, tables: Mapping[str, pd.DataFrame], provenance: Record) -> list[Path]:
    """Write a study's tables: Parquet for every one, CSV of the small ones, provenance with each table's size and digest.

    Args:
        folder: results/NAME.
        tables: from `study_tables`.
        provenance: from `provenance_of`.

    Returns:
        The files, each complete.

    Raises:
        UserError: the folder cannot be written, or holds something else than a study of that name.
    """
    require_own(folder)
    sweep(folder)
    before = written_by(folder / "provenance.json")
    try:
        files = {f"{name}.parquet": write_table(folder / f"{name}.parquet", table) for name, table in tables.items()}
        for name in ("summary", "gaps"):
            with atomic_file(folder / f"{name}.csv") as file:
                file.write(tables[name].to_csv(index=False).encode())
        write_json(folder / "provenance.json", provenance | {"files": files})
        remove_written(folder, {name: digest for name, digest in before.items() if name not in files})
        _remove_old_page(folder / "summary.md")
    except OSError as error:
        raise UserError(f"results_dir: {str(folder)!r} cannot be written ({error.strerror}); use another folder") from error
    return [folder / name for name in (*files, "summary.csv", "gaps.csv", "provenance.json")]


def _remove_old_page(path: Path) -> None:
    """Remove the page that versions without a manifest wrote, if it is that one."""
    with contextlib.suppress(DamagedError, UserError):
        text = (read_file(path) or b"").decode(errors="replace")
        if text.startswith(f"# {path.parent.name}\n") and "\n## How it was run\n" in text:
            path.unlink()


def require_own(folder: Path) -> None:
    """Refuse a folder of results that something else than a study of its name has written.

    Raises:
        UserError: one line.
    """
    try:
        there = read_json(folder / "provenance.json")
    except DamagedError:
        return
    if there is not None and there.get("study") != folder.name:
        raise UserError(f"name: {folder.name!r} is taken; {folder} holds other results, so use another name")


def load(name: str, results_dir: Path | str = "results", output_dir: Path | str = "outputs") -> dict[str, pd.DataFrame]:
    """The tables of a study as DataFrames, from results/NAME if it is there, else from the raw runs.

    Args:
        name: the study.
        results_dir: where results are.
        output_dir: where raw runs are.

    Returns:
        A DataFrame a table; results/README.md says what the columns mean.

    Raises:
        UserError: neither is there, or a file is damaged.

    Source: docs/architecture.md, "The store".
    """
    folder = Path(results_dir) / check_name("name", name)
    provenance = _provenance(folder)
    if provenance is None:
        if Store(output_dir).study(name) is None:
            raise UserError(f"{name}: no study of that name in {str(results_dir)!r} or {str(output_dir)!r}")
        return study_tables(Store(output_dir), name)
    return _tables(folder, provenance)


def reported(name: str, results_dir: Path | str, output_dir: Path | str) -> tuple[dict[str, pd.DataFrame], Record]:
    """Tables and provenance of a study for its report: from its raw runs where they are, else from results/NAME alone.

    Raises:
        UserError: neither is there, none of its jobs is done, or a file is damaged.

    Source: docs/architecture.md, "The store".
    """
    store = Store(output_dir)
    if store.study(name) is not None:
        return study_tables(store, name), provenance_of(store, name)
    folder = Path(results_dir) / name
    provenance = _provenance(folder)
    if provenance is None:
        raise UserError(f"{name}: no study of that name in {str(results_dir)!r} or {str(output_dir)!r}")
    try:
        check_kinds(provenance, _ORIGIN)
        if not all(provenance[key] for key in ("sources", "versions", "machines", "command")):
            raise DamagedError("does not say where its numbers come from")
    except DamagedError as error:
        raise _damaged(folder / "provenance.json", error) from error
    return _tables(folder, provenance), provenance


def _provenance(folder: Path) -> Record | None:
    """How the results came about that a folder holds; None where there are none."""
    path = folder / "provenance.json"
    try:
        provenance = read_json(path) if folder.is_dir() else None
        if provenance is not None:
            check_kinds(provenance, {"study": str, "cells": list})
            if provenance["study"] != folder.name:
                raise DamagedError(f"is of {provenance['study'][:100]!r}")
            for cell in provenance["cells"]:
                check_kinds(cell, {"jobs": list})
            if "files" in provenance:
                check_kinds(provenance, {"files": dict})
                for facts in provenance["files"].values():
                    check_kinds(facts, {"bytes": int, "rows": int, "sha256": str})
    except DamagedError as error:
        raise _damaged(path, error) from error
    return provenance


def _tables(folder: Path, provenance: Record) -> dict[str, pd.DataFrame]:
    files = provenance.get("files")
    planned = {job for cell in provenance["cells"] for job in cell["jobs"]}
    done = planned - {*provenance.get("missing", ()), *provenance.get("failed", ())}
    tables = {}
    for name in TABLES:
        path = folder / f"{name}.parquet"
        if name in OPTIONAL and not (path.exists() if files is None else path.name in files):
            continue
        try:
            facts = None if files is None else files.get(path.name)
            if files is not None and facts is None:
                raise DamagedError("is not among the files of its provenance.json")
            table = checked(name, read_table(path, facts), str(path))
            if "job" in table and (set(table["job"]) - done or (name == "jobs" and done - set(table["job"]))):
                raise DamagedError("has other jobs than its provenance.json")
        except DamagedError as error:
            raise _damaged(path, error) from error
        tables[name] = table
    return tables


def _damaged(path: Path, error: DamagedError) -> UserError:
    again = f"build it again with {suggested('report', path.parent.name)} where its raw runs are"
    return error.told(path, f"{again}, or take the file from where it came from")
