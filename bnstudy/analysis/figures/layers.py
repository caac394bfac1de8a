"""How many independent samples a batch is worth in every layer: m_eff against m."""

from __future__ import annotations

import altair as alt
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bnstudy.analysis.figures.figure import Chart, Figure, Layout, Panel, absent, arranged, data, title_lines
from bnstudy.analysis.figures.panels import MOST_PANELS, across, labels, left_out, panels_of
from bnstudy.analysis.figures.ratios import NO_LAYERS
from bnstudy.analysis.figures.theme import MUTED
from bnstudy.analysis.subject import Subject, Tables
from bnstudy.analysis.wording import plural

LARGEST = 2.0**16
"""Upper end of the axis: behind a normalised layer batch means hardly vary, and m_eff has no end."""
_SHORT = "datum.value < 100000 ? format(datum.value, '~g') : format(datum.value, '.2~s')"


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
        return absent(name, title, "layers", NO_LAYERS)
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
        min(float(max(frame["m"].max(), frame["m_eff"].max())) * 1.3, LARGEST),
    ]
    beyond = int((frame["m_eff"] > ends[1]).sum())
    frame["m_eff"] = frame["m_eff"].clip(upper=ends[1])

    def draw(layout: Layout) -> Chart:
        panels = list(panels_of(frame))
        columns = layout.columns(len(panels))
        return arranged([_effective_panel(part, label, ends, layout, columns) for label, part in panels], columns)

    share = frame["m_eff"] / frame["m"]
    caption = (
        f"Effective batch size m_eff of each BatchNorm layer against the nominal m, the values per channel in a batch; mean "
        f"over {plural(once['seed'].nunique(), 'seed')} and both training sides. On the grey "
        f"diagonal m_eff = m, where Bessel's factor is exact; below it samples are correlated, above it they repel. "
        f"Colour runs from the first layer (blue) to the last (orange)."
        f"{f' {beyond} points with a larger m_eff stand at the upper edge.' if beyond else ''}"
        + left_out(frame["panel"].nunique(), MOST_PANELS)
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
