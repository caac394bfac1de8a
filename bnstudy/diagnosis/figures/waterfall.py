"""From evaluation mode to training mode: the levels of a metric, and the terms between them."""

from __future__ import annotations

import json
import math
from typing import Any, Literal

import altair as alt
import pandas as pd

from bnstudy.analysis.figures.figure import WIDE, Chart, Figure, Layout, Panel, absent, arranged, data, title_lines
from bnstudy.analysis.figures.theme import INK, MUTED, PURPLE, TERM_COLOURS
from bnstudy.analysis.figures.units import Metric, listed, metric_of
from bnstudy.diagnosis.account import MEANINGS, MODES, PATH, change_text, level, level_text, metrics, term
from bnstudy.diagnosis.figures.by_layer import LETTER, even_ticks, shortened
from bnstudy.diagnosis.result import TERMS, Diagnosis

MOST_METRICS = 4
_COLOURS = TERM_COLOURS | {"other": PURPLE}
_ROW = 24


def waterfall_figure(diagnosis: Diagnosis) -> Figure:
    """Each metric's way from evaluation mode by bessel, lag, pooling and noise to batch statistics, and on to training mode.

    Args:
        diagnosis: any.

    Returns:
        The figure; without a chart where no metric is a number in any mode.

    Source: DESIGN.md, section 2, "Gap".
    """
    name, title = "waterfall", "From evaluation mode to training mode"
    every = metrics(diagnosis)
    frames = {metric: steps(diagnosis, metric) for metric in every}
    usable = [metric for metric in every if frames[metric][["start", "end"]].notna().all(axis=1).any()]
    if not usable:
        return absent(name, title, "metrics", "No metric is a finite number in any mode, so there is no way to draw.")
    shown = usable[:MOST_METRICS]

    # Fonts that stand in for the one that was measured may be wider, bold ones most.
    margin = 2 * max(len(text) for metric in shown for text in frames[metric]["text"])

    def draw(layout: Layout) -> Chart:
        panels = [_panel(frames[metric], diagnosis, metric_of(metric), layout) for metric in shown]
        return arranged(panels, 1).properties(padding={"left": 4, "top": 4, "bottom": 4, "right": int(margin)})

    missing = [metric_of(metric).label for metric in shown if frames[metric]["start"].isna().any()]
    caption = (
        "Levels of the metric (dots) and the terms between them (bars), same weights and same batches. Each term is the "
        "level above it less the level below: read upwards, the terms lead from training mode to evaluation mode. "
        "bessel: the constant that the convention chose; lag: what the moving average stored beside what these batches say; "
        "pooling: the variance of the batch means; noise: the batch’s own, which no stored constant removes; other: "
        "dropout and its like, which are not BatchNorm’s. "
        + ("Error bars of terms are ± one standard error, paired over batches; the error of a level, in its text, is "
           "larger, since all levels share the luck of these batches."
           if any(frames[metric]["low"].notna().any() for metric in shown)
           else "One batch gives no standard errors.")
        + (f" Not everything of {listed(missing)} is a finite number; what is not is left out." if missing else "")
        + (f" {len(usable) - len(shown)} more metrics are in the table." if len(usable) > len(shown) else "")
    )  # fmt: skip
    return Figure(name, title, "metrics", draw, caption, " ".join(_described(diagnosis, metric) for metric in shown))


def steps(diagnosis: Diagnosis, metric: str) -> pd.DataFrame:
    """A row a level and term, from evaluation mode down to training mode.

    Args:
        diagnosis: any.
        metric: one of its metrics.

    Returns:
        row, key, start and end (where a bar runs from and to; equal for a level; NaN where not known), value (of the level
        or term), low and high (of the bar's start, ± the term's error), text; in the metric's shown units.
    """
    factor = metric_of(metric).factor
    levels = {key: level(diagnosis, metric, key).value for key in MODES}
    terms = {key: term(diagnosis, metric, key) for key in (*TERMS, "other")}
    # The ladder from below, and from above where something between is missing.
    after = dict.fromkeys(PATH, math.nan)
    rung = levels["batch"]
    for key in reversed(TERMS):
        after[key] = rung
        rung = rung + terms[key].value
    rung = levels["own"]
    for key in TERMS:
        rung = rung - terms[key].value
        after[key] = rung if math.isnan(after[key]) else after[key]
    after["other"] = levels["train"]
    rows = []
    for row, key in enumerate(PATH):
        if key in MODES:
            one = level(diagnosis, metric, key)
            start = end = one.value
            low = high = math.nan
            text = level_text(one, metric)
        else:
            one = terms[key]
            end = after[key]
            start = end + one.value
            spread = one.error if one.error > 0 else math.nan
            low, high = start - spread, start + spread
            text = change_text(one, metric)
        numbers = [factor * number for number in (start, end, one.value, low, high)]
        rows.append((row, key, *numbers, text if text != "–" else "not a number"))
    frame = pd.DataFrame(rows, columns=["row", "key", "start", "end", "value", "low", "high", "text"])
    return frame.replace([math.inf, -math.inf], math.nan)


def _panel(frame: pd.DataFrame, diagnosis: Diagnosis, metric: Metric, layout: Layout) -> Panel:
    wide = layout == WIDE
    names = [_row_name(key, wide) for key in frame["key"]]
    ends = frame[["start", "end", "low", "high"]].min().min(), frame[["start", "end", "low", "high"]].max().max()
    room = (ends[1] - ends[0]) * 0.06 or max(abs(ends[0]), 1e-6) * 1e-3
    scale_ends = float(ends[0] - room), float(ends[1] + room)
    scale = alt.Scale(domain=list(scale_ends), nice=False, zero=False)
    title = metric.axis(shortened(metric.label, 60 if wide else 36), level=True)
    width = 440 if wide else 88
    axis = alt.Axis(values=_ticks(*scale_ends, width), labelExpr="format(datum.value, '~g')", labelFlush=False)

    def x(field: str) -> alt.X:
        return alt.X(f"{field}:Q", title=title, scale=scale, axis=axis)

    rows = alt.Axis(values=list(range(len(names))), labelExpr=f"{json.dumps(names)}[datum.value]", labelLimit=0, ticks=False,
                    domain=False, grid=False, labelOverlap=False, labelColor=INK,
                    minExtent=int(LETTER * max(map(len, names))) + 6)  # fmt: skip
    places = alt.Scale(domain=[len(names) - 0.4, -0.6], nice=False)

    def y(field: str) -> alt.Y:
        return alt.Y(f"{field}:Q", title=None, scale=places, axis=rows)

    known = frame[frame["start"].notna() & frame["end"].notna()]
    levels, terms = known[known["key"].isin(MODES)], known[~known["key"].isin(MODES)]
    boxes = terms.assign(top=terms["row"] - 0.3, bottom=terms["row"] + 0.3)
    colour = alt.Color("key:N", legend=None,
                       scale=alt.Scale(domain=list(_COLOURS), range=list(_COLOURS.values())))  # fmt: skip
    bar = alt.Chart(data(boxes)).mark_rect(stroke=INK, strokeWidth=0.4)
    layers: list[alt.Chart] = [
        alt.Chart(data(_joints(known))).mark_rule(color=MUTED, strokeWidth=0.8, strokeDash=[2, 2])
        .encode(x=x("at"), y=y("row"), y2="until:Q"),
        bar.encode(x=x("start"), x2="end:Q", y=y("top"), y2="bottom:Q",
                   color=colour),
        alt.Chart(data(boxes)).mark_rule(color=INK, strokeWidth=1.4)
        .encode(x=x("start"), y=y("top"), y2="bottom:Q"),
        alt.Chart(data(terms[terms["low"].notna()])).mark_rule(color=INK, strokeWidth=1.2)
        .encode(x=x("low"), x2="high:Q", y=y("row")),
        alt.Chart(data(levels)).mark_point(filled=True, color=INK, size=64, opacity=1).encode(x=x("start"), y=y("row")),
    ]  # fmt: skip
    weights: tuple[tuple[pd.DataFrame, Literal["bold", "normal"]], ...] = (
        (frame[frame["key"].isin(MODES)], "bold"),
        (frame[~frame["key"].isin(MODES)], "normal"),
    )
    for part, weight in weights:
        text = alt.Chart(data(part[["row", "text"]])).mark_text(align="left", baseline="middle", color=INK, fontSize=11,
                                                                fontWeight=weight)  # fmt: skip
        layers.append(text.encode(x=alt.value(width + 10), y=y("row"), text="text:N"))
    gap = change_text(term(diagnosis, metric.name, "gap"), metric.name)
    subtitle = f"gap, the sum of its four terms: {gap}" if gap != "–" else "the gap is not a number"
    chart: Panel = alt.layer(*layers).properties(
        title=title_lines(shortened(metric.label, 80 if wide else 40), subtitle), width=width, height=_ROW * len(names)
    )
    return chart


def _ticks(low: float, high: float, width: int) -> list[float]:
    """As many ticks as have room for their labels."""
    for most in (7, 6, 5, 4, 3, 2):
        ticks = even_ticks(low, high, most)
        if sum(LETTER * len(f"{tick:g}") + 12 for tick in ticks) <= width:
            return ticks
    return ticks[:1]


def _joints(known: pd.DataFrame) -> pd.DataFrame:
    """Lines that join each row to the next one where both meet at a level."""
    found = []
    for (_, first), (_, second) in zip(known.iloc[:-1].iterrows(), known.iloc[1:].iterrows(), strict=True):
        if second["row"] == first["row"] + 1:
            found.append({"row": first["row"], "until": second["row"], "at": first["end"]})
    return pd.DataFrame(found, columns=["row", "until", "at"])


def _row_name(key: str, wide: bool) -> str:
    if key in MODES:
        return MODES[key]
    return f"{key}: {MEANINGS[key]}" if wide else key


def _described(diagnosis: Diagnosis, metric: str) -> str:
    said: list[Any] = [f"{name} {level_text(level(diagnosis, metric, key), metric)}" for key, name in MODES.items()]
    said += [f"{key} {change_text(term(diagnosis, metric, key), metric)}" for key in (*TERMS, "gap", "other")]
    return f"Waterfall chart of {metric_of(metric).label}: {', '.join(said)}."
