"""The table of metrics: everything that any part of the project knows about one stands here, and nowhere else.

Schemas, figures, verdicts, dashboards, sweeps and diagnoses ask this table. How a metric is computed stands where outputs
are: `bnstudy.training.measuring.metrics` for studies, `bnstudy.diagnosis.scoring` for diagnoses.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Metric:
    """What is known of a metric.

    Args:
        name: its column in tables, and what a configuration calls it.
        label: its name in sentences.
        meaning: of the column, for the dictionary in results/README.md.
        task: "classification" or "regression": where studies measure it; "": `bnstudy diagnose` alone does.
        factor: from the table's units to those that people read: 100 makes a share percent.
        unit: of differences, as shown; "" where there is none.
        level_unit: of the metric itself, as shown.
        decimals: digits after the point, as a rule.
        direction: which side is better; None where that is not known.
        bounds: least and greatest value, as stored.
        companion: a metric that feels what this one forgives, such as loss beside accuracy.
        primary: whether it is a task's primary metric where a study declares none.
        printed: whether a study prints a table of it.
    """

    name: str
    label: str
    meaning: str = ""
    task: Literal["classification", "regression", ""] = ""
    factor: float = 1.0
    unit: str = ""
    level_unit: str = ""
    decimals: int = 3
    direction: Literal["higher", "lower"] | None = None
    bounds: tuple[float, float] = (-math.inf, math.inf)
    companion: str | None = None
    primary: bool = False
    printed: bool = True

    def axis(self, what: str, level: bool = False) -> str:
        """An axis title with the unit."""
        unit = self.level_unit if level else self.unit
        return f"{what} ({unit})" if unit else what


_TABLE = (
    Metric(
        "accuracy",
        label="accuracy",
        meaning="share of samples classified rightly",
        task="classification",
        factor=100,
        unit="pp",
        level_unit="%",
        decimals=2,
        direction="higher",
        bounds=(0, 1),
        companion="loss",
        primary=True,
    ),
    Metric(
        "loss",
        label="loss",
        meaning="mean cross-entropy, nats",
        task="classification",
        unit="nats",
        level_unit="nats",
        direction="lower",
        bounds=(0, math.inf),
        companion="accuracy",
    ),
    Metric(
        "ece",
        label="calibration error",
        meaning="calibration error, 15 bins, L1",
        task="classification",
        factor=100,
        unit="pp",
        level_unit="%",
        decimals=2,
        direction="lower",
        bounds=(0, 1),
        companion="loss",
        printed=False,
    ),
    Metric(
        "r2",
        label="R²",
        meaning="share of variance explained",
        task="regression",
        direction="higher",
        bounds=(-math.inf, 1),
        companion="mse",
        primary=True,
    ),
    Metric(
        "mse",
        label="mean squared error",
        meaning="mean squared error, in units of the standardised target",
        task="regression",
        direction="lower",
        bounds=(0, math.inf),
        companion="r2",
    ),
    Metric("bce", label="binary cross-entropy", unit="nats", level_unit="nats", direction="lower", bounds=(0, math.inf)),
    Metric("output_rms", label="output RMS", bounds=(0, math.inf)),
)

METRICS = {metric.name: metric for metric in _TABLE}
"""Every metric that has a name of its own, in the order in which tables and reports have them."""


def metric_of(name: str) -> Metric:
    """What is known of a metric; one of the user's own is written as it is stored."""
    return METRICS.get(name, Metric(name, name))


def metrics_for(*tasks: str) -> tuple[str, ...]:
    """Names of what studies measure.

    Args:
        tasks: "classification", "regression" or both; none: whatever the task.
    """
    return tuple(metric.name for metric in METRICS.values() if metric.task and (metric.task in tasks or not tasks))


def primary_metric(measured: Collection[str]) -> str:
    """The metric that a study is about where it declares none: a task's primary one; in a study of two tasks, the first.

    Args:
        measured: names of the metrics that were, or will be, measured.

    Returns:
        One of them; where none is known, the table's first primary metric.
    """
    primary = [metric.name for metric in METRICS.values() if metric.primary]
    return next((name for name in (*primary, *METRICS) if name in measured), next(iter(measured), primary[0]))
