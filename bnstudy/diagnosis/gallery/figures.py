"""The gallery's figures: how often the first finding is right, and what each fault does to the stored variances."""

from __future__ import annotations

import altair as alt
import numpy as np
import pandas as pd
from statsmodels.stats.proportion import proportion_confint

from bnstudy.analysis.figures.figure import Figure, Layout, arranged, data, title_lines
from bnstudy.analysis.figures.theme import BLUE, GREY, MUTED, VERMILLION
from bnstudy.diagnosis.gallery.run import Gallery

MODELS = {"mlp": "MLP", "resnet": "ResNet"}
WANTED = 0.9
"""Of all draws, what the first finding has to be right in."""
_COLOURS = {"mlp": BLUE, "resnet": VERMILLION}
_LEAST, _MOST = 1e-2, 1e2


def shares(gallery: Gallery) -> pd.DataFrame:
    """How often the first finding is right.

    Returns:
        A row a fault and model, in the order of the draws: fault, model, draws, right, share, low and high (Wilson's 95 %
        interval), seconds (median of a diagnosis).
    """
    rows = []
    for (fault, model), group in gallery.draws.groupby(["fault", "model"], sort=False):
        right, draws = int(group.right.sum()), len(group)
        low, high = proportion_confint(right, draws, method="wilson")
        rows.append((fault, model, draws, right, right / draws, float(low), float(high), float(group.seconds.median())))
    return pd.DataFrame(rows, columns=["fault", "model", "draws", "right", "share", "low", "high", "seconds"])


def shares_figure(gallery: Gallery) -> Figure:
    """Share of right first findings by fault and model, with intervals."""
    table = shares(gallery)
    models = list(dict.fromkeys(table.model))
    table = table.assign(network=table.model.map(MODELS), named=table.fault.str.replace("_", " "))
    rows = data(table)
    order = list(dict.fromkeys(table.named))

    def draw(layout: Layout) -> alt.ConcatChart:
        panels = []
        for place, model in enumerate(models):
            y = alt.Y("named:N", sort=order, title=None, axis=alt.Axis(labelLimit=0, grid=True, labels=place == 0))
            x = alt.X("share:Q", title="right first findings", scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(format="%"))
            base = alt.Chart(rows).transform_filter(f"datum.model === '{model}'")
            wanted = alt.Chart(data(pd.DataFrame({"wanted": [WANTED]}))).mark_rule(color=MUTED, strokeDash=[4, 3])
            layered = alt.layer(
                wanted.encode(x="wanted:Q"),
                base.mark_rule(color=_COLOURS[model], strokeWidth=2).encode(x=alt.X("low:Q"), x2="high:Q", y=y),
                base.mark_point(color=_COLOURS[model], filled=True, size=60, opacity=1).encode(x=x, y=y),
            )
            panels.append(layered.properties(width=layout.width(2, 110), height=18 * len(order), title=MODELS[model]))
        return arranged(panels, len(panels))

    return Figure(
        "shares",
        "How often the first finding is right",
        "draws",
        draw,
        f"Share of draws whose first finding is the planted fault, with Wilson's 95 % interval; dashed: {WANTED:.0%}.",
        "A row a fault and a panel a network: points at or near 100 %.",
    )


def variances_figure(gallery: Gallery) -> Figure:
    """Stored over population variance by layer in draw 0, planted and healthy."""
    layers = gallery.layers[gallery.layers.draw == 0]
    model = "resnet" if "resnet" in set(layers.model) else "mlp"
    layers = layers[layers.model == model]
    ratio = layers.variance_ratio.where(np.isfinite(layers.variance_ratio)).clip(_LEAST, _MOST)
    layers = layers.assign(ratio=ratio, position=layers.position + 1)
    healthy = layers[layers.fault == "healthy"]
    faults = list(dict.fromkeys(layers.fault[layers.ratio.notna() & (layers.fault != "healthy")]))

    def draw(layout: Layout) -> alt.ConcatChart:
        columns = layout.columns(len(faults))
        panels = []
        for number, name in enumerate(faults):
            planted = layers[layers.fault == name]
            x = alt.X("position:O", title="layer", axis=alt.Axis(labelAngle=0, grid=False))
            y = alt.Y(
                "ratio:Q",
                title="stored / population" if number % columns == 0 else None,
                scale=alt.Scale(type="log", domain=[_LEAST, _MOST]),
                axis=alt.Axis(values=[0.01, 0.1, 1, 10, 100], format="~g"),
            )
            parts = [
                alt.Chart(data(rows[["position", "ratio"]]))
                .mark_line(point=alt.OverlayMarkDef(color=colour, size=16), color=colour, strokeWidth=1.5)
                .encode(x=x, y=y)
                for rows, colour in ((healthy, GREY), (planted, _COLOURS[model]))
                if len(rows)
            ]
            panel = alt.layer(*parts).properties(
                width=layout.width(columns), height=100, title=title_lines(name.replace("_", " "))
            )
            panels.append(panel)
        return arranged(panels, columns)

    return Figure(
        "variances",
        "What each fault does to the stored variances",
        "layers",
        draw if faults else None,
        f"Stored over population variance by layer, in order of execution, in draw 0 of the {MODELS[model]} (geometric "
        f"mean over channels, cut to {_LEAST:g}…{_MOST:g}); grey: a healthy one.",
        "Small panels, a fault each: lines at 1 where the fault leaves the stored variances alone, away from it otherwise.",
    )
