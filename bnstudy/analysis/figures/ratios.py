"""The picture of the whole study: how much smaller or larger activations are at inference, layer by layer, beside theory."""

from __future__ import annotations

import altair as alt
import numpy as np
import pandas as pd

from bnstudy.analysis.figures.figure import Chart, Figure, Layout, Panel, absent, arranged, data, title_lines
from bnstudy.analysis.figures.panels import MOST_PANELS, Across, labels, left_out, panels_of
from bnstudy.analysis.figures.theme import MUTED, arm_colour, arm_label, arm_shape, ordered_arms
from bnstudy.analysis.statistics import mean_interval
from bnstudy.analysis.subject import Subject, Tables
from bnstudy.analysis.wording import plural
from bnstudy.batchnorm.conventions import CONVENTIONS

NO_LAYERS = "No layer was probed in these runs (the `layers` table is absent or empty)."
MOST_RATIO = 8.0
"""How far from 1 the axis reaches at most, either way; beyond it stands what is unstable."""


def convention_ratios(layers: pd.DataFrame) -> pd.DataFrame:
    """Rows of `layers` that say what a convention's own stored variance does, without the noise of its moving average.

    Returns:
        The rows of each convention's training under its population statistic, with a column `convention`.
    """
    parts = []
    for name, convention in CONVENTIONS.items():
        own = (layers["normalize"] == convention.normalize) & (layers["statistic"] == f"population_{convention.accumulate}")
        parts.append(layers[own & (layers["norm"] == "batch")].assign(convention=name))
    found: pd.DataFrame = pd.concat(parts, ignore_index=True)
    return found.query("0 < ratio < inf")


def distance_from_theory(layers: pd.DataFrame, first: int = 1, least: int = 4) -> pd.Series[float]:
    """|log(predicted/measured)| of every layer and convention, means over seeds.

    Args:
        layers: the `layers` table.
        first: index of the first layer to look at. Default: 1, since the first of all, 0, is right by construction.
        least: smallest m to look at. Default: 4, since theory says nothing of m = 2.
    """
    rows = convention_ratios(layers)
    rows = rows[(rows["layer_index"] >= first) & (rows["m"] >= least) & rows["predicted_ratio"].notna()]
    keys = [column for column in rows if column in ("job", "convention", "layer")]
    mean = rows.groupby(keys, sort=False)[["ratio", "predicted_ratio"]].mean()
    return (mean["predicted_ratio"] / mean["ratio"]).map(np.log).abs()


def ratio_figure(tables: Tables, subject: Subject) -> Figure:
    """Second moment of x̂ at inference over that in training by layer, a line a convention, theory dashed.

    Args:
        tables: needs `layers`.
        subject: what the study asks.

    Returns:
        The figure; without a chart where no layer was probed. Of networks of several depths the deepest are drawn.

    Source: docs/method.md, "Theory, layer by layer".
    """
    name, title = "ratio", "Are activations as large at inference as in training?"
    layers = tables.get("layers", pd.DataFrame())
    if layers.empty:
        return absent(name, title, "layers", NO_LAYERS)
    rows = convention_ratios(layers)
    if rows.empty:
        return absent(name, title, "layers", "No probed layer has a finite ratio at a population statistic to show.")
    deepest = rows["model_depth"].max() if "model_depth" in rows else None
    shown = rows if deepest is None else rows[rows["model_depth"] == deepest]
    across = Across("layer_index", tuple(float(index) for index in sorted(shown["layer_index"].unique())))
    varying = tuple(column for column in subject.varying if column != "model_depth")
    shown = shown.assign(panel=labels(shown, across, varying)).sort_values("batch_size", kind="stable")
    frame = _means(shown)
    arms = ordered_arms(frame["convention"].tolist())
    ends = _ends(frame)

    def draw(layout: Layout) -> Chart:
        panels = list(panels_of(frame))
        columns = layout.columns(len(panels))
        return arranged([_panel(part, label, arms, ends, layout, columns) for label, part in panels], columns)

    seeds = int(shown.groupby(["panel", "convention", "layer"])["seed"].nunique().max())
    distance = distance_from_theory(layers)
    near = (
        f" Over all layers but the first at m ≥ 4 the median distance from theory is {100 * float(distance.median()):.2g} %."
        if len(distance)
        else ""
    )
    which = f" Of the depths run, the deepest is drawn ({deepest:g} layers)." if deepest is not None else ""
    caption = (
        "Mean square of a layer's normalised activation at inference over that in training, for each convention's own "
        "stored variance (a pass over the training data: no moving average, no lag). At 1 inference is as training was; "
        "below, the stored variance is too large, above, too small. Solid: measured, mean over "
        f"{plural(seeds, 'seed')} with 95 % t intervals; dashed: theory from m and the measured m_eff, no parameter fitted."
        f"{near}{which}" + left_out(frame["panel"].nunique(), MOST_PANELS)
    )
    last = frame[frame["layer"] == frame["layer"].max()]
    ratios = ", ".join(f"{arm} {last.loc[last['convention'] == arm, 'mean'].median():.2f}" for arm in arms)
    described = f"Line chart of the ratio by layer for {', '.join(arms)}; in the last layer: {ratios} (medians of panels)."
    return Figure(name, title, "layers", draw, caption, described)


def _means(rows: pd.DataFrame) -> pd.DataFrame:
    found = []
    for (panel, convention, _), part in rows.groupby(["panel", "convention", "layer_index"], sort=False):
        mean, low, high = (float(end[0]) for end in mean_interval(np.log(part[["ratio"]].to_numpy())))
        expected = float(np.exp(np.log(part["predicted_ratio"]).mean())) if part["predicted_ratio"].notna().any() else np.nan
        found.append((panel, convention, int(part["layer_index"].iloc[0]) + 1, *np.exp([mean, low, high]), expected))
    frame = pd.DataFrame(found, columns=["panel", "convention", "layer", "mean", "low", "high", "theory"])
    return frame.assign(arm=frame["convention"].map(arm_label))


def _ends(frame: pd.DataFrame) -> list[float]:
    """The vertical axis: all that is measured, but no further than `MOST_RATIO` from 1."""
    low, high = float(frame["mean"].min()) / 1.1, float(frame["mean"].max()) * 1.1
    return [max(min(low, 0.9), 1 / MOST_RATIO), min(max(high, 1.1), MOST_RATIO)]


def _panel(part: pd.DataFrame, label: str, arms: list[str], ends: list[float], layout: Layout, columns: int) -> Panel:
    depth = int(part["layer"].max())
    ticks = list(range(1, depth + 1, max(1, -(-depth // 12))))
    x = alt.X("layer:Q", title="layer", scale=alt.Scale(domain=[0.7, depth + 0.3], nice=False),
              axis=alt.Axis(values=ticks, format="d", grid=False))  # fmt: skip
    scale = alt.Scale(type="log", domain=ends, nice=False, clamp=True)
    values = [value for value in (0.125, 0.25, 0.5, 0.7, 1, 1.4, 2, 4, 8) if ends[0] <= value <= ends[1]]
    axis = alt.Axis(values=values, format="~g")
    title = "inference / training"
    colour, shape = arm_colour(arms, layout.legend_columns), arm_shape(arms, layout.legend_columns)
    base = alt.Chart(data(part.drop(columns=["convention", "panel"])))
    one = alt.Chart(alt.InlineData(values=[{"y": 1}])).mark_rule(color=MUTED, strokeWidth=1)
    theory = base.transform_filter("datum.theory !== null").mark_line(strokeDash=[4, 3], strokeWidth=1.3)
    rule = base.transform_filter("datum.low !== null").mark_rule(strokeWidth=1.2)
    y = alt.Y("mean:Q", title=title, scale=scale, axis=axis)
    marks = [
        one.encode(y=alt.Y("y:Q", title=title, scale=scale, axis=axis)),
        theory.encode(x=x, y=alt.Y("theory:Q", title=title, scale=scale, axis=axis), color=colour),
        rule.encode(x=x, y=alt.Y("low:Q", title=title, scale=scale, axis=axis), y2="high:Q", color=colour),
        base.mark_line(strokeWidth=1.4).encode(x=x, y=y, color=colour),
        base.mark_point(filled=True, size=38, opacity=1).encode(x=x, y=y, color=colour, shape=shape),
    ]
    return alt.layer(*marks).properties(title=title_lines(label), width=layout.width(columns), height=230)
