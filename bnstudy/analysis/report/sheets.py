"""The tables of a report, as text for reading with numbers for sorting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from bnstudy.analysis.cells import arms_of
from bnstudy.analysis.schemas import TERMS
from bnstudy.analysis.subject import Subject, Tables
from bnstudy.analysis.wording import fixed, number, p_value
from bnstudy.metric import Metric, metric_of

MOST_ROWS = 250


@dataclass(frozen=True)
class TableCell:
    """A cell of a table: what is read, and the number by which it sorts (None: by its text)."""

    text: str
    key: float | None = None


@dataclass(frozen=True)
class Sheet:
    """A table of a report.

    Args:
        name: of its anchor.
        title: its heading.
        note: what it holds.
        columns: their heads.
        rows: what is shown, at most `MOST_ROWS`.
        total: rows there are.
        file: of the results folder, with all rows and columns.
    """

    name: str
    title: str
    note: str
    columns: list[str]
    rows: list[list[TableCell]]
    total: int
    file: str

    @property
    def texts(self) -> pd.DataFrame:
        """What is read, as a DataFrame."""
        return pd.DataFrame([[cell.text for cell in row] for row in self.rows], columns=pd.Index(self.columns))

    def numeric(self, column: int) -> bool:
        """Whether a column holds numbers."""
        return any(row[column].key is not None for row in self.rows)


def sheets(tables: Tables, subject: Subject) -> list[Sheet]:
    """The tables of the report, those without rows left out."""
    made = [
        *_contrast_sheets(tables.get("contrasts", pd.DataFrame()), subject),
        _summary_sheet(tables.get("summary", pd.DataFrame()), subject),
        _layer_sheet(tables.get("layers", pd.DataFrame()), subject),
        _curve_sheet(tables.get("metrics", pd.DataFrame()), subject),
        _plain("jobs", "Jobs", "A row a job: a block of seeds of one training.", tables.get("jobs", pd.DataFrame())),
    ]
    return [sheet for sheet in made if sheet is not None]


def _contrast_sheets(contrasts: pd.DataFrame, subject: Subject) -> list[Sheet | None]:
    if contrasts.empty:
        return [None]
    family, rest = contrasts[contrasts["in_family"]], contrasts[~contrasts["in_family"]]
    asked = (rest["metric"] == subject.metric.name) & (rest["split"] == subject.split)
    # The primary number first: of a long table, what is cut matters least.
    rest = pd.concat([_by_cell(part, _cell_columns(rest, subject)) for part in (rest[asked], rest[~asked])])
    level = f"{100 * (1 - subject.alpha):g} %"
    return [
        _contrasts("contrasts", "Declared comparisons", f"The family declared before the run. Differences: arm − reference "
                   f"in {subject.what}, paired over seeds; {level} t intervals; p-values are Holm's.", family, subject),
        _contrasts("exploratory", "Other comparisons", "Exploratory: nothing is adjusted, and a verdict here is a hint.",
                   rest, subject),
    ]  # fmt: skip


def _contrasts(name: str, title: str, note: str, rows: pd.DataFrame, subject: Subject) -> Sheet | None:
    if rows.empty:
        return None
    family = name == "contrasts"
    cells = _cell_columns(rows, subject)
    if family:
        rows = _by_cell(rows, cells)
    shown = rows.head(MOST_ROWS)
    keys = [*cells, "arm", "reference", *([] if family else ["metric", "statistic", "split"])]
    body = []
    for row in shown.to_dict("records"):
        metric = metric_of(str(row["metric"]))
        p, q = ("p_holm", "p_equivalence_holm") if family else ("p", "p_equivalence")
        body.append([
            *(_value(row[key]) for key in keys),
            _scaled(row["difference"], metric, unit=not family),
            _range(row["ci_low"], row["ci_high"], metric),
            TableCell(p_value(float(row[p])), float(row[p])), TableCell(p_value(float(row[q])), float(row[q])),
            _scaled(row["sampling_error"], metric, unit=not family), _scaled(row["mde"], metric),
            _seeds(row["seeds_needed"]),
            _value(row["n"]), _value(row["diverged"] + row["missing"]), _value(row["unstable"]), _value(row["verdict"]),
            _value(row["verdict_stable"]),
        ])  # fmt: skip
    unit = f" ({subject.metric.unit})" if family and subject.metric.unit else ""
    heads = [*(_head(key) for key in keys), f"difference{unit}", "interval", "p", "p equivalence",
             "test sampling error", "detectable", "seeds needed", "seeds", "lost", "unstable", "verdict",
             "verdict without unstable"]  # fmt: skip
    return Sheet(name, title, note, heads, body, len(rows), "contrasts.parquet")


def _summary_sheet(summary: pd.DataFrame, subject: Subject) -> Sheet | None:
    if summary.empty:
        return None
    wanted = ((summary["quantity"] == "own") & (summary["split"] == "test")) | (
        summary["quantity"].isin(["gap", *TERMS]) & (summary["split"] == "train")
    )
    cells = _cell_columns(summary, subject)
    rows = _by_cell(summary[wanted & summary["metric"].isin(subject.shown)], cells)
    rows = rows.assign(arm=arms_of(rows))
    body = []
    for values, part in rows.groupby([*cells, "arm", "metric"], sort=False, dropna=False):
        metric = metric_of(str(values[-1]))
        by = {str(row["quantity"]): row for row in part.to_dict("records")}
        numbers = [_mean(by.get(quantity), metric) for quantity in ("own", "gap", *TERMS)]
        counts = [int(part["seeds"].max()), int(part["diverged"].max())]
        body.append(
            [*(_value(value) for value in values[:-1]), _value(metric.label), *numbers, *(_value(n) for n in counts)]
        )
    note = (
        "Mean ± half the 95 % t interval over seeds. The metric is the test split's at inference; the gap and its terms, "
        "which add up to it, are those of the training split. Accuracy in %, its differences in pp."
    )
    heads = [*(_head(key) for key in cells), "arm", "metric", "at inference", "gap", *TERMS, "seeds", "diverged"]
    return Sheet("summary", "Levels, gaps and their terms", note, heads, body[:MOST_ROWS], len(body), "summary.parquet")


def _layer_sheet(layers: pd.DataFrame, subject: Subject) -> Sheet | None:
    if layers.empty:
        return None
    numbers = ["m", "m_eff", "variation", "train_moment", "eval_moment", "ratio", "predicted_ratio", "growth"]
    cells = _cell_columns(layers, subject)
    keys = [*cells, "normalize", "layer", "statistic"]
    means = layers.groupby(keys, sort=False, dropna=False)[[name for name in numbers if name in layers]].mean().reset_index()
    note = "Mean over seeds of what the probes measured in every layer; the training side is the variance that normalised."
    body = [
        [*(_value(row[key]) for key in keys), *(_value(row[name]) for name in numbers if name in row)]
        for row in means.head(MOST_ROWS).to_dict("records")
    ]
    heads = [*(_head(key) for key in [*keys, *(name for name in numbers if name in layers)])]
    return Sheet("layers", "Layers", note, heads, body, len(means), "layers.parquet")


def _curve_sheet(metrics: pd.DataFrame, subject: Subject) -> Sheet | None:
    metric = subject.metric
    if metrics.empty or metric.name not in metrics:
        return None
    cells = _cell_columns(metrics, subject)
    keys = [*cells, "norm", "normalize", "split", "statistic", "epoch"]
    means = metrics.groupby(keys, sort=False, dropna=False)[metric.name].agg(["mean", "count"]).reset_index()
    # The last epoch first: of a long table, what is cut is history.
    means = means.sort_values("epoch", ascending=False, kind="stable")
    body = [
        [*(_value(row[key]) for key in keys), _scaled(row["mean"], metric), _value(row["count"])]
        for row in means.head(MOST_ROWS).to_dict("records")
    ]
    heads = [*(_head(key) for key in keys), metric.axis(metric.label, level=True), "seeds"]
    note = f"Mean {metric.label} over seeds at the end of each epoch under every statistic measured; the last epoch first."
    return Sheet("metrics", "Metrics by epoch", note, heads, body, len(means), "metrics.parquet")


def _plain(name: str, title: str, note: str, table: pd.DataFrame) -> Sheet | None:
    if table.empty:
        return None
    shown = table.drop(columns=["training"], errors="ignore")
    body = [[_value(value) for value in row] for row in shown.head(MOST_ROWS).itertuples(index=False)]
    return Sheet(name, title, note, [_head(str(column)) for column in shown], body, len(table), f"{name}.parquet")


def _cell_columns(frame: pd.DataFrame, subject: Subject) -> list[str]:
    return [column for column in ("dataset", "model", "batch_size", *subject.varying) if column in frame]


def _by_cell(rows: pd.DataFrame, cells: list[str]) -> pd.DataFrame:
    keys = [*(column for column in cells if column != "batch_size"), *(["batch_size"] if "batch_size" in cells else [])]
    return rows.sort_values(keys, kind="stable")


def _head(column: str) -> str:
    return {"m_eff": "m_eff", "normalize": "normalised with"}.get(column, column.replace("_", " "))


def _value(value: Any) -> TableCell:
    if value is None or value is pd.NA or (isinstance(value, float | np.floating) and np.isnan(value)):
        return TableCell("–")
    if isinstance(value, bool | np.bool_):
        return TableCell("yes" if value else "no")
    if isinstance(value, int | np.integer):
        return TableCell(str(value), float(value))
    if isinstance(value, float | np.floating):
        real = float(value)
        text = f"{real:.0f}" if real.is_integer() and abs(real) < 1e15 else f"{real:.4g}"
        return TableCell(text.replace("-", "−", 1) if text.startswith("-") else text, real)
    return TableCell(str(value))


def _scaled(value: Any, metric: Metric, unit: bool = False) -> TableCell:
    text = number(float(value) * metric.factor, metric.decimals)
    return TableCell(f"{text} {metric.unit}".rstrip() if unit and text != "–" else text, float(value))


def _range(low: float, high: float, metric: Metric) -> TableCell:
    if not np.isfinite(low):
        return TableCell("–")
    ends: Sequence[str] = [number(end * metric.factor, metric.decimals) for end in (low, high)]
    return TableCell(" to ".join(ends), float(low))


def _seeds(value: float) -> TableCell:
    if np.isnan(value):
        return TableCell("–")
    return TableCell("over 1,000,000" if np.isinf(value) else f"{int(np.ceil(value)):,}", float(min(value, 1e12)))


def _mean(row: dict[Any, Any] | None, metric: Metric) -> TableCell:
    if row is None or not np.isfinite(row["mean"]):
        return TableCell("–")
    text = fixed(row["mean"] * metric.factor, metric.decimals)
    half = (row["high"] - row["low"]) / 2 * metric.factor
    return TableCell(f"{text} ± {fixed(half, metric.decimals)}" if np.isfinite(half) else text, float(row["mean"]))
