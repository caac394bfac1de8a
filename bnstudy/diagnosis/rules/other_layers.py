"""Findings about dropout and its like: what they do by themselves, and to the statistics of BatchNorm layers behind them."""

from __future__ import annotations

from bnstudy.analysis.figures.units import listed
from bnstudy.diagnosis.result import Finding
from bnstudy.diagnosis.rules.case import CERTAIN, LIKELY, Case, finding, named
from bnstudy.diagnosis.rules.stored import distance_text, missing


def by_themselves(case: Case) -> list[Finding]:
    """Layers other than BatchNorm that move a metric by the mode alone."""
    # That something else than BatchNorm changes with the mode is a fact already; the question is how much.
    effect = case.worst("batch", "train", both_ways=True, rate=LIKELY if case.seen.training else CERTAIN)
    if effect is None or (case.kept_in_evaluation and not _drops(case)):  # a train() of its own: that is BatchNorm's
        return []
    summary = (
        f"Not BatchNorm: {_who(case)} make training mode differ from evaluation mode by {effect.text} in {effect.metric}."
    )
    lines = [f"Held in evaluation mode while BatchNorm stays on batch statistics, {effect.metric} changes by that much."]
    remedy = "Nothing to repair: this is what they are for. Compare modes with these layers off before blaming BatchNorm."
    return [finding("other_layers", [], effect, summary, lines, remedy)]


def variance_shift(case: Case) -> list[Finding]:
    """Statistics that fit the network with dropout active, and so not without it.

    Source: Li et al. 2019, "Understanding the disharmony between dropout and batch normalization by variance shift".
    """
    effect = case.worst(case.stored_unbiased, "population_unbiased", rate=LIKELY) if case.seen.training else None
    off = missing(case)
    shifted = [
        (one, one.comparison, one.still)
        for one in case.found
        if one.stored is not None and one.still is not None and one not in off and len(one.still.lucky) > 0
    ]
    shifted = [part for part in shifted if part[2].beyond_luck() < CERTAIN / len(case.found)]
    if effect is None or not shifted:
        return []
    layers = [one for one, *_ in shifted]
    lines = [
        f"{one.layer.name}: stored statistics lie {distance_text(stored.distance)} from those of training mode (luck "
        f"alone: {distance_text(stored.expected)}), but {distance_text(still.distance)} from those with {_who(case)} off."
        for one, stored, still in shifted[:4]
    ]
    summary = (
        f"{named(layers, 'stores', 'store')} the statistics of a network with {_who(case)} at work. Evaluation mode turns "
        f"those off, and the variances behind them change: {effect.clause} for it."
    )
    remedy = (
        "Put dropout behind the last BatchNorm layer, or measure the statistics again with it off: `bnstudy diagnose … "
        "--recalibrate OUT`."
    )
    return [finding("other_layers", layers, effect, summary, lines, remedy)]


def _who(case: Case) -> str:
    drops = _drops(case)
    return listed(drops, 4) if drops else "layers other than BatchNorm"


def _drops(case: Case) -> list[str]:
    """Layers that drop things, by name and class."""
    return [
        f"{name} ({type(module).__name__})"
        for name, module in case.model.named_modules()
        if any(word in type(module).__name__.lower() for word in ("drop", "stochasticdepth", "noise"))
        and getattr(module, "p", getattr(module, "drop_prob", 1)) != 0
    ]
