"""What a study compares: the numbers of every arm, cell and seed, in three kinds of comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from bnstudy.batchnorm.conventions import ARMS, CONVENTIONS, EMA_STATISTICS, MATCHED_TOTAL, RESCALED
from bnstudy.metric import metrics_for

SIDES = {name: convention.normalize for name, convention in CONVENTIONS.items()} | {RESCALED: "biased_rescaled"}
"""What `normalize` says of the training that serves an arm."""
KINDS = ("arm", "storage", "training")
"""arm: conventions, each trained and evaluated in its own way; storage: stored variances on the same weights; training:
normalising variances, each evaluated under the total variance that matches its divisor."""
STORED = "stored"
"""What `statistic` says of a storage comparison, whose arms are statistics."""
_NOT_CELL = ("job", "norm", "normalize", "seed", "epoch", "split", "statistic", "n", "metric", "value")


def kind_of(arm: str) -> str:
    """The kind of comparison that an arm belongs to."""
    if arm in EMA_STATISTICS:
        return "storage"
    return "training" if arm.startswith("normalize=") else "arm"


def comparable(final: pd.DataFrame, conventions: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """Every number that may be compared, a row per cell, arm, seed, metric, statistic, weights and split.

    `weights` says on whose weights a stored variance is compared: "own" (each arm's), "biased" or "unbiased" (of the
    training that this variance normalised), "both" (the mean of the two).

    Args:
        final: see `last_epoch`; parts of a split may stand in the place of seeds.
        conventions: the conventions to report, for each job.

    Returns:
        Columns of the cell, then kind, weights, convention (the arm), seed, metric, statistic, split, value.

    Source: docs/method.md, "Contrasts and verdicts".
    """
    cell = [str(column) for column in final if column not in _NOT_CELL]
    place = [*cell, "seed", "metric", "split"]
    keys = ["job", "norm", "normalize", *place]
    wide = final.set_index([*keys, "statistic"])["value"].unstack("statistic").reset_index()
    wide = wide.rename_axis(columns=None)
    normalised = wide[wide["norm"] == "batch"]
    parts = []
    for name, convention in ARMS.items():
        jobs = [job for job, names in conventions.items() if name in names]
        rows = normalised[normalised["job"].isin(jobs) & (normalised["normalize"] == SIDES[name])]
        if rows.empty:
            continue
        own, batch = rows[convention.own_statistic], rows["batch"]
        for statistic, values in (("own", own), ("batch", batch), ("gap", own - batch)):
            parts.append(_part(rows[place], "arm", name, statistic, values))
    for norm, rows in wide[wide["norm"] != "batch"].groupby("norm", sort=False):
        parts.append(_part(rows[place], "arm", f"norm={norm}", "own", rows["none"]))
    sides = {side: normalised[normalised["normalize"] == side] for side in ("biased", "unbiased")}
    for side, rows in sides.items():
        parts += [_part(rows[place], "storage", name, STORED, rows[name], side) for name in EMA_STATISTICS if len(rows)]
        if len(rows):
            parts.append(_part(rows[place], "training", f"normalize={side}", MATCHED_TOTAL, rows[MATCHED_TOTAL]))
    if all(len(rows) for rows in sides.values()):
        two = [rows.set_index(place)[list(EMA_STATISTICS)] for rows in sides.values()]
        mean = ((two[0] + two[1]) / 2).reindex(two[0].index.intersection(two[1].index)).reset_index()
        parts += [_part(mean[place], "storage", name, STORED, mean[name], "both") for name in EMA_STATISTICS]
    columns = [*cell, "kind", "weights", "convention", "seed", "metric", "statistic", "split", "value"]
    return pd.concat(parts, ignore_index=True)[columns] if parts else pd.DataFrame(columns=columns)


def _part(
    place: pd.DataFrame, kind: str, arm: str, statistic: str, values: pd.Series[float], weights: str = "own"
) -> pd.DataFrame:
    return place.assign(kind=kind, weights=weights, convention=arm, statistic=statistic, value=values.to_numpy())


def fold_means(folds: pd.DataFrame, seeds: Mapping[str, int], conventions: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """Like `comparable`, of the folds of the test split instead of seeds: means over all seeds of a cell.

    Args:
        folds: rows (job, columns of the cell, statistic, fold, one column a metric); each job's are means over its seeds.
        seeds: how many, for each job.
        conventions: the conventions to report, for each job.
    """
    metrics = [metric for metric in metrics_for() if metric in folds]
    cell = [str(column) for column in folds if column not in ("job", "statistic", "fold", *metrics)]
    long = folds.melt(["job", *cell, "statistic", "fold"], metrics, var_name="metric", value_name="value")
    long = long.dropna(subset="value")
    long["weight"] = long["job"].map(seeds).astype(float)
    long["value"] *= long["weight"]
    keys = [*cell, "statistic", "fold", "metric"]
    groups = long.groupby(keys, dropna=False, sort=False)
    mean = groups.agg(job=("job", "first"), value=("value", "sum"), weight=("weight", "sum"))
    mean["value"] /= mean["weight"]
    mean = mean.drop(columns="weight").reset_index().rename(columns={"fold": "seed"})
    return comparable(mean.assign(split="test"), conventions)


def sampling_errors(contrasts: pd.DataFrame, folds: pd.DataFrame, keys: Sequence[str]) -> pd.Series[float]:
    """Standard error that the test split's finite size leaves in each comparison, paired by sample; NaN where unknown.

    The seeds' interval says how far another set of seeds would lie on the same test split. This says how far another test
    split of that size would lie with the same networks. Folds are compared like seeds, and their spread is divided by
    √folds.

    Args:
        contrasts: rows with the columns `keys`, arm and reference.
        folds: see `fold_means`.
        keys: columns of the cell, kind, weights, metric, statistic and split.

    Source: the method of batch means; docs/method.md, "Contrasts and verdicts".
    """
    errors = pd.Series(np.nan, index=contrasts.index)
    if folds.empty:
        return errors
    wide = folds.set_index([*keys, "seed", "convention"])["value"].unstack("convention")
    for (arm, reference), rows in contrasts.groupby(["arm", "reference"], sort=False):
        if arm not in wide or reference not in wide:
            continue
        difference = (wide[arm] - wide[reference]).groupby(level=list(keys), dropna=False)
        error: pd.DataFrame = (difference.std() / np.sqrt(difference.count())).rename("error").reset_index()
        found = rows[list(keys)].merge(error, how="left", on=list(keys))["error"]
        errors.loc[rows.index] = found.to_numpy()
    return errors
