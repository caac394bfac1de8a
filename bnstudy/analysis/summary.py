"""Means over seeds with their intervals, and the tables that a study prints."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from bnstudy.analysis.cells import arms_of
from bnstudy.analysis.schemas import TERMS
from bnstudy.analysis.statistics import mean_interval
from bnstudy.batchnorm.conventions import ARMS
from bnstudy.metric import METRICS, Metric

QUANTITIES = ("own", "batch", "gap", *TERMS)


def summary_table(gaps: pd.DataFrame, generalisation: pd.DataFrame | None = None) -> pd.DataFrame:
    """Mean over seeds and 95 % t interval of every quantity of the `gaps` table; descriptive, no verdict.

    Args:
        gaps: the `gaps` table.
        generalisation: the table of that name, for the baselines without BatchNorm: they have the quantity `own` alone.

    Returns:
        The `summary` table: a row per (cell, convention, split, metric, quantity); a diverged seed is left out and counted.

    Source: Student 1908, for the interval.
    """
    cell = [column for column in gaps if column not in ("job", "seed", "metric", "convention", "split", *QUANTITIES)]
    keys = [*cell, "convention", "split", "metric"]
    rows = []
    for values, group in gaps.groupby(keys, dropna=False, sort=False):
        interval = mean_interval(group[list(QUANTITIES)].to_numpy())
        finite = int(np.isfinite(group["own"]).sum())
        for index, quantity in enumerate(QUANTITIES):
            numbers = (interval.mean[index], interval.low[index], interval.high[index])
            rows.append((*values, quantity, *numbers, finite, len(group) - finite))
    if generalisation is not None:
        baselines = generalisation[generalisation["norm"] != "batch"]
        long = baselines.melt([*cell, "convention", "metric"], ["train", "test"], var_name="split", value_name="own")
        for values, group in long.groupby(keys, dropna=False, sort=False):
            interval = mean_interval(group[["own"]].to_numpy())
            finite = int(np.isfinite(group["own"]).sum())
            rows.append((*values, "own", *(end[0] for end in interval), finite, len(group) - finite))
    numbers_of = {"mean": "float64", "low": "float64", "high": "float64", "seeds": "int64", "diverged": "int64"}
    kinds = {key: gaps[key].dtype for key in keys} | {"quantity": "str"} | numbers_of  # also where there are no rows
    return pd.DataFrame(rows, columns=list(kinds)).astype(kinds)


def printed_tables(summary: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """The tables of a study for reading: a row a cell, a column a convention or baseline, mean ± half the 95 % interval.

    Yields:
        (title, table) for the metric under each convention's own statistic on the test split, and for the mismatch gap on
        the training split, for each model and data set.
    """
    # What varies beside the batch size tells rows apart too.
    fixed = ("dataset", "model", "norm", "normalize", "batch_size", "convention", "split", "metric", "quantity")
    extra = [column for column in summary.columns[: list(summary.columns).index("quantity")] if column not in fixed]
    for (dataset, model), part in summary.groupby(["dataset", "model"], sort=False):
        for metric in (metric for metric in METRICS.values() if metric.printed):
            for quantity, split, what, unit in (
                ("own", "test", "at inference, test split", metric.level_unit),
                ("gap", "train", "gap, training split", metric.unit),
            ):
                rows = part[(part["metric"] == metric.name) & (part["quantity"] == quantity) & (part["split"] == split)]
                if rows.empty:
                    continue
                cells = rows.assign(text=[_text(row, metric) for row in rows.itertuples()], arm=arms_of(rows))
                table = cells.pivot_table(
                    index=["batch_size", *extra], columns="arm", values="text", aggfunc="first", dropna=False
                )
                baselines = [name for name in table if name not in ARMS]
                table = table[[*(name for name in ARMS if name in table), *baselines]].dropna(how="all")
                seeds = int(rows["seeds"].max())
                title = f"{model} on {dataset}: {metric.label} {what}{f' ({unit})' if unit else ''}, {seeds} seeds"
                yield title, table.reset_index().rename_axis(columns=None)


def _text(row: Any, metric: Metric) -> str:
    mean, low, high = (getattr(row, name) * metric.factor for name in ("mean", "low", "high"))
    lost = row.diverged
    mark = f" ({lost} diverged)" if lost else ""
    if not np.isfinite(mean):
        return f"–{mark}"
    half = (high - low) / 2
    spread = f" ± {half:.{metric.decimals}f}" if np.isfinite(half) else ""
    return f"{mean:.{metric.decimals}f}{spread}{mark}"
