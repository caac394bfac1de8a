"""What it costs to store another variance than the total one, on the same weights."""

from __future__ import annotations

import altair as alt
import pandas as pd

from bnstudy.analysis.comparable import STORED
from bnstudy.analysis.figures.figure import Chart, Figure, Layout, Panel, absent, arranged, data, title_lines
from bnstudy.analysis.figures.panels import MOST_PANELS, Across, across, labels, left_out, panels_of, position, seeds_phrase
from bnstudy.analysis.figures.theme import MUTED, arm_style
from bnstudy.analysis.subject import Subject, Tables
from bnstudy.analysis.wording import amount
from bnstudy.metric import metric_of

ARMS = {"ema_unbiased": ("unbiased − total", "paper"), "ema_biased": ("biased − total", "consistent_biased")}
"""Labels of the comparisons, and the convention whose colour they have."""


def storage_rows(contrasts: pd.DataFrame, metric: str, split: str) -> pd.DataFrame:
    """Stored variances against the total one, on weights that the biased variance normalised, else on those that there are.

    There the total variance is what training divides by. Where the unbiased one normalises, that is k = m/(m-1) times as
    much, which no convention stores: a mean over both trainings hides what each of them says.
    """
    rows = contrasts[(contrasts["kind"] == "storage") & (contrasts["statistic"] == STORED)]
    rows = rows[(rows["metric"] == metric) & (rows["split"] == split) & (rows["reference"] == "ema_total")]
    rank = rows["weights"].map({"biased": 0, "both": 1, "unbiased": 2})
    cell = [column for column in rows.columns[: list(rows.columns).index("arm")] if column != "weights"]
    best = rank.groupby([rows[column] for column in (*cell, "arm")], dropna=False).transform("min") if len(rows) else rank
    return rows[rank == best]


def normalised(rows: pd.DataFrame) -> str:
    """Which variance normalised the training of the rows."""
    return f"the {' or the '.join(sorted(rows['weights'].unique()))} variance normalising"


def storage_figure(tables: Tables, subject: Subject, metric: str) -> Figure:
    """A metric under the unbiased and the biased stored variance less that under the total one, by batch size.

    Args:
        tables: needs `contrasts`.
        subject: what the study asks.
        metric: which metric.

    Returns:
        The figure; without a chart where nothing was compared.

    Source: docs/method.md, "Contrasts and verdicts".
    """
    shown = metric_of(metric)
    name, title = f"storage_{shown.name}", f"What another stored variance than the total one costs in {shown.label}"
    contrasts = tables.get("contrasts", pd.DataFrame())
    rows = storage_rows(contrasts, metric, "test") if len(contrasts) else contrasts
    if rows.empty or rows["difference"].isna().all():
        why = f"No stored variances were compared in {shown.label}: that needs a network with BatchNorm."
        return absent(name, title, "contrasts", why)
    rows = rows.loc[rows["difference"].notna()]
    axis = across(rows, subject.varying)
    frame = pd.DataFrame(
        {
            "arm": rows["arm"].map({key: label for key, (label, _) in ARMS.items()}).astype(object),
            "panel": labels(rows, axis, subject.varying).astype(object),
            "x": position(rows, axis.column),
            "mean": rows["difference"] * shown.factor,
            "low": rows["ci_low"] * shown.factor,
            "high": rows["ci_high"] * shown.factor,
        }
    ).sort_values("x")

    def draw(layout: Layout) -> Chart:
        panels = list(panels_of(frame))
        columns = layout.columns(len(panels))
        what = shown.axis(f"{shown.label} − that under total")
        return arranged([_panel(part, label, axis, what, layout, columns) for label, part in panels], columns)

    worst = rows.sort_values("difference", key=abs).iloc[-1]
    caption = (
        f"{shown.axis(shown.label)} on the test split with a stored variance of the named kind, less that with the total "
        f"one: the same weights, both moving averages. The grey line is no difference. Mean over {seeds_phrase(rows['n'])}, "
        f"trained with {normalised(rows)}; bars are 95 % t intervals over seeds. Every panel has its own "
        "vertical scale." + left_out(frame["panel"].nunique(), MOST_PANELS)
    )
    described = (
        f"Line chart by {axis.title}; the largest difference is {amount(float(worst['difference']), shown)} "
        f"({ARMS[str(worst['arm'])][0]}, batch size {worst['batch_size']})."
    )
    return Figure(name, title, "contrasts", draw, caption, described)


def _panel(part: pd.DataFrame, label: str, axis: Across, title: str, layout: Layout, columns: int) -> Panel:
    styles = [arm_style(convention) for _, convention in ARMS.values()]
    names = [label for label, _ in ARMS.values()]
    legend = alt.Legend(title=None, orient="top", columns=2, direction="horizontal")
    colour = alt.Color("arm:N", scale=alt.Scale(domain=names, range=[colour for colour, _ in styles]), legend=legend)
    shape = alt.Shape("arm:N", scale=alt.Scale(domain=names, range=[shape for _, shape in styles]), legend=legend)
    x, y = alt.X("x:Q", scale=axis.scale(), axis=axis.axis()), alt.Y("mean:Q", title=title, scale=alt.Scale(zero=True))
    base = alt.Chart(data(part.drop(columns="panel")))
    zero = alt.Chart(alt.InlineData(values=[{"y": 0}])).mark_rule(color=MUTED, strokeWidth=1).encode(y=alt.Y("y:Q"))
    rule = base.transform_filter("datum.low !== null").mark_rule(strokeWidth=1.4)
    return alt.layer(
        zero,
        rule.encode(x=x, y=alt.Y("low:Q", title=title), y2="high:Q", color=colour),
        base.mark_line(strokeWidth=1.2, opacity=0.75).encode(x=x, y=y, color=colour),
        base.mark_point(filled=True, size=42, opacity=1).encode(x=x, y=y, color=colour, shape=shape),
    ).properties(title=title_lines(label), width=layout.width(columns), height=220)
