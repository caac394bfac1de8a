"""Findings about dropout and its like: what they do by themselves, and to the statistics of BatchNorm layers behind them."""

from __future__ import annotations

from bnstudy.analysis.figures.units import listed
from bnstudy.diagnosis.result import Finding
from bnstudy.diagnosis.rules.case import CERTAIN, LIKELY, Case
from bnstudy.diagnosis.rules.stored import beyond_luck, distance_text, missing
from bnstudy.diagnosis.rules.structural import named


def by_themselves(case: Case) -> list[Finding]:
    """Layers other than BatchNorm that move a metric by the mode alone."""
    # That something else than BatchNorm changes with the mode is a fact already; the question is how much.
    effect = case.worst("batch", "train", both_ways=True, rate=LIKELY if case.seen.training else CERTAIN)
    if effect is None or (case.kept_in_evaluation and not _drops(case)):  # a train() of its own: that is BatchNorm's
        return []
    return [
        Finding(
            "other_layers",
            f"Not BatchNorm: {_who(case)} make training mode differ from evaluation mode by {effect.text} in "
            f"{effect.metric}.",
            (f"Held in evaluation mode while BatchNorm stays on batch statistics, {effect.metric} changes by that much.",),
            "Nothing to repair: this is what they are for. Compare modes with these layers off before blaming BatchNorm.",
            (),
            effect.measured.value,
            effect.measured.error,
            effect.metric,
        )
    ]


def variance_shift(case: Case) -> list[Finding]:
    """Statistics that fit the network with dropout active, and so not without it.

    Source: Li et al. 2019, "Understanding the disharmony between dropout and batch normalization by variance shift".
    """
    if not case.seen.training:
        return []
    effect = case.worst(case.stored_unbiased, "population_unbiased", rate=LIKELY)
    if effect is None:
        return []
    off = missing(case)
    shifted = [
        one
        for one in case.found
        if one.still is not None
        and one.stored is not None
        and one not in off
        and len(one.still.lucky) > 0
        and beyond_luck(one.still) < CERTAIN / len(case.found)
    ]
    if not shifted:
        return []
    lines = [
        f"{one.layer.name}: stored statistics lie {distance_text(one.stored.distance)} from those of training mode (luck "
        "alone: "
        f"{distance_text(one.stored.expected)}), but {distance_text(one.still.distance)} from those with {_who(case)} off."
        for one in shifted[:4]
        if one.stored is not None and one.still is not None
    ]
    return [
        Finding(
            "other_layers",
            f"{named(shifted, start=True)} {'stores' if len(shifted) == 1 else 'store'} the statistics of a network with "
            f"{_who(case)} at work. Evaluation mode turns "
            f"those off, and the variances behind them change: {effect.metric} changes by {effect.text} for it.",
            tuple(lines),
            "Put dropout behind the last BatchNorm layer, or measure the statistics again with it off: "
            "`bnstudy diagnose … --recalibrate OUT`.",
            tuple(one.layer.name for one in shifted),
            effect.measured.value,
            effect.measured.error,
            effect.metric,
        )
    ]


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
