"""Where the gap comes from: its three terms, stacked with their signs."""

from __future__ import annotations

import altair as alt
import pandas as pd

from bnstudy.analysis.figures.figure import Chart, Figure, Layout, Panel, absent, arranged, data, title_lines
from bnstudy.analysis.figures.panels import Across, across, labels, left_out, panels_of, position, seeds_phrase
from bnstudy.analysis.figures.theme import INK, MUTED, TERM_COLOURS, arm_label, ordered_arms
from bnstudy.analysis.subject import Subject, Tables
from bnstudy.analysis.wording import amount
from bnstudy.metric import metric_of

MOST_GROUPS = 3
_MEANING = (
    "lag: the moving average's; constant: what the convention stores, against the total variance; "
    "noise: the batch's own, which no stored number removes"
)


def decomposition_figure(tables: Tables, subject: Subject, metric: str) -> Figure:
    """The mean gap on the training split as a stack of lag, constant and noise, a panel a convention.

    Args:
        tables: needs `summary`.
        subject: what the study asks.
        metric: which metric.

    Returns:
        The figure; without a chart where no network with BatchNorm was measured.

    Source: docs/method.md, "The gap and its terms".
    """
    shown = metric_of(metric)
    name, title = f"decomposition_{shown.name}", f"What the gap in {shown.label} consists of"
    summary = tables.get("summary", pd.DataFrame())
    if summary.empty:
        return absent(name, title, "summary", "There is no table `summary`, so no gap can be split.")
    rows = summary[(summary["split"] == "train") & (summary["metric"] == metric)]
    terms = rows[rows["quantity"].isin(TERM_COLOURS) & rows["mean"].notna()]
    if terms.empty:
        why = f"There are no terms of a gap in {shown.label}: that needs BatchNorm, and seeds that did not all diverge."
        return absent(name, title, "summary", why)
    axis = across(rows, subject.varying)
    frames = []
    for part in (terms, rows[(rows["quantity"] == "gap") & rows["mean"].notna()]):
        frame = pd.DataFrame(
            {
                "convention": part["convention"].astype(object),
                "panel": labels(part, axis, subject.varying).astype(object),
                "term": part["quantity"].astype(object),
                "x": position(part, axis.column),
                **{end: part[end] * shown.factor for end in ("mean", "low", "high")},
            }
        )
        frame["order"] = frame["term"].map({term: index for index, term in enumerate(TERM_COLOURS)})
        frames.append(frame)
    bars, totals = frames
    arms = ordered_arms(bars["convention"].tolist())

    def draw(layout: Layout) -> Chart:
        columns = layout.columns(len(arms), 4)
        panels = []
        for label, part in panels_of(bars, most=MOST_GROUPS):
            total = totals[totals["panel"] == label]
            ends = _extent(part, total)
            for index, arm in enumerate(arms):
                panels.append(_panel(
                    part[part["convention"] == arm], total[total["convention"] == arm], arm, label, axis, ends,
                    shown.axis(f"gap in {shown.label}") if index % columns == 0 else "", layout, columns,
                ))  # fmt: skip
        return arranged(panels, columns)

    caption = (
        f"Mean {shown.axis(f'gap in {shown.label}')} on the training split over {seeds_phrase(terms['seeds'])}, in four "
        f"terms that add up to it ({_MEANING}). Terms above zero are stacked upwards, those below zero downwards; the dot "
        f"is their sum, the gap, with its 95 % interval. Panels of one row share a scale. How large a term is depends on "
        f"the order in which the causes are removed, which is the order of this list."
        + left_out(bars["panel"].nunique(), MOST_GROUPS).replace("panels", "groups of panels")
    )
    return Figure(name, title, "summary", draw, caption, _alt(terms, axis, metric))


def _extent(part: pd.DataFrame, total: pd.DataFrame) -> list[float]:
    grouped = part.assign(up=part["mean"].clip(lower=0), down=part["mean"].clip(upper=0))
    sums = grouped.groupby(["convention", "x"])[["up", "down"]].sum()
    high = max(sums["up"].max(), total["high"].max(skipna=True) if total["high"].notna().any() else 0.0)
    low = min(sums["down"].min(), total["low"].min(skipna=True) if total["low"].notna().any() else 0.0)
    room = (high - low or 1.0) * 0.04
    return [float(low - (room if low < 0 else 0)), float(high + (room if high > 0 else 0))]


def _panel(
    part: pd.DataFrame, total: pd.DataFrame, arm: str, label: str, axis: Across, ends: list[float], title: str,
    layout: Layout, columns: int,
) -> Panel:  # fmt: skip
    x = alt.X("x:O", title=axis.title, axis=alt.Axis(labelAngle=0, format="~g", grid=False))
    scale = alt.Scale(domain=ends, nice=False)
    colour = alt.Color(
        "term:N",
        scale=alt.Scale(domain=list(TERM_COLOURS), range=list(TERM_COLOURS.values())),
        legend=alt.Legend(title=None, orient="top", columns=4 if layout.most > 1 else 2, direction="horizontal"),
    )
    bar = alt.Chart(data(part.drop(columns=["convention", "panel", "low", "high"]))).mark_bar(stroke=INK, strokeWidth=0.4)
    bar = bar.encode(x=x, y=alt.Y("mean:Q", title=title, stack="zero", scale=scale), color=colour, order="order:Q")
    base = alt.Chart(data(total[["x", "mean", "low", "high"]]))
    rule = (
        base.transform_filter("datum.low !== null")
        .mark_rule(color=INK)
        .encode(x=x, y=alt.Y("low:Q", title=title, scale=scale), y2="high:Q")
    )
    dot = base.mark_point(filled=True, color=INK, size=22, opacity=1).encode(
        x=x, y=alt.Y("mean:Q", title=title, scale=scale)
    )
    zero = (
        alt.Chart(alt.InlineData(values=[{"y": 0}])).mark_rule(color=MUTED).encode(y=alt.Y("y:Q", title=title, scale=scale))
    )
    width = layout.width(columns, 44 if columns > 1 else 62)
    return alt.layer(bar, zero, rule, dot).properties(
        title=title_lines(arm_label(arm), label), width=width, height=180 if columns > 1 else 150
    )


def _alt(terms: pd.DataFrame, axis: Across, metric: str) -> str:
    x = position(terms, axis.column)
    smallest = terms[x == x.min()].groupby("quantity", sort=False)["mean"].mean()
    means = ", ".join(
        f"{term} {amount(float(smallest[term]), metric_of(metric))}" for term in TERM_COLOURS if term in smallest
    )
    return f"Stacked bars of the gap's four terms. At {axis.column.replace('_', ' ')} {x.min():g}, over all panels: {means}."
