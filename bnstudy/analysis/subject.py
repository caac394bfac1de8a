"""What a study asks: its primary number, in which its figures are drawn and its answer is given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from bnstudy.analysis.schemas import TABLES
from bnstudy.metric import Metric, metric_of, metrics_for, primary_metric

Tables = Mapping[str, pd.DataFrame]


@dataclass(frozen=True)
class Subject:
    """The primary number of a study.

    Args:
        metric: which metric.
        split: measured on.
        statistic: "own", "batch" or "gap".
        margin: largest difference that counts as none, in the metric's own units; None: not declared.
        alpha: level of the tests.
        measured: metrics that have values, in the order of the schemas.
        varying: columns that tell cells apart besides data set, model, batch size.
        declared: comparisons that the study declared, whether they have run or not; None where that is not known.
    """

    metric: Metric
    split: str
    statistic: str
    margin: float | None
    alpha: float
    measured: tuple[str, ...]
    varying: tuple[str, ...]
    declared: int | None = None

    @property
    def companion(self) -> str | None:
        """A metric that feels what the primary one forgives: loss beside accuracy, squared error beside R²."""
        return self.metric.companion if self.metric.companion in self.measured else None

    @property
    def shown(self) -> tuple[str, ...]:
        """The metrics that figures and tables show: the primary one, and its companion where there is one."""
        return (self.metric.name, self.companion) if self.companion else (self.metric.name,)

    @property
    def what(self) -> str:
        """The primary number in words."""
        where = "training" if self.split == "train" else self.split
        under = {
            "own": "each convention's own statistic",
            "batch": "the batch's own statistics",
            "gap": "its own statistic less that under the batch's",
        }
        return f"{where} {self.metric.label} under {under.get(self.statistic, self.statistic)}"


def subject_of(tables: Tables, provenance: Mapping[str, Any]) -> Subject:
    """The primary number: that of the declared family, else what was declared and measured, else `primary_metric`."""
    declared = provenance.get("declared") or {}
    measured = tuple(metric for metric in metrics_for() if _has(tables, metric))
    metric, split, statistic = declared.get("metric"), declared.get("split"), declared.get("statistic")
    margin = declared.get("margin")
    contrasts = tables.get("contrasts")
    if contrasts is not None and contrasts["in_family"].any():
        first = contrasts[contrasts["in_family"]].iloc[0]
        metric, split, statistic = first["metric"], first["split"], first["statistic"]
        margin = None if pd.isna(first["margin"]) else float(first["margin"])
    if metric is None or (measured and metric not in measured):
        metric = primary_metric(measured)
        margin = margin if metric == declared.get("metric") else None
    return Subject(
        metric=metric_of(metric),
        split=split or "test",
        statistic=statistic or "own",
        margin=margin,
        alpha=float(declared.get("alpha") or 0.05),
        measured=measured,
        varying=varying_columns(tables),
        declared=provenance.get("comparisons"),
    )


def varying_columns(tables: Tables) -> tuple[str, ...]:
    """Columns of configuration that vary in the study beside the usual ones."""
    for name in ("gaps", "generalisation"):
        if name in tables:
            return tuple(str(column) for column in tables[name] if column not in TABLES[name])
    return ()


def _has(tables: Tables, metric: str) -> bool:
    metrics, generalisation = tables.get("metrics"), tables.get("generalisation")
    if metrics is not None and metric in metrics and metrics[metric].notna().any():
        return True
    return metrics is None and generalisation is not None and metric in set(generalisation["metric"])
