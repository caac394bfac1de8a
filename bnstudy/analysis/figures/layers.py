"""What the probes saw in every layer: the collapse plot, and m_eff against m."""

from __future__ import annotations

import altair as alt
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bnstudy.analysis.figures.figure import Chart, Figure, Layout, Panel, absent, arranged, data, title_lines
from bnstudy.analysis.figures.panels import MOST_PANELS, across, labels, left_out, panels_of
from bnstudy.analysis.figures.theme import MUTED, SERIES, SHAPES
from bnstudy.analysis.statistics import mean_interval
from bnstudy.analysis.subject import Subject, Tables
from bnstudy.analysis.wording import plural
from bnstudy.batchnorm.conventions import CONVENTIONS

POWERS = {"paper": 1, "consistent_unbiased": 0, "consistent_biased": 0, "inverted": -1}
"""By which power of c = m/(m-1) a convention's eval/train ratio is multiplied to give q."""
_RIGHT_END = 2.0**16
"""Right end of the axis: beyond it q is 1 whatever m_eff is; where batch means hardly vary, m_eff has no end."""
_SHORT = "datum.value < 100000 ? format(datum.value, '~g') : format(datum.value, '.2~s')"
_NO_LAYERS = "No layer was probed in these runs (the `layers` table is absent or empty)."


def collapse_points(layers: pd.DataFrame) -> pd.DataFrame:
    """Each convention's measured ratio at a population statistic of its own kind, brought onto q by its power of c.

    Source: docs/method.md, "Theory, layer by layer": ratios q/c, q, q and c·q.
    """
    parts = []
    for name, convention in CONVENTIONS.items():
        if name not in POWERS:
            continue
        own = (layers["normalize"] == convention.normalize) & (layers["statistic"] == f"population_{convention.accumulate}")
        rows = layers[own & (layers["norm"] == "batch")]
        c = (rows["m"] / (rows["m"] - 1)) ** POWERS[name]
        parts.append(rows.assign(convention=name, q=rows["ratio"] * c, q_se=rows["ratio_se"] * c))
    return pd.concat(parts, ignore_index=True)


def collapse_figure(tables: Tables, subject: Subject) -> Figure:
    """Measured shift of the second moment of every layer, model and batch size against m_eff: one curve, if theory holds.

    Args:
        tables: needs `layers`.
        subject: what the study asks.

    Returns:
        The figure; without a chart where no layer was probed.

    Source: docs/method.md, "Theory, layer by layer".
    """
    name, title = "collapse", "Does one number, m_eff, explain every layer?"
    layers = tables.get("layers", pd.DataFrame())
    if layers.empty:
        return absent(name, title, "layers", _NO_LAYERS)
    points = collapse_points(layers)
    usable = points[np.isfinite(points["m_eff"]) & np.isfinite(points["q"]) & (points["m_eff"] > 1) & (points["m"] > 1)]
    if usable.empty:
        return absent(name, title, "layers", "No probed layer has a finite ratio at a population statistic to show.")
    frame = _layer_means(usable, subject)
    groups = list(dict.fromkeys(frame["group"]))
    ends = [max(1.02, float(frame["m_eff"].min()) / 1.3), min(float(frame["m_eff"].max()) * 1.3, _RIGHT_END)]
    beyond = int((frame["m_eff"] > ends[1]).sum())
    frame["at"] = frame["m_eff"].clip(upper=ends[1])
    curve = np.geomspace(ends[0], ends[1], 60)
    line = pd.DataFrame({"at": curve, "q": 1 / (1 - 1 / curve)})

    def draw(layout: Layout) -> Chart:
        names = [convention for convention in POWERS if (frame["convention"] == convention).any()]
        columns = layout.columns(len(names), 2)
        panels = [
            _collapse_panel(frame[frame["convention"] == name], line, name, groups, ends, layout, columns) for name in names
        ]
        return arranged(panels, columns)

    seeds = int(usable.groupby(["convention", "layer"])["seed"].nunique().max())
    error = np.abs(frame["q"] * (1 - 1 / frame["m_eff"]) - 1)
    near, deeper = _percent(error[frame["first"]]), error[~frame["first"]]
    far = f", {_percent(deeper)} in deeper ones" if len(deeper) else ""
    caption = (
        f"Second moment of the normalised activation at inference over that in training, for every layer, model and batch "
        f"size, under the population statistic of the kind that the convention stores (no moving average, no lag). Theory "
        f"gives q/c for paper, q for both consistent ones and c·q for inverted; each ratio is multiplied by the power of "
        f"c = m/(m−1) in its panel's title, so that all should fall on the line, q = 1/(1 − 1/m_eff). First layers (filled) "
        f"have the same inputs in training and at inference; deeper ones (hollow) inherit what those before them shift. "
        f"Mean over {plural(seeds, 'seed')}; bars are 95 % "
        f"{'t intervals over seeds' if seeds > 1 else 'intervals from the standard error of a probe'}. m_eff and the ratio "
        f"come from different batches. Median distance from the line: {near} of q in first layers{far}."
        f"{f' {beyond} points with a larger m_eff stand at the right edge.' if beyond else ''}"
        f"{f' {len(points) - len(usable)} rows without a finite value are left out.' if len(points) > len(usable) else ''}"
    )
    described = (
        f"Scatter plot of {len(frame)} layer means, m_eff from {frame['m_eff'].min():.3g} to {frame['m_eff'].max():.3g}, "
        f"with the predicted line; half of the first layers lie within {near} of it."
    )
    return Figure(name, title, "layers", draw, caption, described)


def _layer_means(usable: pd.DataFrame, subject: Subject) -> pd.DataFrame:
    axis = across(usable, subject.varying)
    first = usable["layer"] == usable.groupby("job")["layer"].transform("first")
    usable = usable.assign(group=labels(usable, axis, subject.varying), first=first)
    keys = ["convention", "group", axis.column, "layer", "m", "first"]
    found = []
    for values, part in usable.groupby(keys, sort=False, dropna=False):
        mean, low, high = (float(end[0]) for end in mean_interval(part[["q"]].to_numpy()))
        if len(part) == 1:
            half = 1.96 * float(part["q_se"].iloc[0])
            low, high = mean - half, mean + half
        found.append((values[0], values[1], values[-1], float(part["m_eff"].mean()), mean, low, high))
    return pd.DataFrame(found, columns=["convention", "group", "first", "m_eff", "q", "low", "high"])


def _percent(distances: pd.Series[float]) -> str:
    return f"{100 * float(distances.median()):.2g} %"


def _collapse_panel(
    part: pd.DataFrame, line: pd.DataFrame, convention: str, groups: list[str], ends: list[float],
    layout: Layout, columns: int,
) -> Panel:  # fmt: skip
    power = {1: "ratio × c", 0: "ratio", -1: "ratio / c"}[POWERS[convention]]
    x = alt.X("at:Q", title="m_eff (independent samples)", scale=alt.Scale(type="log", base=2, domain=ends, nice=False),
              axis=alt.Axis(values=_powers(*ends), labelExpr=_SHORT, grid=True))  # fmt: skip
    scale = alt.Scale(zero=False, nice=True)
    y = alt.Y("q:Q", title=power, scale=scale, axis=alt.Axis(format="~g", tickCount=5))
    colour = alt.Color(
        "group:N",
        scale=alt.Scale(domain=groups, range=[SERIES[i % len(SERIES)] for i in range(len(groups))]),
        legend=alt.Legend(
            title=None, orient="top", columns=min(layout.legend_columns, 3), direction="horizontal", symbolLimit=24
        ),
    )
    shape = alt.Shape(
        "group:N", scale=alt.Scale(domain=groups, range=[SHAPES[i % len(SHAPES)] for i in range(len(groups))]), legend=None
    )
    theory = alt.Chart(data(line)).mark_line(color=MUTED, strokeWidth=1.5).encode(x=x, y=y)
    base = alt.Chart(data(part.drop(columns=["convention"])))
    rule = (
        base.transform_filter("datum.low !== null && datum.high > datum.low")
        .mark_rule(opacity=0.55)
        .encode(x=x, y=alt.Y("low:Q", title=power, scale=scale), y2="high:Q", color=colour)
    )
    deep = base.transform_filter("!datum.first").mark_point(filled=False, size=34)
    dot = base.transform_filter("datum.first").mark_point(filled=True, size=34, opacity=0.85)
    marks = [mark.encode(x=x, y=y, color=colour, shape=shape) for mark in (deep, dot)]
    return alt.layer(theory, rule, *marks).properties(
        title=title_lines(convention, f"{power} should be q"), width=layout.width(columns), height=220
    )


def _powers(low: float, high: float) -> list[float]:
    exponents = np.arange(np.ceil(np.log2(low)), np.floor(np.log2(high)) + 1)
    return [float(2.0**k) for k in exponents[:: max(1, -(-len(exponents) // 7))]]


def effective_figure(tables: Tables, subject: Subject) -> Figure:
    """m_eff of every layer against the nominal m; on the diagonal, samples are independent.

    Args:
        tables: needs `layers`.
        subject: what the study asks.

    Returns:
        The figure; without a chart where no layer was probed.

    Source: docs/method.md, "Theory, layer by layer": 1/m_eff = Var(μ_B)/σ².
    """
    name, title = "m_eff", "How many independent samples is a batch worth?"
    layers = tables.get("layers", pd.DataFrame())
    if layers.empty:
        return absent(name, title, "layers", _NO_LAYERS)
    usable = layers[np.isfinite(layers["m_eff"]) & (layers["m_eff"] > 0) & (layers["norm"] == "batch")]
    if usable.empty:
        return absent(name, title, "layers", "No probed layer has a finite m_eff to show.")
    axis = across(usable, subject.varying)
    usable = usable.assign(panel=labels(usable, axis, subject.varying))
    once = usable.drop_duplicates(["job", "seed", "layer", axis.column])
    frame = once.groupby(["panel", "layer", "m"], sort=False)["m_eff"].mean().reset_index()
    frame["depth"] = frame.groupby("panel", sort=False)["layer"].transform(lambda layer: _depth(pd.factorize(layer)[0]))
    ends = [
        float(min(frame["m"].min(), frame["m_eff"].min())) / 1.3,
        float(max(frame["m"].max(), frame["m_eff"].max())) * 1.3,
    ]

    def draw(layout: Layout) -> Chart:
        panels = list(panels_of(frame))
        columns = layout.columns(len(panels))
        return arranged([_effective_panel(part, label, ends, layout, columns) for label, part in panels], columns)

    share = frame["m_eff"] / frame["m"]
    caption = (
        f"Effective batch size m_eff of each BatchNorm layer against the nominal m, the values per channel in a batch; mean "
        f"over {plural(once['seed'].nunique(), 'seed')} and both training sides. On the grey "
        f"diagonal m_eff = m, where Bessel's factor is exact; below it samples are correlated, above it they repel. "
        f"Colour runs from the first layer (blue) to the last (orange)." + left_out(frame["panel"].nunique(), MOST_PANELS)
    )
    described = (
        f"m_eff of {frame['layer'].nunique()} layers, from {share.min():.2g} to {share.max():.2g} times the nominal m."
    )
    return Figure(name, title, "layers", draw, caption, described)


def _depth(code: NDArray[np.intp]) -> NDArray[np.float64]:
    return code / max(int(code.max()), 1)


def _effective_panel(part: pd.DataFrame, label: str, ends: list[float], layout: Layout, columns: int) -> Panel:
    scale = alt.Scale(type="log", base=2, domain=ends, nice=False)
    axis = alt.Axis(values=_powers(*ends), labelExpr=_SHORT)
    x = alt.X("m:Q", title="m (values per channel)", scale=scale, axis=axis)
    y = alt.Y("m_eff:Q", title="m_eff (independent samples)", scale=scale, axis=axis)
    names = part.sort_values("depth", kind="stable").drop_duplicates("layer")
    colours = [_between(float(depth)) for depth in names["depth"]]
    domain = [str(name) for name in names["layer"]]
    colour = alt.Color("layer:N", scale=alt.Scale(domain=domain, range=colours), legend=None)
    same = alt.Chart(alt.InlineData(values=[{"m": end, "m_eff": end} for end in ends]))
    base = alt.Chart(data(part[["layer", "m", "m_eff"]]))
    panel: Panel = (
        alt.layer(
            same.mark_line(color=MUTED, strokeWidth=1.5, strokeDash=[4, 3]).encode(x=x, y=y),
            base.mark_line(strokeWidth=1, opacity=0.7).encode(x=x, y=y, color=colour),
            base.mark_point(filled=True, size=30, opacity=1).encode(x=x, y=y, color=colour),
        )
        .properties(title=title_lines(label), width=layout.width(columns), height=layout.width(columns) * 3 // 4)
        .resolve_scale(color="independent")
    )
    return panel


def _between(share: float) -> str:
    first, last = (0x2F, 0x86, 0xC1), (0xE6, 0x9F, 0x00)
    return "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in zip(first, last, strict=True))
