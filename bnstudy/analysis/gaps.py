"""The gap between training and inference behaviour, split into its causes."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import pandas as pd

from bnstudy.analysis.comparable import SIDES
from bnstudy.analysis.schemas import TERMS
from bnstudy.batchnorm.conventions import ARMS, MATCHED_TOTAL
from bnstudy.metric import metrics_for

_KEYS = ("job", "seed", "split")


def last_epoch(metrics: pd.DataFrame) -> pd.DataFrame:
    """The rows of each job's last epoch, with one row a metric: columns of `metrics` less the metrics, `metric`, `value`."""
    final = metrics[metrics["epoch"] == metrics.groupby("job")["epoch"].transform("max")]
    present = [metric for metric in metrics_for() if metric in final]
    rest = [column for column in final if column not in metrics_for()]
    long = final.melt(id_vars=rest, value_vars=present, var_name="metric", value_name="value")
    # A study may mix tasks: a job has the metrics of which any row of its data set is there; all where every seed diverged.
    known = long.groupby(["dataset", "metric"])["value"].transform("count") > 0
    alone = long.groupby("dataset")["value"].transform("count") == 0
    return long[known | alone]


def gap_table(metrics: pd.DataFrame, conventions: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """Each convention's gap, own statistic − `batch`, and the three terms that add up to it.

        lag       own − its population twin                 the moving average: its lag and its noise
        constant  population twin − k·population_total      the constant that the convention stores, against what is right
        noise     k·population_total − batch                the batch's own noise, which no stored number removes

    with k = 1 where the biased variance normalises and c = m/(m-1), layer by layer, where the unbiased one does.

    Args:
        metrics: the `metrics` table.
        conventions: the conventions to report, for each job.

    Returns:
        The `gaps` table: a row per (job, seed, convention, split, metric); none for a job without BatchNorm.

    Source: docs/method.md, "The gap and its terms".
    """
    final = last_epoch(metrics)
    cell = [column for column in final if column not in (*_KEYS, "epoch", "statistic", "n", "metric", "value")]
    wide = final.pivot_table(
        index=[*_KEYS, "metric"], columns="statistic", values="value", aggfunc="first", dropna=False, observed=True
    ).reset_index()
    # dropna=False pairs every job with every metric: keep the pairs that were measured.
    wide = wide.merge(final[[*_KEYS, "metric"]].drop_duplicates(), on=[*_KEYS, "metric"])
    wide = wide.merge(final[["job", *cell]].drop_duplicates("job"), on="job")
    parts = []
    for name, convention in ARMS.items():
        jobs = [job for job, names in conventions.items() if name in names]
        part = wide[wide["job"].isin(jobs) & (wide["normalize"] == SIDES[name]) & (wide["norm"] == "batch")].copy()
        if part.empty:
            continue
        part["convention"] = name
        part["own"] = part[convention.own_statistic]
        twin = part[f"population_{convention.accumulate}"]
        part["lag"] = part["own"] - twin
        part["constant"] = twin - part[MATCHED_TOTAL]
        part["noise"] = part[MATCHED_TOTAL] - part["batch"]
        part["gap"] = part["own"] - part["batch"]
        parts.append(part)
    columns = ["job", *cell, "seed", "convention", "split", "metric", "gap", *TERMS, "own", "batch"]
    if not parts:
        return pd.DataFrame({column: pd.Series(dtype=_dtype(column, final)) for column in columns})
    return pd.concat(parts)[columns].sort_values(["job", "convention", "metric", "split", "seed"]).reset_index(drop=True)


def generalisation_table(metrics: pd.DataFrame, conventions: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """Train split − test split under each convention's own statistic (a baseline's only one), a row per seed and metric.

    Source: docs/method.md, "The gap and its terms".
    """
    final = last_epoch(metrics)
    cell = [column for column in final if column not in (*_KEYS, "epoch", "statistic", "n", "metric", "value")]
    owners = {name: convention.own_statistic for name, convention in ARMS.items()} | {"none": "none"}
    wanted = pd.DataFrame(
        [(job, name, owners[name]) for job, names in conventions.items() for name in names],
        columns=["job", "convention", "statistic"],
    )
    own = final.merge(wanted, on=["job", "statistic"])
    index = ["job", *cell, "seed", "convention", "metric"]
    pair = own.set_index([*index, "split"])["value"].unstack("split")
    pair["gap"] = pair["train"] - pair["test"]
    return pair.reset_index()[[*index, "gap", "train", "test"]].rename_axis(columns=None)


def _dtype(column: Hashable, like: pd.DataFrame) -> str:
    if column in like:
        return str(like[column].dtype)
    return "str" if column in ("convention", "metric") else "float64"
