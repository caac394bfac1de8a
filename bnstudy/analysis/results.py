"""results/NAME: the tables of a study on disk, and how its numbers came about."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from bnstudy.analysis.schemas import OPTIONAL, TABLES, checked
from bnstudy.analysis.summary import printed_tables
from bnstudy.analysis.tables import recorded_study, study_tables
from bnstudy.analysis.verdicts import declared_family
from bnstudy.atomic import atomic_file
from bnstudy.errors import UserError
from bnstudy.names import check_name, suggested
from bnstudy.sweeps.store import LAYOUT, Record, Store, is_done, read_json, write_json


def write_results(folder: Path, tables: Mapping[str, pd.DataFrame], provenance: Record) -> list[Path]:
    """Write a study's tables: Parquet for every one, CSV of the small ones, a Markdown page, provenance.

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
        for name in set(TABLES) - set(tables):  # of an older study of that name
            (folder / f"{name}.parquet").unlink(missing_ok=True)
        for name in ("summary", "gaps"):
            with atomic_file(folder / f"{name}.csv") as file:
                file.write(tables[name].to_csv(index=False).encode())
            written.append(folder / f"{name}.csv")
        with atomic_file(folder / "summary.md") as file:
            file.write(_markdown(tables["summary"], provenance).encode())
        write_json(folder / "provenance.json", provenance)
        written += [folder / "summary.md", folder / "provenance.json"]
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


def provenance_of(store: Store, name: str) -> Record:
    """How a study's numbers came about: command, commit, versions, machine, seeds, number of runs, and what is missing."""
    study = recorded_study(store, name)
    names = sorted({job for cell in study["cells"] for job in cell["jobs"]})
    found = {job: store.record(job) for job in names}
    records = {job: record for job, record in found.items() if record is not None and record.get("layout") == LAYOUT}
    done = [record for record in records.values() if is_done(record)]
    return {
        "study": name,
        "command": study["command"],
        "declared": study["study_fields"],
        "comparisons": declared_family(study["study_fields"], study["cells"]).size,
        "sources": _distinct(record["source"] for record in done),
        "versions": _distinct(record["versions"] for record in done),
        "machines": _distinct(record["machine"] | {"threads": record["threads"]} for record in done),
        "trainings": len(done),
        "runs": sum(len(record["seeds"]) for record in done),
        "seeds": sorted({seed for record in done for seed in record["seeds"]}),
        "cpu_seconds": round(sum(record["seconds"] * record["threads"] for record in done), 1),
        "missing": [job for job in names if job not in records],
        "failed": {job: record["message"] for job, record in records.items() if record.get("status") == "failed"},
        "diverged": {job: record["diverged"] for job, record in records.items() if record.get("diverged")},
        "cells": study["cells"],
    }


def provenance_lines(provenance: Mapping[str, Any]) -> list[str]:
    """Provenance for reading, a fact a line."""
    source, version, machine = (provenance[key][0] for key in ("sources", "versions", "machines"))
    commit = f", commit {source['commit'][:10]}{' with changes' if source['dirty'] else ''}" if source.get("commit") else ""
    packages = ", ".join(f"{name} {number}" for name, number in version.items())
    lines = [
        f"Command: `{provenance['command']}`",
        f"Runs: {provenance['runs']} ({provenance['trainings']} jobs), seeds {_ranges(provenance['seeds'])}, "
        f"{provenance['cpu_seconds']:.1f} core-seconds",
        f"Code: bnstudy {source['bnstudy']}{commit}; {packages}",
        f"Machine: {machine['processor']}, {machine['cores']} cores, {machine['threads']} thread(s) a job,"
        f" {machine['system']}",
    ]
    for key in ("sources", "versions", "machines"):
        if len(provenance[key]) > 1:
            lines.append(f"Mixed: {len(provenance[key])} different {key}; all of them are in provenance.json")
    lines += [f"Missing: job {job}" for job in provenance["missing"]]
    lines += [f"Failed: job {job}: {message}" for job, message in provenance["failed"].items()]
    for job, steps in provenance["diverged"].items():
        seeds = ", ".join(f"seed {seed} at step {step}" for seed, step in steps.items())
        lines.append(f"Diverged: job {job}: {seeds}")
    return lines


def _distinct(items: Iterable[Any]) -> list[Any]:
    found: list[Any] = []
    for item in items:
        if item not in found:
            found.append(item)
    return found


def _ranges(seeds: list[int]) -> str:
    spans: list[list[int]] = []
    for seed in seeds:
        if spans and seed == spans[-1][1] + 1:
            spans[-1][1] = seed
        else:
            spans.append([seed, seed])
    return ", ".join(f"{first}…{last}" if first != last else str(first) for first, last in spans)


def _markdown(summary: pd.DataFrame, provenance: Record) -> str:
    declared = provenance["declared"]
    parts = [f"# {provenance['study']}", declared["question"], "Mean ± half the 95 % t interval over seeds; descriptive."]
    for title, table in printed_tables(summary):
        parts.append(f"## {title}\n\n{table.to_markdown(index=False)}")
    parts.append("## How it was run\n\n" + "\n".join(f"- {line}" for line in provenance_lines(provenance)))
    return "\n\n".join(part for part in parts if part) + "\n"
