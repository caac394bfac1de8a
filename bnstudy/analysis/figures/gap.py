"""The gap against the batch size, a line a convention."""

from __future__ import annotations

import altair as alt
import pandas as pd

from bnstudy.analysis.figures.figure import Chart, Figure, Layout, Panel, absent, arranged, data, title_lines
from bnstudy.analysis.figures.panels import (
    MOST_PANELS,
    Across,
    across,
    labels,
    left_out,
    panels_of,
    position,
    seeds_phrase,
)
from bnstudy.analysis.figures.theme import MUTED, arm_colour, arm_label, arm_shape, ordered_arms
from bnstudy.analysis.subject import Subject, Tables
from bnstudy.analysis.wording import amount
from bnstudy.metric import metric_of


def gap_figure(tables: Tables, subject: Subject, metric: str) -> Figure:
    """The mismatch gap of a metric on the training split, mean and 95 % interval over seeds, against the batch size.

    Args:
        tables: needs `summary`.
        subject: what the study asks.
        metric: which metric.

    Returns:
        The figure; without a chart where no network with BatchNorm was measured.

    Source: docs/method.md, "The gap and its terms".
    """
    shown = metric_of(metric)
    name, title = f"gap_{shown.name}", f"Gap in {shown.label}"
    summary = tables.get("summary", pd.DataFrame())
    if summary.empty:
        return absent(name, title, "summary", "There is no table `summary`, so no gap can be drawn.")
    rows = summary[(summary["quantity"] == "gap") & (summary["split"] == "train") & (summary["metric"] == metric)]
    if rows.empty:
        why = f"No gap in {shown.label} was measured: it needs a network with BatchNorm and that metric."
        return absent(name, title, "summary", why)
    known = rows[rows["mean"].notna()]
    if known.empty:
        return absent(name, title, "summary", "Every seed diverged, so there is no gap to draw.")
    axis = across(rows, subject.varying)
    frame = _prepared(known, axis, subject, shown.factor)
    arms = ordered_arms(frame["convention"].tolist())
    lost = int(rows["diverged"].sum())

    def draw(layout: Layout) -> Chart:
        panels = list(panels_of(frame))
        columns = layout.columns(len(panels))
        title = shown.axis(f"gap in {shown.label}")
        return arranged([_panel(part, label, axis, arms, title, layout, columns) for label, part in panels], columns)

    interval = (
        " Bars are 95 % t intervals over seeds." if frame["low"].notna().any() else " With one seed there is no interval."
    )
    caption = (
        f"{shown.axis(f'Gap in {shown.label}')}: the value under each convention's own stored statistic minus the value "
        f"under the batch's own, with the same weights on the training split; at 0 inference behaves as training did. Mean "
        f"over {seeds_phrase(known['seeds'])}.{interval} Points are shifted a little sideways so that they do not hide each "
        f"other; every panel has its own vertical scale.{f' {lost} diverged values are left out.' if lost else ''}"
        + left_out(frame["panel"].nunique(), MOST_PANELS)
    )
    return Figure(name, title, "summary", draw, caption, _alt(known, axis, metric))


def _prepared(known: pd.DataFrame, axis: Across, subject: Subject, factor: float) -> pd.DataFrame:
    arms = ordered_arms(known["convention"].tolist())
    x = position(known, axis.column)
    moved = pd.concat([axis.dodged(x[known["convention"] == arm], index, len(arms)) for index, arm in enumerate(arms)])
    return pd.DataFrame(
        {
            "convention": known["convention"].astype(object),
            "arm": known["convention"].map(arm_label).astype(object),
            "panel": labels(known, axis, subject.varying).astype(object),
            "x": moved,
            **{end: known[end] * factor for end in ("mean", "low", "high")},
        }
    )


def _panel(part: pd.DataFrame, label: str, axis: Across, arms: list[str], title: str, layout: Layout, columns: int) -> Panel:
    x = alt.X("x:Q", scale=axis.scale(), axis=axis.axis())
    y = alt.Y("mean:Q", title=title, scale=alt.Scale(zero=True))
    colour, shape = arm_colour(arms, layout.legend_columns), arm_shape(arms, layout.legend_columns)
    base = alt.Chart(data(part.drop(columns=["convention", "panel"])))
    zero = alt.Chart(alt.InlineData(values=[{"y": 0}])).mark_rule(color=MUTED, strokeWidth=1).encode(y=alt.Y("y:Q"))
    rule = (
        base.transform_filter("datum.low !== null")
        .mark_rule(strokeWidth=1.4)
        .encode(x=x, y=alt.Y("low:Q", title=title), y2="high:Q", color=colour)
    )
    line = base.mark_line(strokeWidth=1.2, opacity=0.75).encode(x=x, y=y, color=colour)
    point = base.mark_point(filled=True, size=42, opacity=1).encode(x=x, y=y, color=colour, shape=shape)
    height = 230 if columns < 3 else 200
    return alt.layer(zero, rule, line, point).properties(
        title=title_lines(label), width=layout.width(columns), height=height
    )


def _alt(known: pd.DataFrame, axis: Across, metric: str) -> str:
    x = position(known, axis.column)
    parts = []
    for end in dict.fromkeys((x.min(), x.max())):
        there = known[x == end]
        spread = " to ".join(
            dict.fromkeys(amount(float(value), metric_of(metric)) for value in (there["mean"].min(), there["mean"].max()))
        )
        parts.append(f"at {axis.column.replace('_', ' ')} {end:g} the gaps are {spread}")
    conventions = ", ".join(ordered_arms(known["convention"].tolist()))
    return f"Line chart of the gap in {metric_of(metric).label} for {conventions}: {'; '.join(parts)}."
