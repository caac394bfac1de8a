"""What the layers see and what they store: independent samples in a batch, and stored beside measured statistics."""

from __future__ import annotations

import math

import altair as alt
import numpy as np
import pandas as pd

from bnstudy.analysis.figures.figure import WIDE, Chart, Figure, Layout, Panel, absent, arranged, data
from bnstudy.analysis.figures.theme import BLUE, VERMILLION
from bnstudy.analysis.figures.units import plural
from bnstudy.diagnosis.figures.by_layer import ByLayer, log_axis, order_told
from bnstudy.diagnosis.layer_columns import column, short
from bnstudy.diagnosis.result import Diagnosis

STORED, LUCK = "stored", "expected by luck"
_FARTHEST = 1e4
"""Ends of logarithmic axes, as factors: what lies beyond stands at the edge."""


def effective_figure(diagnosis: Diagnosis) -> Figure:
    """m_eff/m of every layer, with its standard error.

    Args:
        diagnosis: any.

    Returns:
        The figure; without a chart where no layer has a finite m_eff.

    Source: DESIGN.md, section 2: 1/m_eff = Var(μ_B)/σ².
    """
    name, title = "m_eff", "How many independent samples is a batch worth?"
    layers = diagnosis.layers
    m, size, error = column(layers, "m"), column(layers, "m_eff"), _finite(column(layers, "m_eff_se"))
    frame = pd.DataFrame({"place": _places(layers), "name": layers["layer"].to_numpy(), "share": size / m,
                          "se": error / m})  # fmt: skip
    usable = frame[np.isfinite(frame["share"]) & (frame["share"] > 0)]
    if usable.empty:
        why = "No layer has a finite m_eff: that needs two batches or more, whose means vary."
        return absent(name, title, "layers", why)
    # An error as large as the value itself has no lower end on a logarithmic axis: it stops at a tenth of the value.
    usable = usable.assign(low=(usable["share"] - usable["se"]).clip(lower=usable["share"] / 10),
                           high=usable["share"] + usable["se"], one=1.0)  # fmt: skip
    ends = _ends([*usable["share"], *usable["low"].dropna(), *usable["high"].dropna()], 1.0)

    def draw(layout: Layout) -> Chart:
        by = ByLayer(list(layers["layer"]), layout)
        scale, axis = _log(ends, 8 if layout == WIDE else 5)
        base = alt.Chart(data(usable.drop(columns=["name", "se"])))
        label = "m_eff / m"
        marks = [
            by.line(1.0, scale),
            base.mark_rule(strokeWidth=1, opacity=by.faint, color=BLUE)
            .encode(**by.between("one", "share", label, scale, axis)),
            base.transform_filter("datum.low !== null").mark_rule(strokeWidth=1.6 if by.named else 1, color=BLUE)
            .encode(**by.between("low", "high", label, scale, axis)),
            base.mark_point(filled=True, size=by.dot, opacity=1, color=BLUE)
            .encode(**by.at("share", label, scale, axis)),
        ]  # fmt: skip
        return arranged([alt.layer(*marks).properties(**by.size())], 1)

    least, most = (usable.loc[index] for index in (usable["share"].idxmin(), usable["share"].idxmax()))
    left = len(frame) - len(usable)
    caption = (
        "Effective batch size m_eff of each BatchNorm layer over the nominal m, the values per channel in a batch."
        f"{order_told(len(layers))} At 1 the values are independent; below, values of one image or samples of one batch are "
        "alike; above, batch means vary less than chance has them."
        f"{' Bars are ± one standard error.' if usable['low'].notna().any() else ''} "
        + (f"Smallest: {least['name']} ({short(least['share'])}); largest: {most['name']} ({short(most['share'])})."
           if len(usable) > 1 else f"{least['name']}: {short(least['share'])}.")
        + (f" {plural(left, 'layer')} without a finite m_eff {'is' if left == 1 else 'are'} left out." if left else "")
    )  # fmt: skip
    described = f"m_eff over m of {plural(len(usable), 'layer')}, from {short(least['share'])} to {short(most['share'])}."
    return Figure(name, title, "layers", draw, caption, described)


def stored_figure(diagnosis: Diagnosis) -> Figure:
    """Each layer's stored statistics beside those of the batches: the ratio of variances, and the distance of both.

    Args:
        diagnosis: any.

    Returns:
        The figure; without a chart where no layer stores finite statistics.

    Source: bnstudy issue 7, part 1.
    """
    name, title = "stored", "Do the stored statistics describe these batches?"
    layers = diagnosis.layers
    ratio, distance = column(layers, "variance_ratio"), column(layers, "distance")
    error, expected = _finite(column(layers, "variance_ratio_se")), _finite(column(layers, "distance_expected"))
    place = _places(layers)
    ratios = pd.DataFrame({"place": place, "name": layers["layer"].to_numpy(), "ratio": ratio, "se": error, "one": 1.0})
    ratios = ratios[np.isfinite(ratios["ratio"]) & (ratios["ratio"] > 0)]
    stored = pd.DataFrame({"place": place, "distance": distance, "expected": expected})
    stored = stored[np.isfinite(stored["distance"])]
    if ratios.empty and stored.empty:
        return absent(
            name, title, "layers", "No layer has stored statistics that are finite, so there is nothing to compare."
        )
    ratios = ratios.assign(low=(ratios["ratio"] - ratios["se"]).clip(lower=ratios["ratio"] / 10),
                           high=ratios["ratio"] + ratios["se"])  # fmt: skip
    floor = _floor(stored)
    cut = int((stored["distance"] < floor).sum())
    points = pd.concat([
        pd.DataFrame({"place": stored["place"], "value": stored[key].clip(lower=floor), "what": what})
        for key, what in (("distance", STORED), ("expected", LUCK))
    ])  # fmt: skip
    points = points[np.isfinite(points["value"])]

    def draw(layout: Layout) -> Chart:
        panels = (not ratios.empty) + (not stored.empty)
        by = ByLayer(list(layers["layer"]), layout, panels if layout == WIDE else 1)
        made = [] if ratios.empty else [_ratio_panel(ratios, by)]
        if not stored.empty:
            made.append(_distance_panel(points, by, layout, first=layout != WIDE or ratios.empty))
        drawn: Chart = arranged(made, by.panels).resolve_legend(color="independent", shape="independent")
        return drawn

    far = ratios.loc[ratios["ratio"].map(lambda value: abs(math.log(value))).idxmax()] if len(ratios) else None
    left = len(layers) - max(len(ratios), len(stored))
    most = "" if far is None else f"Farthest from 1: {far['name']} ({short(far['ratio'])}). "
    caption = (
        f"{'First' if len(ratios) and len(stored) else 'Shown'}: stored variance over that of the given batches, geometric "
        f"mean over channels{', ± one standard error' if ratios['low'].notna().any() else ''}; at 1 they agree. {most}"
        if len(ratios) else ""
    ) + (
        f"{'Second' if len(ratios) else 'Shown'}: distance of the stored means and variances from those of the batches "
        "(Fisher’s, RMS over channels; 0.1 is about a tenth of a standard deviation), beside what luck alone makes of it in "
        f"a moving average of these very batches.{_beyond(stored)} "
        if len(stored) else ""
    )  # fmt: skip
    caption = caption.rstrip() + order_told(len(layers))
    caption += f" {plural(cut, 'distance')} smaller than the axis shows {_is(cut)} at its edge." if cut else ""
    caption += f" {plural(left, 'layer')} without finite stored statistics {_is(left)} left out." if left else ""
    described = (
        f"Stored over measured variance of {plural(len(ratios), 'layer')}"
        + (f", from {short(ratios['ratio'].min())} to {short(ratios['ratio'].max())}" if len(ratios) else "")
        + (
            f"; distances from {short(stored['distance'].min())} to {short(stored['distance'].max())}."
            if len(stored)
            else "."
        )
    )
    return Figure(name, title, "layers", draw, caption, described)


def _ratio_panel(ratios: pd.DataFrame, by: ByLayer) -> Panel:
    scale, axis = _log(_ends([*ratios["ratio"], *ratios["low"].dropna(), *ratios["high"].dropna()], 1.0), 5)
    base = alt.Chart(data(ratios.drop(columns=["name", "se"])))
    label = "stored / measured variance"
    marks = [
        by.line(1.0, scale),
        base.mark_rule(strokeWidth=1, opacity=by.faint, color=VERMILLION)
        .encode(**by.between("one", "ratio", label, scale, axis)),
        base.transform_filter("datum.low !== null").mark_rule(strokeWidth=1.6 if by.named else 1, color=VERMILLION)
        .encode(**by.between("low", "high", label, scale, axis)),
        base.mark_point(filled=True, size=by.dot, opacity=1, color=VERMILLION)
        .encode(**by.at("ratio", label, scale, axis)),
    ]  # fmt: skip
    panel: Panel = alt.layer(*marks).properties(title=_title("variance"), **by.size())
    return panel


def _distance_panel(points: pd.DataFrame, by: ByLayer, layout: Layout, first: bool) -> Panel:
    scale, axis = _log(_ends([*points["value"]], None), 5)
    domain = [what for what in (STORED, LUCK) if (points["what"] == what).any()]
    styles = {STORED: (VERMILLION, "circle"), LUCK: (BLUE, "diamond")}
    legend = alt.Legend(title=None, orient="bottom", direction="horizontal" if layout == WIDE else "vertical",
                        columns=2 if layout == WIDE else 1, columnPadding=14)  # fmt: skip
    colour, shape = (
        channel("what:N", scale=alt.Scale(domain=domain, range=[styles[what][at] for what in domain]), legend=legend)
        for channel, at in ((alt.Color, 0), (alt.Shape, 1))
    )
    base = alt.Chart(data(points))
    marks = [
        base.transform_filter(alt.FieldEqualPredicate(field="what", equal=what))
        .mark_point(filled=what == STORED, size=by.dot, opacity=1, strokeWidth=1.3)
        .encode(**by.at("value", "distance", scale, axis, first), color=colour, shape=shape)
        for what in reversed(domain)
    ]
    panel: Panel = alt.layer(*marks).properties(title=_title("mean and variance"), **by.size())
    return panel


def _title(text: str) -> alt.TitleParams:
    return alt.TitleParams(text=text, frame="group")  # above the panel itself, whether it has names or not


def _places(layers: pd.DataFrame) -> list[int]:
    return list(range(1, len(layers) + 1))


def _finite(values: pd.Series[float]) -> pd.Series[float]:
    return values.where(np.isfinite(values))


def _floor(stored: pd.DataFrame) -> float:
    """Where a logarithmic axis of distances begins: small ones, and zero, stand there."""
    values = [value for value in [*stored["distance"], *stored["expected"]] if math.isfinite(value) and value > 0]
    return max(min(values), max(values) / _FARTHEST) if values else 1e-6


def _beyond(stored: pd.DataFrame) -> str:
    """In how many layers luck does not explain the distance at first sight."""
    known = stored[stored["expected"].notna()]
    if known.empty:
        return ""
    count = int((known["distance"] > 2 * known["expected"]).sum())
    return f" It is more than twice that in {count or 'none'} of {plural(len(known), 'layer')}."


def _ends(values: list[float], centre: float | None) -> tuple[float, float]:
    """Ends of a logarithmic axis with some room around all values, and around `centre`."""
    every = [*values, *([] if centre is None else [centre])]
    low, high = float(min(every)), float(max(every))
    room = max((high / low) ** 0.05, 1.15 if centre is None else 1.02)
    return low / room, high * room


def _log(ends: tuple[float, float], most: int) -> tuple[alt.Scale, alt.Axis]:
    return alt.Scale(type="log", domain=list(ends), nice=False), log_axis(*ends, most)


def _is(count: int) -> str:
    return "is" if count == 1 else "are"
