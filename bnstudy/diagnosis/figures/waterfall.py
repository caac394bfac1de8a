"""From evaluation to training mode: the levels of a metric, and the terms between them."""

from __future__ import annotations

import json
import math

import altair as alt
import pandas as pd

from bnstudy.analysis.figures.figure import WIDE, Chart, Figure, Layout, Panel, absent, arranged, data, title_lines
from bnstudy.analysis.figures.theme import INK, MUTED, PURPLE, TERM_COLOURS
from bnstudy.analysis.wording import listed
from bnstudy.diagnosis.figures.by_layer import LETTER, even_ticks, shortened
from bnstudy.diagnosis.result import MODES, PATH, TERMS, Diagnosis
from bnstudy.metric import metric_of

MOST_METRICS = 4
_COLOURS = TERM_COLOURS | {"other": PURPLE}
_ROW = 24
_ROWS = ("own", *TERMS, "batch", "other", "train")
"""From evaluation to training mode: each term is the level above it less the level below."""


def waterfall_figure(diagnosis: Diagnosis) -> Figure:
    """Each metric's way from evaluation mode by its terms to batch statistics, and on to training mode.

    Without a chart where no metric is a number in any mode.

    Source: docs/method.md, "The gap and its terms".
    """
    name, title = "waterfall", "From evaluation mode to training mode"
    frames = {metric: steps(diagnosis, metric) for metric in diagnosis.metrics}
    usable = [metric for metric, frame in frames.items() if frame[["start", "end"]].notna().all(axis=1).any()]
    if not usable:
        return absent(name, title, "metrics", "No metric is a finite number in any mode, so there is no way to draw.")
    shown = usable[:MOST_METRICS]
    # Fonts that stand in for the one that was measured may be wider, bold ones most.
    margin = 2 * max(len(text) for metric in shown for text in frames[metric]["text"])

    def draw(layout: Layout) -> Chart:
        panels = [_panel(frames[metric], diagnosis, metric, layout) for metric in shown]
        return arranged(panels, 1).properties(padding={"left": 4, "top": 4, "bottom": 4, "right": int(margin)})

    missing = [metric_of(metric).label for metric in shown if frames[metric]["start"].isna().any()]
    if any(frames[metric]["low"].notna().any() for metric in shown):
        errors = (
            "Error bars of terms are ± one standard error, paired over batches; the error of a level, in its text, is "
            "larger, since all levels share the luck of these batches."
        )
    else:
        errors = "One batch gives no standard errors."
    caption = (
        "Levels of the metric (dots) and the terms between them (bars), same weights and same batches. Each term is the "
        "level above it less the level below: read upwards, the terms lead from training mode to evaluation mode. bessel: "
        "the constant that the convention chose; lag: what the moving average stored beside what these batches say; "
        "pooling: the variance of the batch means; noise: the batch’s own, which no stored constant removes; other: "
        f"dropout and its like, which are not BatchNorm’s. {errors}"
        + (f" Not everything of {listed(missing)} is a finite number; what is not is left out." if missing else "")
        + (f" {len(usable) - len(shown)} more metrics are in the table." if len(usable) > len(shown) else "")
    )
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
    levels = {key: diagnosis.level(metric, key) for key in MODES}
    terms = {key: diagnosis.term(metric, key) for key in (*TERMS, "other")}
    # The ladder from below, and from above where something between is missing.
    after, rung = {"other": levels["train"].value}, levels["batch"].value
    for key in reversed(TERMS):
        after[key], rung = rung, rung + terms[key].value
    rung = levels["own"].value
    for key in TERMS:
        rung = rung - terms[key].value
        after[key] = rung if math.isnan(after[key]) else after[key]
    rows = []
    for row, key in enumerate(_ROWS):
        number = levels[key] if key in MODES else terms[key]
        end = number.value if key in MODES else after[key]
        start = end if key in MODES else end + number.value
        spread = math.nan if key in MODES or not number.error > 0 else number.error
        text = number.level(metric) if key in MODES else number.change(metric)
        numbers = [metric_of(metric).factor * part for part in (start, end, number.value, start - spread, start + spread)]
        rows.append((row, key, *numbers, text if text != "–" else "not a number"))
    frame = pd.DataFrame(rows, columns=["row", "key", "start", "end", "value", "low", "high", "text"])
    return frame.replace([math.inf, -math.inf], math.nan)


def _panel(frame: pd.DataFrame, diagnosis: Diagnosis, metric: str, layout: Layout) -> Panel:
    wide, shown = layout == WIDE, metric_of(metric)
    names = [MODES.get(key) or (f"{key}: {PATH[key].cause}" if wide else key) for key in frame["key"]]
    numbers = frame[["start", "end", "low", "high"]]
    low, high = numbers.min().min(), numbers.max().max()
    room = (high - low) * 0.06 or max(abs(low), 1e-6) * 1e-3
    scale = alt.Scale(domain=[float(low - room), float(high + room)], nice=False, zero=False)
    title = shown.axis(shortened(shown.label, 60 if wide else 36), level=True)
    width = 440 if wide else 88
    ticks = _ticks(float(low - room), float(high + room), width)
    axis = alt.Axis(values=ticks, labelExpr="format(datum.value, '~g')", labelFlush=False)
    rows = alt.Axis(values=list(range(len(names))), labelExpr=f"{json.dumps(names)}[datum.value]", labelLimit=0, ticks=False,
                    domain=False, grid=False, labelOverlap=False, labelColor=INK,
                    minExtent=int(LETTER * max(map(len, names))) + 6)  # fmt: skip
    places = alt.Scale(domain=[len(names) - 0.4, -0.6], nice=False)

    def x(field: str) -> alt.X:
        return alt.X(f"{field}:Q", title=title, scale=scale, axis=axis)

    def y(field: str) -> alt.Y:
        return alt.Y(f"{field}:Q", title=None, scale=places, axis=rows)

    known = frame[frame["start"].notna() & frame["end"].notna()]
    is_level = known["key"].isin(MODES)
    levels, terms = known[is_level], known[~is_level]
    boxes = alt.Chart(data(terms.assign(top=terms["row"] - 0.3, bottom=terms["row"] + 0.3)))
    follows = known["row"].shift(-1) == known["row"] + 1
    joints = known[follows].assign(until=known["row"] + 1)
    colour = alt.Color("key:N", legend=None, scale=alt.Scale(domain=list(_COLOURS), range=list(_COLOURS.values())))
    layers = [
        alt.Chart(data(joints)).mark_rule(color=MUTED, strokeWidth=0.8, strokeDash=[2, 2])
        .encode(x=x("end"), y=y("row"), y2="until:Q"),
        boxes.mark_rect(stroke=INK, strokeWidth=0.4)
        .encode(x=x("start"), x2="end:Q", y=y("top"), y2="bottom:Q", color=colour),
        boxes.mark_rule(color=INK, strokeWidth=1.4).encode(x=x("start"), y=y("top"), y2="bottom:Q"),
        alt.Chart(data(terms[terms["low"].notna()])).mark_rule(color=INK, strokeWidth=1.2)
        .encode(x=x("low"), x2="high:Q", y=y("row")),
        alt.Chart(data(levels)).mark_point(filled=True, color=INK, size=64, opacity=1).encode(x=x("start"), y=y("row")),
    ]  # fmt: skip
    for part, bold in ((frame[frame["key"].isin(MODES)], True), (frame[~frame["key"].isin(MODES)], False)):
        text = alt.Chart(data(part[["row", "text"]])).mark_text(
            align="left", baseline="middle", color=INK, fontSize=11, fontWeight="bold" if bold else "normal"
        )
        layers.append(text.encode(x=alt.value(width + 10), y=y("row"), text="text:N"))
    gap = diagnosis.term(metric, "gap").change(metric)
    subtitle = f"gap, the sum of its four terms: {gap}" if gap != "–" else "the gap is not a number"
    heading = title_lines(shortened(shown.label, 80 if wide else 40), subtitle)
    chart: Panel = alt.layer(*layers).properties(title=heading, width=width, height=_ROW * len(names))
    return chart


def _ticks(low: float, high: float, width: int) -> list[float]:
    """As many ticks as have room for their labels."""
    for most in (7, 6, 5, 4, 3, 2):
        ticks = even_ticks(low, high, most)
        if sum(LETTER * len(f"{tick:g}") + 12 for tick in ticks) <= width:
            return ticks
    return ticks[:1]


def _described(diagnosis: Diagnosis, metric: str) -> str:
    parts = [f"{name} {diagnosis.level(metric, key).level(metric)}" for key, name in MODES.items()]
    parts += [f"{key} {diagnosis.term(metric, key).change(metric)}" for key in PATH]
    return f"Waterfall chart of {metric_of(metric).label}: {', '.join(parts)}."
