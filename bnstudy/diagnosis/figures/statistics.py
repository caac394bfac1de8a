"""What the layers see, what they store beside it, and which of them moves the outputs by what it stores."""

from __future__ import annotations

import math

import altair as alt
import numpy as np
import pandas as pd

from bnstudy.analysis.figures.figure import WIDE, Chart, Figure, Layout, Panel, absent, arranged, data
from bnstudy.analysis.figures.theme import BLUE, PURPLE, VERMILLION
from bnstudy.analysis.wording import amount, listed, plural
from bnstudy.diagnosis.figures.by_layer import ByLayer, Values, logarithmic, order_told
from bnstudy.diagnosis.layer_columns import column
from bnstudy.diagnosis.measured import short
from bnstudy.diagnosis.result import Diagnosis
from bnstudy.metric import metric_of

STORED, LUCK = "stored", "expected by luck"
_FARTHEST = 1e4
"""A logarithmic axis begins at this share of its largest value at least: what lies beyond stands at the edge."""


def effective_figure(diagnosis: Diagnosis) -> Figure:
    """m_eff/m of every layer, with its standard error; without a chart where no layer has a finite m_eff.

    Source: docs/method.md, "Statistics".
    """
    name, title = "m_eff", "How many independent samples is a batch worth?"
    layers = diagnosis.layers
    m = column(layers, "m")
    usable = _ratios(layers, column(layers, "m_eff") / m, column(layers, "m_eff_se") / m)
    if usable.empty:
        why = "No layer has a finite m_eff: that needs two batches or more, whose means vary."
        return absent(name, title, "layers", why)

    def draw(layout: Layout) -> Chart:
        values = logarithmic("m_eff / m", _every(usable), 8 if layout == WIDE else 5)
        return arranged([ByLayer(list(layers["layer"]), layout).lollipops(usable, values, BLUE)], 1)

    least, most = (usable.iloc[at] for at in (usable["value"].argmin(), usable["value"].argmax()))
    ends = [f"{row['name']} ({short(row['value'])})" for row in (least, most)]
    caption = (
        "Effective batch size m_eff of each BatchNorm layer over the nominal m, the values per channel in a "
        f"batch.{order_told(len(layers))} At 1 the values are independent; below, values of one image or samples of one "
        f"batch are alike; above, batch means vary less than chance has them.{_bars(usable)} "
        + (f"Smallest: {ends[0]}; largest: {ends[1]}." if len(usable) > 1 else f"{ends[0]}.")
        + _left_out(len(layers) - len(usable), "a finite m_eff")
    )
    described = f"m_eff over m of {plural(len(usable), 'layer')}, from {short(least['value'])} to {short(most['value'])}."
    return Figure(name, title, "layers", draw, caption, described)


def stored_figure(diagnosis: Diagnosis) -> Figure:
    """Each layer's stored statistics beside those of the batches: the ratio of variances, and the distance of both.

    Without a chart where no layer stores finite statistics.
    """
    name, title = "stored", "Do the stored statistics describe these batches?"
    layers = diagnosis.layers
    ratios = _ratios(layers, column(layers, "variance_ratio"), column(layers, "variance_ratio_se"))
    distances = pd.DataFrame({
        "place": range(1, len(layers) + 1),
        STORED: column(layers, "distance"),
        LUCK: column(layers, "distance_expected"),
    }).replace([math.inf, -math.inf], math.nan)  # fmt: skip
    distances = distances[distances[STORED].notna()]
    if ratios.empty and distances.empty:
        why = "No layer has stored statistics that are finite, so there is nothing to compare."
        return absent(name, title, "layers", why)
    positive = [value for value in distances[[STORED, LUCK]].to_numpy().ravel() if value > 0]
    floor = max(min(positive), max(positive) / _FARTHEST) if positive else 1e-6
    points = distances.melt("place", var_name="what").dropna()
    points["value"] = points["value"].clip(lower=floor)

    def draw(layout: Layout) -> Chart:
        panels = (not ratios.empty) + (not distances.empty)
        by = ByLayer(list(layers["layer"]), layout, panels if layout == WIDE else 1)
        made = []
        if not ratios.empty:
            values = logarithmic("stored / measured variance", _every(ratios), 5)
            made.append(by.lollipops(ratios, values, VERMILLION, _title("variance")))
        if not distances.empty:
            made.append(_distance_panel(points, by, first=layout != WIDE or ratios.empty))
        drawn: Chart = arranged(made, by.panels).resolve_legend(color="independent", shape="independent")
        return drawn

    caption = described = ""
    if len(ratios):
        far = ratios.iloc[int(np.abs(np.log(ratios["value"].to_numpy())).argmax())]
        caption = (
            f"{'First' if len(distances) else 'Shown'}: stored variance over that of the given batches, geometric mean "
            f"over channels; at 1 they agree.{_bars(ratios)} Farthest from 1: {far['name']} ({short(far['value'])}). "
        )
        described = (
            f"Stored over measured variance of {plural(len(ratios), 'layer')}, from {short(ratios['value'].min())} to "
            f"{short(ratios['value'].max())}. "
        )
    if len(distances):
        known = distances[distances[LUCK].notna()]
        beyond = int((known[STORED] > 2 * known[LUCK]).sum())
        caption += (
            f"{'Second' if len(ratios) else 'Shown'}: distance of the stored means and variances from those of the batches "
            "(Fisher’s, RMS over channels; 0.1 is about a tenth of a standard deviation), beside what luck alone makes of "
            "it in a moving average of these very batches."
            + (f" It is more than twice that in {beyond or 'none'} of {plural(len(known), 'layer')}." if len(known) else "")
        )
        described += f"Distances from {short(distances[STORED].min())} to {short(distances[STORED].max())}."
    caption = caption.rstrip() + order_told(len(layers))
    if cut := int((distances[STORED] < floor).sum()):
        caption += f" {plural(cut, 'distance')} smaller than the axis shows {'is' if cut == 1 else 'are'} at its edge."
    caption += _left_out(len(layers) - max(len(ratios), len(distances)), "finite stored statistics")
    return Figure(name, title, "layers", draw, caption, described.strip())


def swap_figure(diagnosis: Diagnosis) -> Figure:
    """How much the outputs move when one layer alone takes its stored statistics; without a chart where none was swapped."""
    name, title = "swaps", "Which layer’s stored statistics move the outputs?"
    layers, metric = diagnosis.layers, metric_of(diagnosis.primary)
    frame = _frame(layers, 100 * column(layers, "swap_distance"), 0.0)
    frame = frame.assign(change=column(layers, f"swap_{metric.name}"), endless=~np.isfinite(frame["value"]))
    known = frame[frame["value"].notna()]
    if known.empty:
        return absent(name, title, "layers", "No layer was swapped alone, so it is not known which one moves the outputs.")
    finite = known.loc[~known["endless"], "value"]
    edge = float(finite.max()) * 1.08 if len(finite) and finite.max() > 0 else 1.0

    def draw(layout: Layout) -> Chart:
        axis = alt.Axis(labelExpr="format(datum.value, '~g')", tickCount=6 if layout == WIDE else 4)
        values = Values("outputs moved by (%)", alt.Scale(domain=[0, edge], nice=False), axis)
        shown = known.assign(value=known["value"].clip(upper=edge))
        return arranged([ByLayer(list(layers["layer"]), layout).lollipops(shown, values, PURPLE)], 1)

    most = []
    for _, row in known.sort_values("value", ascending=False, kind="stable").head(3).iterrows():
        moved = "outputs not finite" if row["endless"] else f"{row['value']:.1f} %"
        change = f", {metric.label} {amount(float(row['change']), metric)}" if np.isfinite(row["change"]) else ""
        most.append(f"{row['name']} ({moved}{change})")
    endless, left = int(known["endless"].sum()), len(frame) - len(known)
    caption = (
        "RMS change of the outputs, over their RMS, when one layer alone goes from the batch’s statistics to what it "
        f"stores, all others staying on the batch’s.{order_told(len(layers))} Most: {listed(most)}."
        + (f" A cross at the edge: outputs that are not finite ({plural(endless, 'layer')})." if endless else "")
        + (f" {plural(left, 'layer')} {'was' if left == 1 else 'were'} not swapped." if left else "")
    )
    described = f"Points for {plural(len(known), 'layer')}; the farthest: {listed(most)}."
    return Figure(name, title, "layers", draw, caption, described)


def _distance_panel(points: pd.DataFrame, by: ByLayer, first: bool) -> Panel:
    values, wide = logarithmic("distance", list(points["value"]), 5), by.layout == WIDE
    domain = [what for what in (STORED, LUCK) if (points["what"] == what).any()]
    styles = {STORED: (VERMILLION, "circle"), LUCK: (BLUE, "diamond")}
    legend = alt.Legend(title=None, orient="bottom", direction="horizontal" if wide else "vertical",
                        columns=2 if wide else 1, columnPadding=14)  # fmt: skip
    colour, shape = (
        channel("what:N", scale=alt.Scale(domain=domain, range=[styles[what][at] for what in domain]), legend=legend)
        for channel, at in ((alt.Color, 0), (alt.Shape, 1))
    )
    marks = [
        alt.Chart(data(points[points["what"] == what]))
        .mark_point(filled=what == STORED, size=by.dot, opacity=1, strokeWidth=1.3)
        .encode(**by.at("value", values, first), color=colour, shape=shape)
        for what in reversed(domain)
    ]
    panel: Panel = alt.layer(*marks).properties(title=_title("mean and variance"), **by.size())
    return panel


def _frame(layers: pd.DataFrame, value: pd.Series[float], start: float) -> pd.DataFrame:
    """Rows for `ByLayer.lollipops`, without error bars, and the layers' names."""
    return pd.DataFrame({"place": range(1, len(layers) + 1), "name": layers["layer"].to_numpy(), "start": start,
                         "value": value.to_numpy(), "low": math.nan, "high": math.nan, "endless": False},
                        index=layers.index)  # fmt: skip


def _ratios(layers: pd.DataFrame, value: pd.Series[float], error: pd.Series[float]) -> pd.DataFrame:
    """Rows for `ByLayer.lollipops` of what is 1 where nothing is wrong; only layers with a finite one above 0."""
    # An error as large as the value itself has no lower end on a logarithmic axis: it stops at a tenth of the value.
    error = error.where(np.isfinite(error))
    frame = _frame(layers, value, 1.0).assign(low=(value - error).clip(lower=value / 10), high=value + error)
    usable: pd.DataFrame = frame[np.isfinite(frame["value"]) & (frame["value"] > 0)]
    return usable


def _every(frame: pd.DataFrame) -> list[float]:
    return [1.0, *frame["value"], *frame["low"].dropna(), *frame["high"].dropna()]


def _bars(frame: pd.DataFrame) -> str:
    return " Bars are ± one standard error." if frame["low"].notna().any() else ""


def _left_out(count: int, what: str) -> str:
    return f" {plural(count, 'layer')} without {what} {'is' if count == 1 else 'are'} left out." if count else ""


def _title(text: str) -> alt.TitleParams:
    return alt.TitleParams(text=text, frame="group")  # above the panel itself, whether it has names or not
