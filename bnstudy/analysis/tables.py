"""From raw runs to the tables of a study."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from bnstudy.analysis.cells import cell_columns, convention_of
from bnstudy.analysis.comparable import comparable, fold_means
from bnstudy.analysis.gaps import gap_table, generalisation_table, last_epoch
from bnstudy.analysis.schemas import OPTIONAL, checked
from bnstudy.analysis.summary import summary_table
from bnstudy.analysis.verdicts import study_contrasts
from bnstudy.atomic import DamagedError
from bnstudy.errors import UserError
from bnstudy.sweeps.records import WRITES_AGAIN, check_kinds
from bnstudy.sweeps.redaction import redacted, redacted_fields
from bnstudy.sweeps.status import damage_line, training_command
from bnstudy.sweeps.store import Record, Store, is_damaged, is_done

_FIELDS = {"dataset.name": str, "model.name": str, "model.norm": str, "batch_size": int, "variance.accumulate": str}
"""What the configuration of a cell has at least."""


def study_tables(store: Store, name: str) -> dict[str, pd.DataFrame]:
    """The tables of a study, from the raw runs that are there.

    Args:
        store: raw runs.
        name: the study.

    Returns:
        `jobs`, `metrics`, `layers`, `gaps`, `generalisation`, `summary`, `contrasts`, each with the columns that name
        a cell.

    Raises:
        UserError: no such study, none of its jobs is done, or a damaged file.

    Source: docs/architecture.md, "The way of a batch size".
    """
    study = recorded_study(store, name)
    found = {job: store.record(job) for job in dict.fromkeys(job for cell in study["cells"] for job in cell["jobs"])}
    for job, record in found.items():
        if record is not None and is_damaged(record):
            raise UserError(damage_line(job, record["message"], training_command(study)))
    records = {job: record for job, record in found.items() if record is not None and is_done(record)}
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
    for table in ("metrics", "layers"):
        parts = [_with_cell(store.table(job, table, records[job]), cells.loc[job]) for job in records]
        tables[table] = pd.concat([part for part in parts if not part.empty] or parts[:1], ignore_index=True)
    for table in OPTIONAL:
        if "statistic" not in tables[table]:
            del tables[table]
    tables["gaps"] = gap_table(tables["metrics"], conventions)
    tables["generalisation"] = generalisation_table(tables["metrics"], conventions)
    tables["summary"] = summary_table(tables["gaps"], tables["generalisation"])
    tables = {table: checked(table, frame) for table, frame in tables.items()}
    final = last_epoch(tables["metrics"])
    frame = _marked(comparable(final, conventions), final, records)
    parts = [_with_cell(store.table(job, "folds", records[job]), cells.loc[job]) for job in records]
    seeds = {job: len(record["seeds"]) - len(record["diverged"]) for job, record in records.items()}
    means = fold_means(pd.concat(parts, ignore_index=True), seeds, conventions)
    return tables | {"contrasts": study_contrasts(frame, study["study_fields"], study["cells"], means)}


def _marked(frame: pd.DataFrame, final: pd.DataFrame, records: Mapping[str, Record]) -> pd.DataFrame:
    """Mark what comes from a cell and seed of which a network's activations exploded, whichever side trained it."""
    cell = [
        str(column)
        for column in frame
        if column in final and column not in ("seed", "metric", "statistic", "split", "value")
    ]
    exploded = pd.DataFrame(
        [(job, seed) for job, record in records.items() for seed in record.get("unstable", ())], columns=["job", "seed"]
    )
    where = final[["job", *cell]].drop_duplicates().merge(exploded, on="job")[[*cell, "seed"]].drop_duplicates()
    found = frame.merge(where.assign(unstable=True), how="left", on=[*cell, "seed"])["unstable"]
    return frame.assign(unstable=found.eq(True).to_numpy())


def recorded_study(store: Store, name: str) -> Record:
    """What a study consists of, with all that its tables need.

    Raises:
        UserError: no such study, or its record is damaged.
    """
    study = store.study(name)
    if study is None:
        raise UserError(f"{name}: no study of that name in {str(store.root)!r}; run it with `bnstudy run`")
    try:
        check_kinds(study, {"command": str, "study_fields": dict})
        for cell in study["cells"]:
            check_kinds(cell["fields"], _FIELDS)
    except DamagedError as error:
        raise error.told(store.studies / f"{name}.json", WRITES_AGAIN) from error
    # Older records may hold what is redacted by now.
    return study | {"command": redacted(study["command"]), "study_fields": redacted_fields(study["study_fields"])}


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
            "unstable": [len(record["unstable"]) for record in records.values()],
        }
    )
    cells = cells[[column for column in cells if column not in own]]  # `steps`, where a study varies it
    joined = own.merge(cells, left_on="job", right_index=True)
    return joined[["job", "training", *cells.columns, *(column for column in own if column not in ("job", "training"))]]
