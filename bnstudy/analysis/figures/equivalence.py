"""Differences between conventions beside the margin that counts as none."""

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
from bnstudy.analysis.figures.theme import BAND, MUTED, NULL_ARM, NULL_REFERENCE, arm_style, ordered_arms
from bnstudy.analysis.statistics import VERDICTS
from bnstudy.analysis.subject import Subject, Tables
from bnstudy.analysis.wording import amount
from bnstudy.metric import Metric

_SHAPES = dict(zip(VERDICTS, ("triangle-up", "circle", "diamond", "square", "cross"), strict=True))


def equivalence_rows(contrasts: pd.DataFrame, subject: Subject) -> pd.DataFrame:
    """The comparisons to draw: the declared family and the null arm; without a family, conventions against `paper`."""
    asked = (
        (contrasts["metric"] == subject.metric.name)
        & (contrasts["split"] == subject.split)
        & (contrasts["statistic"] == subject.statistic)
    )
    null = (contrasts["arm"] == NULL_ARM) & (contrasts["reference"] == NULL_REFERENCE)
    family = contrasts["in_family"]
    if not family.any():
        family = (
            (contrasts["reference"] == "paper") & ~contrasts["arm"].str.startswith("norm=") & (contrasts["arm"] != NULL_ARM)
        )
    return contrasts[asked & (family | null)]


def equivalence_figure(tables: Tables, subject: Subject) -> Figure:
    """Paired differences with their 1-2α intervals, the 1-α intervals behind them, and the band of the margin.

    Args:
        tables: needs `contrasts`.
        subject: what the study asks.

    Returns:
        The figure; without a chart where nothing was compared.

    Source: Schuirmann 1987: two one-sided tests at level α succeed where the 1-2α interval lies inside the margin.
    """
    name, title = "equivalence", f"Differences in {subject.what}"
    contrasts = tables.get("contrasts", pd.DataFrame())
    if contrasts.empty:
        return absent(name, title, "contrasts", "Nothing was compared: a comparison needs two arms in one cell.")
    rows = equivalence_rows(contrasts, subject)
    known = rows[rows["difference"].notna()]
    if known.empty:
        why = (
            f"No comparison of {subject.what} has a pair of seeds to show: both arms must have finished, and only a few "
            f"seeds may have diverged."
        )
        return absent(name, title, "contrasts", why)
    axis = across(known, subject.varying)
    frame = _prepared(known, axis, subject)
    missing = len(rows) - len(known)

    def draw(layout: Layout) -> Chart:
        panels = list(panels_of(frame))
        columns = layout.columns(len(panels))
        shown = [_panel(part, frame, label, axis, subject, layout, columns) for label, part in panels]
        return arranged(shown, columns)

    wide = f"{100 * (1 - 2 * subject.alpha):g} %"
    interval = (
        f"Thick lines are {wide} intervals over seeds, thin ones {100 * (1 - subject.alpha):g} %. Equivalence needs the "
        f"thick line inside the margin; in a declared family, whose p-values Holm's method adjusts, it may need more. "
        if known["ci_low"].notna().any()
        else "Without at least two seeds there are no intervals. "
    )
    margin = (
        f"The band is the declared margin, ±{amount(subject.margin, subject.metric)}. "
        if subject.margin is not None
        else "No margin was declared, so no band is drawn and nothing can be called equivalent. "
    )
    null = "The grey arm is the null arm: one function computed in two ways, whose differences are rounding only. "
    caption = (
        f"Mean paired difference in {subject.metric.axis(subject.what)}, arm − reference, over {seeds_phrase(known['n'])}. "
        f"{interval}{margin}{null if (known['arm'] == NULL_ARM).any() else ''}Shapes show the verdicts."
        f"{f' {missing} comparisons without a pair of seeds are not drawn.' if missing else ''}"
        + left_out(frame["panel"].nunique(), MOST_PANELS)
    )
    return Figure(name, title, "contrasts", draw, caption, _alt(known, subject.metric))


def _named(arm: str, reference: str) -> str:
    return "null arm: rounding only" if arm == NULL_ARM and reference == NULL_REFERENCE else f"{arm} − {reference}"


def _prepared(known: pd.DataFrame, axis: Across, subject: Subject) -> pd.DataFrame:
    factor = subject.metric.factor
    ends = ("difference", "ci_low", "ci_high", "equivalence_low", "equivalence_high")
    return pd.DataFrame(
        {
            "arm_name": known["arm"].astype(object),
            "contrast": [_named(str(row.arm), str(row.reference)) for row in known.itertuples()],
            "panel": labels(known, axis, subject.varying).astype(object),
            "x": position(known, axis.column),
            "verdict": known["verdict"].astype(object),
            **{end: known[end] * factor for end in ends},
        }
    )


def _panel(
    part: pd.DataFrame, frame: pd.DataFrame, label: str, axis: Across, subject: Subject, layout: Layout, columns: int
) -> Panel:
    styles = {row.contrast: arm_style(str(row.arm_name))[0] for row in frame.itertuples()}
    ranks = ordered_arms(frame["arm_name"].tolist())
    contrasts = list(
        frame.sort_values("arm_name", key=lambda names: names.map(ranks.index), kind="stable")["contrast"].unique()
    )
    sizes = sorted(part["x"].unique())
    title = subject.metric.axis("difference")
    legend = alt.Legend(title=None, orient="top", columns=min(2, layout.legend_columns), direction="horizontal")
    colour = alt.Color(
        "contrast:N", scale=alt.Scale(domain=contrasts, range=[styles[name] for name in contrasts]), legend=legend
    )
    verdicts = [verdict for verdict in VERDICTS if verdict in set(frame["verdict"])]
    shape = alt.Shape(
        "verdict:N",
        scale=alt.Scale(domain=verdicts, range=[_SHAPES[verdict] for verdict in verdicts]),
        legend=alt.Legend(
            title=None, orient="bottom", columns=5 if layout.most > 1 else 2, direction="horizontal", symbolFillColor=MUTED
        ),
    )
    y = alt.Y("x:O", title=axis.title, sort=sizes, axis=alt.Axis(format="~g", grid=True, bandPosition=0))
    offset = alt.YOffset("contrast:N", sort=contrasts, scale=alt.Scale(paddingOuter=0.6))
    base = alt.Chart(data(part.drop(columns=["panel", "arm_name"])))
    here = base.transform_filter("datum.ci_low !== null")
    thin = here.mark_rule(strokeWidth=1).encode(
        x=alt.X("ci_low:Q", title=title, axis=alt.Axis(tickCount=5)), x2="ci_high:Q", y=y, yOffset=offset, color=colour
    )
    thick = (
        base.transform_filter("datum.equivalence_low !== null")
        .mark_rule(strokeWidth=3.2)
        .encode(
            x=alt.X("equivalence_low:Q", title=title, axis=alt.Axis(tickCount=5)),
            x2="equivalence_high:Q",
            y=y,
            yOffset=offset,
            color=colour,
        )
    )
    dot = base.mark_point(filled=True, size=46, opacity=1).encode(
        x=alt.X("difference:Q", title=title, axis=alt.Axis(tickCount=5)), y=y, yOffset=offset, color=colour, shape=shape
    )
    zero = alt.Chart(alt.InlineData(values=[{"x": 0}])).mark_rule(color=MUTED).encode(x="x:Q")
    layers: list[alt.Chart] = [zero, thin, thick, dot]
    if subject.margin is not None:
        edge = subject.margin * subject.metric.factor
        band = alt.Chart(alt.InlineData(values=[{"low": -edge, "high": edge}])).mark_rect(color=BAND, opacity=1)
        layers.insert(0, band.encode(x="low:Q", x2="high:Q"))
    height = max(90, len(sizes) * (13 * len(contrasts) + 10))
    return alt.layer(*layers).properties(
        title=title_lines(label), width=layout.width(columns, 50 if columns > 1 else 58), height=height
    )


def _alt(known: pd.DataFrame, metric: Metric) -> str:
    counts = known["verdict"].value_counts()
    verdicts = ", ".join(f"{counts[verdict]} {verdict}" for verdict in VERDICTS if verdict in counts)
    ends = f"{amount(float(known['difference'].min()), metric)} to {amount(float(known['difference'].max()), metric)}"
    return f"Dot plot of {len(known)} paired differences, from {ends}: {verdicts}."
