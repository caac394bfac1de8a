"""The gallery's figures: how often the first finding is right, and what each fault does to the stored variances."""

from __future__ import annotations

import altair as alt
import numpy as np
import pandas as pd
from statsmodels.stats.proportion import proportion_confint

from bnstudy.analysis.figures import Figure, Layout, arranged, data, title_lines
from bnstudy.analysis.figures.theme import BLUE, GREY, INK, MUTED, PAPER, VERMILLION
from bnstudy.diagnosis.result import TERMS
from scripts.gallery.run import Gallery

MODELS = {"mlp": "MLP", "resnet": "ResNet"}
WANTED = 0.9
"""Of all draws, what the first finding has to be right in."""
_COLOURS = {"mlp": BLUE, "resnet": VERMILLION}
_LEAST, _MOST = 0.1, 10.0
_TERMS = (*(term for term in TERMS if term != "bessel"), "other")
_FLAT = 0.05
"""A layer whose stored variance is within this share of the population's is not drawn as a fault's doing."""


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
            y = alt.Y("named:N", sort=order, title=None, scale=alt.Scale(domain=order), axis=names_axis(place == 0))
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


def terms_figure(gallery: Gallery) -> Figure:
    """The terms of the gap in the loss, by fault and model: medians over draws."""
    terms = gallery.terms[(gallery.terms.metric == "loss") & gallery.terms.term.isin(_TERMS)]
    table = terms.groupby(["fault", "model", "term"], sort=False)["value"].median().reset_index()
    table = table.assign(
        named=table.fault.str.replace("_", " "), shown=table.value.clip(-1, 1), text=table.value.map(_short)
    )
    table = table[np.isfinite(table.value)]
    models, order = list(dict.fromkeys(table.model)), list(dict.fromkeys(table.named))

    def draw(layout: Layout) -> alt.ConcatChart:
        panels = []
        for place, model in enumerate(models):
            base = alt.Chart(data(table[table.model == model])).encode(
                x=alt.X(
                    "term:N", sort=list(_TERMS), title=None, axis=alt.Axis(labelAngle=0, orient="top", labelOverlap=False)
                ),
                y=alt.Y(
                    "named:N", sort=order, title=None, scale=alt.Scale(domain=order), axis=names_axis(place == 0, False)
                ),
            )
            scale = alt.Scale(domain=[-1, 0, 1], range=[BLUE, PAPER, VERMILLION], interpolate="rgb")
            layered = alt.layer(
                base.mark_rect().encode(color=alt.Color("shown:Q", scale=scale, legend=None)),
                base.mark_text(fontSize=10, color=INK).encode(text="text:N"),
            )
            panels.append(layered.properties(width=layout.width(2, 110), height=18 * len(order), title=MODELS[model]))
        return arranged(panels, layout.columns(len(panels), 2))

    return Figure(
        "terms",
        "What each fault does to the terms of the gap",
        "terms",
        draw if models else None,
        "Terms of the gap in the loss, nats: medians over draws; colours end at ±1. lag + pooling + noise is evaluation "
        "mode less batch statistics (bessel is nothing: the layers are PyTorch's), other is what else changes with the "
        "mode. "
        "Measured on the training batches; statistics that no data can have give no number.",
        "A table of numbers, a row a fault and a column a term, red where evaluation mode is worse.",
    )


def names_axis(shown: bool, grid: bool = True) -> alt.Axis:
    """Names of faults, every one of them, on the first panel only."""
    return alt.Axis(labelLimit=0, labelOverlap=False, grid=grid, labels=shown, ticks=False, domain=False)


def _short(value: float) -> str:
    return "0" if abs(value) < 0.005 else f"{value:.2f}".replace("-", "−")


def variances_figure(gallery: Gallery) -> Figure:
    """Stored over population variance by layer in draw 0, planted and healthy."""
    layers = gallery.layers[gallery.layers.draw == 0]
    model = "resnet" if "resnet" in set(layers.model) else "mlp"
    layers = layers[layers.model == model]
    ratio = layers.variance_ratio.where(np.isfinite(layers.variance_ratio)).clip(_LEAST, _MOST)
    layers = layers.assign(ratio=ratio, position=layers.position + 1)
    healthy = layers[layers.fault == "healthy"]
    planted_in = [name for name in dict.fromkeys(layers.fault) if name != "healthy"]
    moved = layers[np.log(layers.ratio).abs() > _FLAT]
    faults = [name for name in planted_in if name in set(moved.fault)]
    alone = ", ".join(name.replace("_", " ") for name in planted_in if name not in faults)

    def draw(layout: Layout) -> alt.ConcatChart:
        columns = layout.columns(len(faults), 4)
        panels = []
        for place, name in enumerate(faults):
            planted = layers[layers.fault == name]
            x = alt.X("position:O", title="layer", axis=alt.Axis(labelAngle=0, grid=False))
            y = alt.Y(
                "ratio:Q",
                title="stored / population" if place % columns == 0 else None,
                scale=alt.Scale(type="log", domain=[_LEAST, _MOST]),
                axis=alt.Axis(values=[0.1, 1, 10], format="~g"),
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
        f"mean over channels, cut to {_LEAST:g}…{_MOST:g}); grey: a healthy one. "
        f"Within {_FLAT:.0%} in every layer: {alone or 'none'}.",
        "Small panels, a fault each: lines at 1 where the fault leaves the stored variances alone, away from it otherwise.",
    )
