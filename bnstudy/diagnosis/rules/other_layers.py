"""Findings about what is not BatchNorm: what it does by itself, and to the statistics of BatchNorm layers behind it."""

from __future__ import annotations

from bnstudy.analysis.wording import listed
from bnstudy.diagnosis.result import Finding
from bnstudy.diagnosis.rules.case import CERTAIN, LIKELY, Case, finding, named
from bnstudy.diagnosis.rules.stored import distance_text, missing

_OFF = "measure the statistics again with it off: `bnstudy diagnose … --recalibrate OUT`"


def by_themselves(case: Case) -> list[Finding]:
    """What moves a metric by the mode alone, BatchNorm on batch statistics in both."""
    # That something changes with the mode is a fact already; the question is how much.
    effect = case.worst("batch", "train", both_ways=True, rate=LIKELY if case.seen.training else CERTAIN)
    if effect is None or (case.kept_in_evaluation and not case.seen.changing):  # a train() of its own: that is BatchNorm's
        return []
    lines = [f"With BatchNorm on batch statistics in both modes, {effect.metric} changes by that much."]
    if extra := case.seen.in_training_only:
        names = listed([layer.label for layer in extra], 4)
        lines.append(f"BatchNorm layers that run in training mode only: {names}. So the model takes another way there.")
    lines += case.others_with_statistics()
    remedy = "Nothing to repair where it is meant. Compare modes with these layers off before blaming BatchNorm."
    summary = (
        f"Not BatchNorm: {_who(case)} makes training mode differ from evaluation mode by {effect.text} in {effect.metric}."
    )
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
        f"{named(layers, 'stores', 'store')} the statistics of a network with {_who(case)} in training mode. In evaluation "
        f"mode that does something else, and the variances behind it change: {effect.clause} for it."
    )
    if case.others_with_statistics():
        lines += case.others_with_statistics()
        remedy = f"Look there first. Then {_OFF.replace('it off', 'it in evaluation mode')}."
    elif any("drop" in name.lower() for name in case.seen.changing):
        remedy = f"Put dropout behind the last BatchNorm layer, or {_OFF}."
    else:
        remedy = f"Put it behind the last BatchNorm layer, or {_OFF}."
    return [finding("other_layers", layers, effect, summary, lines, remedy)]


def _who(case: Case) -> str:
    return listed(case.seen.changing, 4) if case.seen.changing else "something other than BatchNorm"
