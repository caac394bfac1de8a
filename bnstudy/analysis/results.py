"""results/NAME: the tables of a study on disk, and how its numbers came about."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from bnstudy.analysis.provenance import provenance_of
from bnstudy.analysis.schemas import OPTIONAL, TABLES, checked
from bnstudy.analysis.tables import study_tables
from bnstudy.atomic import atomic_file
from bnstudy.errors import UserError
from bnstudy.names import check_name, suggested
from bnstudy.sweeps.store import Record, Store, read_json, write_json


def write_results(folder: Path, tables: Mapping[str, pd.DataFrame], provenance: Record) -> list[Path]:
    """Write a study's tables: Parquet for every one, CSV of the small ones, provenance.

    Args:
        folder: results/NAME.
        tables: from `study_tables`.
        provenance: from `provenance_of`.

    Returns:
        The files, each complete.

    Raises:
        UserError: the folder cannot be written.
    """
    written = []
    try:
        for name, table in tables.items():
            with atomic_file(folder / f"{name}.parquet") as file:
                table.to_parquet(file, index=False)
            written.append(folder / f"{name}.parquet")
        for left in (
            *(f"{name}.parquet" for name in set(TABLES) - set(tables)),
            "summary.md",
        ):  # by an older study, or version
            (folder / left).unlink(missing_ok=True)
        for name in ("summary", "gaps"):
            with atomic_file(folder / f"{name}.csv") as file:
                file.write(tables[name].to_csv(index=False).encode())
            written.append(folder / f"{name}.csv")
        write_json(folder / "provenance.json", provenance)
        written.append(folder / "provenance.json")
    except OSError as error:
        raise UserError(f"results_dir: {str(folder)!r} cannot be written ({error.strerror}); use another folder") from error
    return written


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
    if not (folder / "provenance.json").is_file():
        if Store(output_dir).study(name) is None:
            raise UserError(f"{name}: no study of that name in {str(results_dir)!r} or {str(output_dir)!r}")
        return study_tables(Store(output_dir), name)
    tables = {}
    for table in TABLES:
        path = folder / f"{table}.parquet"
        if table in OPTIONAL and not path.exists():
            continue
        try:
            tables[table] = checked(table, pd.read_parquet(path), str(path))
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: missing or damaged; build it again with {suggested('report', name)}") from error
    return tables


def reported(name: str, results_dir: Path | str, output_dir: Path | str) -> tuple[dict[str, pd.DataFrame], Record]:
    """Tables and provenance of a study for its report: from its raw runs where they are, else from results/NAME alone.

    Raises:
        UserError: neither is there, none of its jobs is done, or a file is damaged.

    Source: docs/architecture.md, "The store".
    """
    store = Store(output_dir)
    if store.study(name) is not None:
        return study_tables(store, name), provenance_of(store, name)
    tables = load(name, results_dir, output_dir)
    path = Path(results_dir) / name / "provenance.json"
    provenance = read_json(path)
    if provenance is None or not all(provenance.get(key) for key in ("sources", "versions", "machines", "command")):
        raise UserError(f"{path}: damaged; run the study again, or take the file from where these results came from")
    return tables, provenance
