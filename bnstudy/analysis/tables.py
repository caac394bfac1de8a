"""From raw runs to the tables of a study."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from bnstudy.analysis.cells import cell_columns, convention_of
from bnstudy.analysis.gaps import gap_table, generalisation_table
from bnstudy.analysis.schemas import OPTIONAL, checked
from bnstudy.analysis.summary import summary_table
from bnstudy.analysis.verdicts import study_contrasts
from bnstudy.errors import UserError
from bnstudy.sweeps.store import Record, Store, is_done


def study_tables(store: Store, name: str) -> dict[str, pd.DataFrame]:
    """The tables of a study, from the raw runs that are there.

    Args:
        store: raw runs.
        name: the study.

    Returns:
        `jobs`, `metrics`, `distances`, `layers`, `gaps`, `generalisation`, `summary`, `contrasts`, each with the
        columns that name a cell.

    Raises:
        UserError: no such study, none of its jobs is done, or a damaged file.

    Source: docs/architecture.md, "The way of a batch size".
    """
    study = recorded_study(store, name)
    records = {job: record for cell in study["cells"] for job in cell["jobs"] if (record := _done(store, job)) is not None}
    if not records:
        raise UserError(f"{name}: none of its jobs is done in {str(store.root)!r}; run it with `bnstudy run`")
    planned = cell_columns({cell["training"]: cell["fields"] for cell in study["cells"]})
    cells = planned.loc[[record["training"] for record in records.values()]].set_axis(list(records))
    conventions: dict[str, list[str]] = {job: [] for job in records}
    for cell in study["cells"]:
        label = convention_of(cell["fields"])
        for job in cell["jobs"]:
            if job in records and label not in conventions[job]:
                conventions[job].append(label)
    tables = {"jobs": _jobs(records, cells)}
    for table in ("metrics", "distances", "layers"):
        parts = [_with_cell(store.table(job, table), cells.loc[job]) for job in records]
        tables[table] = pd.concat([part for part in parts if not part.empty] or parts[:1], ignore_index=True)
    for table in OPTIONAL:
        if "statistic" not in tables[table]:
            del tables[table]
    tables["gaps"] = gap_table(tables["metrics"], conventions)
    tables["generalisation"] = generalisation_table(tables["metrics"], conventions)
    tables["summary"] = summary_table(tables["gaps"], tables["generalisation"])
    tables = {table: checked(table, frame) for table, frame in tables.items()}
    contrasts = study_contrasts(tables["gaps"], tables["generalisation"], study["study_fields"], study["cells"])
    return tables | {"contrasts": contrasts}


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
