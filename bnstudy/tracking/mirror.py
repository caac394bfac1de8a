"""What W&B shows of a job: its runs, built from the store."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from bnstudy.analysis.cells import cell_columns, convention_of
from bnstudy.analysis.gaps import gap_table, generalisation_table
from bnstudy.analysis.schemas import CELL, TERMS
from bnstudy.analysis.tables import recorded_study
from bnstudy.batchnorm.conventions import ARMS
from bnstudy.errors import UserError
from bnstudy.metric import metrics_for
from bnstudy.sweeps.config import Config
from bnstudy.sweeps.redaction import redacted_fields
from bnstudy.sweeps.status import damage_line, training_command
from bnstudy.sweeps.store import Record, Store, is_damaged, is_done
from bnstudy.tracking.record import MirroredRun, run_id, short
from bnstudy.training.keys import Role, keys
from bnstudy.training.schedule import steps_per_epoch

_SHOWN = tuple(f"{key.name}." for key in keys(Config) if key.role is Role.NUMBERS)
"""Keys that W&B is shown; of the others, `engine` may hold a user's shell lines."""
_RENAMED = {
    "dataset_name": "dataset",
    "model_name": "model",
    "model_norm": "norm",
    "variance_normalize": "normalize",
    "variance_accumulate": "accumulate",
    "optimizer_name": "optimizer",
    "schedule_name": "schedule",
}


class StudyMirror:
    """The runs of a study, job by job.

    Args:
        store: raw runs.
        name: the study.

    Raises:
        UserError: no such study.
    """

    def __init__(self, store: Store, name: str) -> None:
        self.store, self.name = store, name
        self.record = recorded_study(store, name)
        self.cells = self.record["cells"]
        self.columns = cell_columns({cell["training"]: cell["fields"] for cell in self.cells})
        self.leads = {cell["training"]: cell["jobs"][0] for cell in self.cells}
        """For each training the job whose first seed carries the table of layers."""

    def jobs(self) -> list[str]:
        """Names of the study's jobs, each once, in the order of its cells."""
        return list(dict.fromkeys(job for cell in self.cells for job in cell["jobs"]))

    def conventions(self, job: str) -> dict[str, Mapping[str, Any]]:
        """Conventions that a job answers, with the flat configuration of their cells."""
        return {convention_of(cell["fields"]): cell["fields"] for cell in self.cells if job in cell["jobs"]}

    def run_ids(self, job: str) -> list[str]:
        """Ids of a job's runs, whether mirrored or not; none for a job that is not done.

        Raises:
            UserError: the job is damaged.
        """
        record = self._done(job)
        if record is None:
            return []
        names = self.conventions(job)
        return [run_id(self.name, record["training"], name, seed) for name in names for seed in record["seeds"]]

    def runs(self, job: str) -> list[MirroredRun]:
        """A job's runs, one for each convention and seed; none unless the job is done.

        Raises:
            UserError: the job is damaged.
        """
        record = self._done(job)
        if record is None:
            return []
        cell = dict(self.columns.loc[str(record["training"])].items())
        metrics = self.store.table(job, "metrics", record).assign(**{name: cell[name] for name in CELL})
        conventions = self.conventions(job)
        gaps = gap_table(metrics, {job: list(conventions)})
        generalisation = generalisation_table(metrics, {job: list(conventions)})
        layers = self._layers(job, record)
        group = short(cell_label(cell))
        leading = (next(iter(conventions)), record["seeds"][0]) if job == self.leads[record["training"]] else None
        found = []
        for convention, fields in conventions.items():
            config = _config(record, fields) | {"study": self.name, "cell": group, "convention": convention}
            own = ARMS[convention].own_statistic if convention in ARMS else "none"
            for seed in record["seeds"]:
                measured = _rows_of(metrics, seed=seed)
                history = _history(measured, own, record)
                summary = history[-1] | _statistics(measured)
                summary |= _gap_terms(_rows_of(gaps, convention=convention, seed=seed))
                summary |= _differences(_rows_of(generalisation, convention=convention, seed=seed))
                summary |= _ratios(_rows_of(layers, statistic=own, seed=seed))
                if (step := record["diverged"].get(str(seed))) is not None:
                    summary["diverged_at_step"] = step
                summary["unstable"] = seed in record["unstable"]
                leads = (convention, seed) == leading
                found.append(
                    MirroredRun(
                        id=run_id(self.name, record["training"], convention, seed),
                        name=short(f"{group} {convention} seed={seed}"),
                        group=group,
                        job_type=convention,
                        tags=(self.name[:64],),
                        config=config | {"seed": seed},
                        history=history,
                        summary=summary,
                        tables={"layers": _as_lists(layers)} if leads and len(layers) else {},
                        bars=_bars(gaps, layers, len(record["seeds"])) if leads else {},
                    )
                )
        return found

    def layer_names(self) -> tuple[str, ...]:
        """BatchNorm layers of the study's networks that were probed."""
        names: dict[str, None] = {}
        for job in self.leads.values():
            record = self._done(job)
            layers = pd.DataFrame() if record is None else self._layers(job, record)
            names |= dict.fromkeys(layers["layer"]) if len(layers) else {}
        return tuple(names)

    def _done(self, job: str) -> Record | None:
        record = self.store.record(job)
        if is_damaged(record):
            raise UserError(damage_line(job, (record or {})["message"], training_command(self.record)))
        return record if is_done(record) else None

    def _layers(self, job: str, record: Record) -> pd.DataFrame:
        """Layer probes of a job; empty where there are none, or it is older than they are."""
        if "files" not in record and "probe_batches" not in record["config"]:
            return pd.DataFrame()
        table = self.store.table(job, "layers", record)
        return table if "statistic" in table else pd.DataFrame()


def _rows_of(table: pd.DataFrame, **values: Any) -> pd.DataFrame:
    """Rows whose columns have these values; a table without rows may lack the columns."""
    for column, value in values.items() if len(table) else ():
        table = table[table[column] == value]
    return table


def cell_label(cell: Mapping[Any, Any]) -> str:
    """A cell's name for people: its columns, except the normalising side, since both sides belong to one cell."""
    parts = {str(column): value for column, value in cell.items() if column != "normalize"}
    if parts["norm"] == "batch":
        del parts["norm"]
    return " ".join(f"{column}={value}" for column, value in parts.items() if str(value) != "nan")


def _config(record: Record, fields: Mapping[str, Any]) -> dict[str, Any]:
    flat = {key: value for key, value in _flat(redacted_fields(record["config"])) if f"{key}.".startswith(_SHOWN)}
    # A job's own configuration has one accumulated variance for all conventions that it serves: the cell's is meant.
    flat |= {key: value for key, value in fields.items() if key.startswith("variance.")}
    flat |= {f"source.{key}": value for key, value in record["source"].items()}
    for part in ("versions", "machine"):
        flat |= {f"{part}.{key}": value for key, value in record[part].items()}
    flat |= {key: record[key] for key in ("training", "job", "threads")}
    flat |= {"total_steps": record["steps"], "replicas": len(record["seeds"]), "job_seconds": record["seconds"]}
    named = {re.sub(r"[.-]", "_", key): value for key, value in flat.items()}
    return {_RENAMED.get(key, key): value for key, value in named.items()}


def _flat(nested: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in nested.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _history(metrics: pd.DataFrame, own: str, record: Record) -> list[dict[str, Any]]:
    """A row an epoch: batch statistics (train mode), own statistic (eval mode), their gap, and the batches as they were."""
    names = [metric for metric in metrics_for() if metric in metrics]
    modes = {"batch": "train_mode", own: "eval_mode", "online": "online"}
    shown = metrics[metrics["statistic"].isin(modes)]
    numbers = {
        (int(row["epoch"]), str(row["split"]), modes[row["statistic"]], name): float(row[name])
        for row in shown.to_dict("records")
        for name in names
    }
    samples = int(metrics.loc[(metrics["statistic"] == own) & (metrics["split"] == "train"), "n"].iloc[0])
    steps = steps_per_epoch(samples, record["config"]["batch_size"], record["config"]["drop_last"])
    last = int(metrics["epoch"].max())
    rows = []
    for epoch in range(1, last + 1):
        step = record["steps"] if epoch == last else min(epoch * steps, record["steps"])
        row: dict[str, Any] = {"epoch": epoch, "step": int(step)}
        for (at, split, mode, name), number in numbers.items():
            if at == epoch:
                row[f"{split}/{mode}/{name}"] = number
                if mode == "eval_mode" and (batch := numbers.get((epoch, split, "train_mode", name))) is not None:
                    row[f"{split}/gap/{name}"] = number - batch
        rows.append(row)
    return rows


def _statistics(metrics: pd.DataFrame) -> dict[str, Any]:
    final = metrics[metrics["epoch"] == metrics["epoch"].max()]
    names = [metric for metric in metrics_for() if metric in metrics]
    return {
        f"statistics/{row['split']}/{row['statistic']}/{name}": float(row[name])
        for row in final.to_dict("records")
        for name in names
    }


def _gap_terms(gaps: pd.DataFrame) -> dict[str, Any]:
    return {
        f"decomposition/{row['split']}/{row['metric']}/{term}": float(row[term])
        for row in gaps.to_dict("records")
        for term in ("gap", *TERMS)
    }


def _differences(generalisation: pd.DataFrame) -> dict[str, Any]:
    return {f"generalisation/{row['metric']}": float(row["gap"]) for row in generalisation.to_dict("records")}


def _ratios(layers: pd.DataFrame) -> dict[str, Any]:
    return {
        f"layers/{row['layer']}/{column}": row[column]
        for row in layers.to_dict("records")
        for column in ("m_eff", "ratio", "predicted_ratio")
    }


def _bars(gaps: pd.DataFrame, layers: pd.DataFrame, seeds: int) -> dict[str, tuple[str, list[list[Any]]]]:
    """Bar charts of a training, means over the seeds of one job: the terms of its gaps, and m_eff of its layers.

    The study's own figures are in its report; these are what W&B can draw by itself.
    """
    found = {}
    for metric, rows in gaps[gaps["split"] == "train"].groupby("metric"):
        means = rows.groupby("convention", sort=False)[list(TERMS)].mean()
        bars = [[f"{name} {term}", float(means.loc[name, term])] for name in means.index for term in TERMS]
        found[f"figures/decomposition/{metric}"] = (f"Gap in {metric}, train split, mean over {seeds} seeds", bars)
    if len(layers):
        worth = layers.groupby("layer", sort=False)["m_eff"].mean()
        bars = [[str(layer), float(value)] for layer, value in worth.items()]
        found["figures/m_eff"] = (f"Independent samples a batch is worth, mean over {seeds} seeds", bars)
    return found


def _as_lists(table: pd.DataFrame) -> tuple[list[str], list[list[Any]]]:
    return [str(column) for column in table], [list(row.values()) for row in table.to_dict("records")]
