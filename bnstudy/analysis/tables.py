"""From raw runs to the tables of a study."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from bnstudy.analysis.gaps import gap_table, generalisation_table
from bnstudy.analysis.schemas import CELL, checked
from bnstudy.analysis.summary import summary_table
from bnstudy.batchnorm.conventions import Convention
from bnstudy.errors import UserError
from bnstudy.sweeps.store import Record, Store, is_done

_SHORT = {"dataset.name": "dataset", "model.name": "model", "model.norm": "norm", "variance.normalize": "normalize"}


def study_tables(store: Store, name: str) -> dict[str, pd.DataFrame]:
    """The tables of a study, from the raw runs that are there.

    Args:
        store: raw runs.
        name: the study.

    Returns:
        `jobs`, `metrics`, `distances`, `gaps`, `generalisation`, `summary`, each with the columns that name a cell.

    Raises:
        UserError: no such study, none of its jobs is done, or a damaged file.

    Source: DESIGN.md, section 4.
    """
    study = recorded_study(store, name)
    records = {job: record for cell in study["cells"] for job in cell["jobs"] if (record := _done(store, job)) is not None}
    if not records:
        raise UserError(f"{name}: none of its jobs is done in {str(store.root)!r}; run it with `bnstudy run`")
    cells = _cell_columns(records)
    conventions: dict[str, list[str]] = {job: [] for job in records}
    for cell in study["cells"]:
        batchnorm = cell["fields"]["model.norm"] == "batch"
        for job in cell["jobs"]:
            if job in records and (label := _convention(cell["fields"]) if batchnorm else "none") not in conventions[job]:
                conventions[job].append(label)
    tables = {"jobs": _jobs(records, cells)}
    for table in ("metrics", "distances"):
        parts = [_with_cell(store.table(job, table), cells.loc[job]) for job in records]
        tables[table] = pd.concat([part for part in parts if not part.empty] or parts[:1], ignore_index=True)
    if "statistic" not in tables["distances"]:
        del tables["distances"]
    tables["gaps"] = gap_table(tables["metrics"], conventions)
    tables["generalisation"] = generalisation_table(tables["metrics"], conventions)
    tables["summary"] = summary_table(tables["gaps"], tables["generalisation"])
    return {table: checked(table, frame) for table, frame in tables.items()}


def recorded_study(store: Store, name: str) -> Record:
    """What a study consists of.

    Raises:
        UserError: no such study.
    """
    study = store.study(name)
    if study is None:
        raise UserError(f"{name}: no study of that name in {str(store.root)!r}; run it with `bnstudy run`")
    return study


def _done(store: Store, job: str) -> Record | None:
    record = store.record(job)
    return record if is_done(record) else None


def _convention(fields: Mapping[str, Any]) -> str:
    return Convention(fields["variance.normalize"], fields["variance.accumulate"]).name


def _cell_columns(records: Mapping[str, Record]) -> pd.DataFrame:
    """Columns that name each job's cell: the usual ones, and every field that tells apart what they do not."""
    frame = pd.DataFrame({job: record["fields"] for job, record in records.items()}).T
    if "variance.normalize" not in frame:
        frame["variance.normalize"] = None
    frame["variance.normalize"] = frame["variance.normalize"].fillna("biased")  # a baseline: the side does not matter
    frame = frame.rename(columns=_SHORT)
    different = frame.map(str).groupby(list(CELL)).nunique().gt(1).any()
    frame = frame[[*CELL, *different.index[different]]].infer_objects()
    frame.columns = [str(column).replace(".", "_") for column in frame.columns]
    for column in frame.columns:
        if frame[column].dtype == object:
            numeric = pd.to_numeric(frame[column], errors="coerce")
            frame[column] = numeric if numeric.notna().sum() == frame[column].notna().sum() else frame[column].astype("str")
    return frame


def _with_cell(table: pd.DataFrame, cell: pd.Series[Any]) -> pd.DataFrame:
    values = {str(column): value for column, value in cell.items() if column not in table}
    cells = pd.DataFrame({column: [value] * len(table) for column, value in values.items()}, index=table.index)
    return pd.concat([table[["job"]], cells, table.drop(columns="job")], axis=1) if len(table.columns) else table


def _jobs(records: Mapping[str, Record], cells: pd.DataFrame) -> pd.DataFrame:
    own = pd.DataFrame(
        {
            "job": list(records),
            "training": [record["training"] for record in records.values()],
            "first_seed": [min(record["seeds"]) for record in records.values()],
            "last_seed": [max(record["seeds"]) for record in records.values()],
            "replicas": [len(record["seeds"]) for record in records.values()],
            "steps": [record["steps"] for record in records.values()],
            "seconds": [float(record["seconds"]) for record in records.values()],
            "diverged": [len(record["diverged"]) for record in records.values()],
        }
    )
    cells = cells[[column for column in cells if column not in own]]  # `steps`, where a study varies it
    joined = own.merge(cells, left_on="job", right_index=True)
    return joined[["job", "training", *cells.columns, *(column for column in own if column not in ("job", "training"))]]
