"""Training curves: the metric under the batch's own statistics and under each convention's, epoch by epoch."""

from __future__ import annotations

import altair as alt
import pandas as pd

from bnstudy.analysis.cells import arms_of
from bnstudy.analysis.figures.figure import Chart, Figure, Layout, Panel, absent, arranged, data, title_lines
from bnstudy.analysis.figures.panels import across, labels, panels_of, position, seeds_phrase
from bnstudy.analysis.figures.theme import arm_colour, arm_label, ordered_arms
from bnstudy.analysis.statistics import mean_interval
from bnstudy.analysis.subject import Subject, Tables
from bnstudy.analysis.wording import amount, plural
from bnstudy.batchnorm.conventions import ARMS

MOST_GROUPS, MOST_SIZES = 4, 3
_MODES = ("inference (own statistic)", "training mode (batch statistics)")


def curves_figure(tables: Tables, subject: Subject) -> Figure:
    """Primary metric by epoch, in training mode and in inference, at the smallest, the middle and the largest batch size.

    Args:
        tables: needs `metrics` and `generalisation`, which says which conventions a job stands for.
        subject: what the study asks.

    Returns:
        The figure; without a chart where no epoch was measured.
    """
    shown = subject.metric
    name, title = "curves", f"Training curves: {subject.split} {shown.label}"
    metrics, owners = tables.get("metrics", pd.DataFrame()), tables.get("generalisation", pd.DataFrame())
    if metrics.empty or owners.empty or shown.name not in metrics:
        return absent(name, title, "metrics", f"No epoch's {shown.label} was recorded, so there are no curves.")
    rows = metrics[(metrics["split"] == subject.split) & metrics[shown.name].notna()]
    if rows.empty:
        return absent(name, title, "metrics", "Every seed diverged before its first record, so there are no curves.")
    axis = across(rows, subject.varying)
    sizes = _three(sorted(position(rows, axis.column).unique()))
    rows = rows[position(rows, axis.column).isin(sizes)]
    rows = rows.assign(group=labels(rows, axis, subject.varying))
    groups = list(dict.fromkeys(rows["group"]))
    rows = rows[rows["group"].isin(groups[:MOST_GROUPS])]
    what = axis.column.replace("_", " ")
    rows = rows.assign(
        size=[f"{what} {value:g}" for value in position(rows, axis.column)], order=position(rows, axis.column)
    )
    frame = _averaged(rows, _owned(owners), shown.name, shown.factor)
    if frame.empty:
        return absent(name, title, "metrics", "No convention of these runs has a record by epoch, so there are no curves.")
    arms = ordered_arms(frame["convention"].tolist())
    epochs = int(frame["epoch"].max())

    def draw(layout: Layout) -> Chart:
        columns = layout.columns(len(sizes), 3)
        panels = [
            _panel(part, size, group, arms, shown.axis(shown.label, level=True), epochs, layout, columns)
            for group, of_group in panels_of(frame, "group")
            for size, part in panels_of(of_group.sort_values("order", kind="stable"), "size")
        ]
        return arranged(panels, columns)

    last = frame[frame["epoch"] == epochs]
    spread = [amount(float(end) / shown.factor, shown, unit=False) for end in (last["mean"].min(), last["mean"].max())]
    caption = (
        f"{shown.axis(f'{subject.split} {shown.label}', level=True)} at the end of each epoch with "
        f"frozen weights: solid under the statistic that the convention stored, dashed under the batch's, as in training. "
        f"Mean over {seeds_phrase(frame['seeds'])}; bands are 95 % t intervals of the solid lines. Conventions that "
        f"normalise alike share their dashed line."
        f"{' A baseline has one line.' if any(arm not in ARMS for arm in arms) else ''} "
        f"Shown: {what} {', '.join(f'{size:g}' for size in sizes)}"
        f"{f', and {MOST_GROUPS} of {len(groups)} groups' if len(groups) > MOST_GROUPS else ''}; the data table has all."
    )
    ends = f"{' and '.join(spread)} {shown.level_unit}".rstrip()
    described = f"Line charts over {plural(epochs, 'epoch')}; after the last one, {shown.label} lies between {ends}."
    return Figure(name, title, "metrics", draw, caption[:1].upper() + caption[1:], described)


def _three(values: list[float]) -> list[float]:
    return values if len(values) <= MOST_SIZES else [values[0], values[len(values) // 2], values[-1]]


def _owned(owners: pd.DataFrame) -> pd.DataFrame:
    """Which statistic belongs to which arm of which job."""
    pairs = owners[["job", "convention", "norm"]].drop_duplicates()
    own = [ARMS[name].own_statistic if name in ARMS else "none" for name in pairs["convention"]]
    arm = arms_of(pairs)
    parts = [pd.DataFrame({"job": pairs["job"], "convention": arm, "statistic": own, "mode": _MODES[0]})]
    normal = pairs["norm"] == "batch"
    parts.append(pd.DataFrame({"job": pairs["job"], "convention": arm, "statistic": "batch", "mode": _MODES[1]})[normal])
    return pd.concat(parts)


def _averaged(rows: pd.DataFrame, owned: pd.DataFrame, metric: str, factor: float) -> pd.DataFrame:
    joined = rows.merge(owned, on=["job", "statistic"])
    rows_of = []
    keys = ["group", "order", "size", "convention", "mode", "epoch"]
    for values, part in joined.groupby(keys, sort=False):
        ends = [float(end[0]) * factor for end in mean_interval(part[[metric]].to_numpy())]
        rows_of.append((*values, *ends, len(part)))
    frame = pd.DataFrame(rows_of, columns=[*keys, "mean", "low", "high", "seeds"])
    return frame.assign(arm=frame["convention"].map(arm_label)) if len(frame) else frame


def _panel(
    part: pd.DataFrame, size: str, group: str, arms: list[str], title: str, epochs: int, layout: Layout, columns: int
) -> Panel:
    ticks = list(range(1, epochs + 1)) if epochs <= 10 else list(range(0, epochs + 1, max(1, -(-epochs // 50) * 5)))
    x = alt.X("epoch:Q", title="epoch", scale=alt.Scale(nice=False, zero=False),
              axis=alt.Axis(values=ticks, format="d", grid=False))  # fmt: skip
    y = alt.Y("mean:Q", title=title, scale=alt.Scale(zero=False))
    dash = alt.StrokeDash(
        "mode:N",
        scale=alt.Scale(domain=list(_MODES), range=[[1, 0], [4, 3]]),
        legend=alt.Legend(title=None, orient="bottom", columns=2 if layout.most > 1 else 1, direction="horizontal"),
    )
    colour = arm_colour(arms, layout.legend_columns)
    base = alt.Chart(data(part[["arm", "mode", "epoch", "mean", "low", "high"]]))
    own = base.transform_filter(alt.datum.mode == _MODES[0]).transform_filter("datum.low !== null")
    band = own.mark_area(opacity=0.13).encode(x=x, y=alt.Y("low:Q", title=title), y2="high:Q", color=colour)
    line = base.mark_line(strokeWidth=1.6).encode(x=x, y=y, color=colour, strokeDash=dash)
    dot = base.mark_point(filled=True, size=16, opacity=1).encode(x=x, y=y, color=colour)
    layers = [band, line, dot] if epochs <= 12 else [band, line]
    return alt.layer(*layers).properties(title=title_lines(size, group), width=layout.width(columns), height=180)
