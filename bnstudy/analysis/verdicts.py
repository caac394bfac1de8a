"""A study's own contrasts: what its YAML declared before the run, asked of what its seeds gave."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import pandas as pd

from bnstudy.analysis.cells import cell_columns, convention_of
from bnstudy.analysis.contrasts import contrast_table
from bnstudy.analysis.families import KEYS, STORAGE, Family, pairs_of
from bnstudy.batchnorm.conventions import ARMS
from bnstudy.errors import UserError
from bnstudy.metric import metrics_for, primary_metric
from bnstudy.sweeps.config import Config, StudyConfig
from bnstudy.training.data import describe

QUANTITIES = ("own", "batch", "gap")
"""What is compared: a metric under each convention's own statistic, under the batch's, and own − batch."""
BASELINES = ("norm=group", "norm=layer", "norm=none")
"""Arms without BatchNorm."""
_ARMS = ("norm", "normalize")
"""Columns that tell arms apart rather than cells."""


def check_metric(config: Config) -> None:
    """Refuse a primary metric that is not measured on a cell's data.

    Raises:
        UserError: study.metric, its value and what would be accepted.
    """
    measured = metrics_for(describe(config.dataset).task)
    if config.study.metric is not None and config.study.metric not in measured:
        raise UserError(
            f"study.metric: {config.study.metric!r} is not measured on {config.dataset.name!r}; "
            f"use {' or '.join(map(repr, measured))}, or null"
        )


def declared_family(study: Mapping[str, Any], cells: Sequence[Mapping[str, Any]]) -> Family:
    """The family of comparisons that a study declares.

    Args:
        study: its `StudyConfig`, as a mapping; without a metric, `primary_metric` says which.
        cells: its planned cells, each with `training` and `fields`.

    Returns:
        The family, without contrasts between arms that no cell has; its size is the number of comparisons planned, whatever
        part of them has run.

    Raises:
        UserError: study.KEY: what cannot be used, and what could.

    Source: docs/method.md, "Contrasts and verdicts".
    """
    study = {**asdict(StudyConfig()), **study}  # a study recorded by an older version lacks some
    planned = cell_columns({cell["training"]: cell["fields"] for cell in cells})
    columns = [str(column) for column in planned if column not in _ARMS]
    within = dict(study["family"])
    for key, value in within.items():
        if key not in columns:
            raise UserError(f"study.family: {key!r} names no cells of this study; use {', '.join(columns)}")
        values = list(planned[str(key)].drop_duplicates())
        for item in value if isinstance(value, list) else [value]:
            if item not in values:
                raise UserError(f"study.family: {key}: {item!r} is not in this study; use {', '.join(map(str, values))}")
    arms: dict[tuple[str, ...], set[str]] = {}
    keys = {training: tuple(map(str, row)) for training, row in planned[columns].iterrows()}
    for cell in cells:
        arms.setdefault(keys[cell["training"]], set()).add(_arm(convention_of(cell["fields"]), cell["fields"]["model.norm"]))
    try:
        pairs = list(dict.fromkeys(pairs_of(study["contrasts"])))
        if strange := [arm for pair in pairs for arm in pair if arm not in ARMS and arm not in BASELINES]:
            raise UserError(f"contrasts: {strange[0]!r} is no arm; use {', '.join([*ARMS, *BASELINES])}")
        family = Family(
            metric=study["metric"] or "",
            margin=study["margin"],
            contrasts=[pair for pair in pairs if any(set(pair) <= there for there in arms.values())],
            split=study["split"],
            statistic=study["statistic"],
            cells=within or None,
            alpha=study["alpha"],
            kinds=study["kinds"],
        )
    except UserError as error:
        raise UserError(f"study.{error}") from error
    accepted = {"split": ("train", "test"), "statistic": QUANTITIES}
    for key, choices in accepted.items():
        if study[key] not in choices:
            raise UserError(f"study.{key}: {study[key]!r} is unknown; use {' or '.join(map(repr, choices))}")
    chosen = planned[family.includes(planned)]
    counted = {"arm": len(family.contrasts), "storage": len(STORAGE), "training": 1}
    sides: dict[tuple[str, ...], set[str]] = {}
    for training, row in chosen.iterrows():
        if row["norm"] == "batch":
            sides.setdefault(keys[str(training)], set()).add(str(row["normalize"]))
    found = {
        "arm": len({keys[str(training)] for training in chosen.index}),
        "storage": sum(bool(normalised & {"biased", "unbiased"}) for normalised in sides.values()),
        "training": sum({"biased", "unbiased"} <= normalised for normalised in sides.values()),
    }
    return replace(family, size=sum(counted[kind] * found[kind] for kind in family.kinds) or None)


def study_contrasts(
    frame: pd.DataFrame, study: Mapping[str, Any], cells: Sequence[Mapping[str, Any]], folds: pd.DataFrame | None = None
) -> pd.DataFrame:
    """The `contrasts` table of a study: every arm against `paper` in every cell, and what its YAML declares.

    Args:
        frame: see `comparable`, with the column `unstable`.
        study, cells: as recorded; see `declared_family`.
        folds: see `fold_means`.

    Raises:
        UserError: see `declared_family`.

    Source: docs/method.md, "Contrasts and verdicts".
    """
    family = declared_family(study, cells)
    cell = [str(column) for column in frame if column not in (*KEYS, "convention", "seed", "value", "unstable")]
    frame = frame.sort_values(cell, kind="stable")  # rows come in the order of their jobs' names
    measured = set(frame["metric"])
    metric = family.metric or primary_metric(measured)
    usable = metric in measured and bool(family.pairs)
    return contrast_table(
        frame, cell, family=replace(family, metric=metric) if usable else None, folds=folds, alpha=family.alpha
    )


def _arm(convention: str, norm: str) -> str:
    return convention if norm == "batch" else f"norm={norm}"
