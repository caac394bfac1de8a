"""Which layer's stored statistics move the outputs."""

from __future__ import annotations

import altair as alt
import numpy as np
import pandas as pd

from bnstudy.analysis.figures.figure import WIDE, Chart, Figure, Layout, absent, arranged, data
from bnstudy.analysis.figures.theme import PURPLE
from bnstudy.analysis.figures.units import amount, listed, metric_of, plural
from bnstudy.diagnosis.account import primary
from bnstudy.diagnosis.figures.by_layer import ByLayer, order_told
from bnstudy.diagnosis.layer_columns import column
from bnstudy.diagnosis.result import Diagnosis


def swap_figure(diagnosis: Diagnosis) -> Figure:
    """By how much the outputs move when one layer alone takes its stored statistics.

    Args:
        diagnosis: any.

    Returns:
        The figure; without a chart where no layer was swapped.

    Source: bnstudy issue 7, part 1.
    """
    name, title = "swaps", "Which layer’s stored statistics move the outputs?"
    layers = diagnosis.layers
    frame = pd.DataFrame({
        "place": range(1, len(layers) + 1), "name": layers["layer"].to_numpy(),
        "moved": 100 * column(layers, "swap_distance").to_numpy(), "zero": 0.0,
        "change": column(layers, f"swap_{primary(diagnosis)}").to_numpy(),
    })  # fmt: skip
    known = frame[frame["moved"].notna()]
    if known.empty:
        return absent(name, title, "layers", "No layer was swapped alone, so it is not known which one moves the outputs.")
    endless = ~np.isfinite(known["moved"])
    finite = known.loc[~endless, "moved"]
    edge = float(finite.max()) * 1.08 if len(finite) and finite.max() > 0 else 1.0
    drawn = known.assign(moved=known["moved"].clip(upper=edge), endless=endless)

    def draw(layout: Layout) -> Chart:
        by = ByLayer(list(layers["layer"]), layout)
        scale = alt.Scale(domain=[0, edge], nice=False)
        axis = alt.Axis(labelExpr="format(datum.value, '~g')", tickCount=6 if layout == WIDE else 4)
        base = alt.Chart(data(drawn.drop(columns=["name", "change"])))
        title = "outputs moved by (%)"
        marks = [
            by.line(0.0, scale),
            base.mark_rule(color=PURPLE, strokeWidth=3 if by.named else 1.4)
            .encode(**by.between("zero", "moved", title, scale, axis)),
            base.transform_filter("!datum.endless").mark_point(filled=True, color=PURPLE, size=by.dot, opacity=1)
            .encode(**by.at("moved", title, scale, axis)),
            base.transform_filter("datum.endless").mark_point(color=PURPLE, shape="cross", filled=True, size=90, opacity=1)
            .encode(**by.at("moved", title, scale, axis)),
        ]  # fmt: skip
        return arranged([alt.layer(*marks).properties(**by.size())], 1)

    top = known.sort_values("moved", ascending=False, kind="stable").head(3)
    said = listed([_named(row, diagnosis) for _, row in top.iterrows()])
    left = len(frame) - len(known)
    caption = (
        "RMS change of the outputs, over their RMS, when one layer alone goes from the batch’s statistics to what it "
        f"stores, all others staying on the batch’s.{order_told(len(layers))} Most: {said}."
        + (f" A cross at the edge: outputs that are not finite ({plural(int(endless.sum()), 'layer')})."
           if endless.any() else "")
        + (f" {plural(left, 'layer')} {'was' if left == 1 else 'were'} not swapped." if left else "")
    )  # fmt: skip
    described = f"Bars for {plural(len(known), 'layer')}; the longest: {said}."
    return Figure(name, title, "layers", draw, caption, described)


def _named(row: pd.Series[float], diagnosis: Diagnosis) -> str:
    moved = f"{row['moved']:.1f} %" if np.isfinite(row["moved"]) else "outputs not finite"
    metric = metric_of(primary(diagnosis))
    change = f", {metric.label} {amount(float(row['change']), metric)}" if np.isfinite(row["change"]) else ""
    return f"{row['name']} ({moved}{change})"
