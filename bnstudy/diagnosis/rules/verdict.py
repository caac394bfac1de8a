"""All rules over a case, in the order in which a reader needs them."""

from __future__ import annotations

import math

from bnstudy.analysis.wording import listed, plural
from bnstudy.diagnosis.conventions import best_hypothesis, measured_in_one_pass
from bnstudy.diagnosis.result import PATH, TERMS, Finding
from bnstudy.diagnosis.rules import composition, convention, other_layers, stored, structural
from bnstudy.diagnosis.rules.case import FEWEST, LIKELY, RECALIBRATE, Case, finding
from bnstudy.diagnosis.rules.differing import data_differ


def findings(case: Case) -> tuple[Finding, ...]:
    """What is wrong with a model, most important first; one finding of kind "healthy" if nothing is.

    Broken and untouched statistics come first, since nothing else can be judged with them; then a wrong convention and data
    that differ, which are mistakes whatever they cost; then what explains most of the gap; then what costs nothing that
    these data can show.
    """
    broken = [*structural.invalid_statistics(case), *structural.untouched_statistics(case)]
    hypothesis = best_hypothesis(case.found, case.seen)
    ported = convention.wrong_convention(case, hypothesis)
    certain = [*ported, *data_differ(case)]
    taken = {name for cause in (*broken, *ported) for name in cause.layers}
    frozen, shared = structural.frozen_by_design(case), composition.shared_layer(case)
    design = {name for cause in (*frozen, *shared) for name in cause.layers}
    weighed = [cause for cause in (*shared, *frozen) if cause.effect is not None]
    single = composition.single_samples(case)
    shared_costs = any(cause.kind == "shared_layer" for cause in weighed)
    alike = single or ([] if shared_costs else composition.batches(case))
    weighed += [] if hypothesis else convention.bessel_cost(case)
    if not measured_in_one_pass(case.found):
        weighed += stored.off_the_mark(case, taken | design, noisy=not single)
    weighed += other_layers.variance_shift(case)
    weighed += [cause for cause in alike if cause.effect is not None]
    if not (certain or broken or shared or single):
        weighed += composition.overshoot(case)
    weighed.sort(key=lambda cause: -_weight(case, cause))
    free = [cause for cause in (*shared, *frozen, *alike) if cause.effect is None]
    free += [*structural.no_statistics(case), *structural.dead_channels(case), *structural.zero_gain(case)]
    found = [*broken, *certain, *weighed, *free]
    if not broken and all(cause.effect is None for cause in found) and any(one.stored is not None for one in case.found):
        found = sorted([*_unexplained(case), *found], key=lambda cause: cause.kind == "not_separable")
    if not any(cause.kind == "other_layers" for cause in found):
        found += other_layers.by_themselves(case)
    return tuple(found or [_healthy(case)])


def _weight(case: Case, cause: Finding) -> float:
    """The size of a finding's effect in units of its metric's own error."""
    if cause.effect is None:
        return 0.0
    value = abs(cause.effect.value)
    return math.inf if math.isnan(value) else value / case.effect(cause.effect.metric, "own", "batch").own_error


def _unexplained(case: Case) -> list[Finding]:
    """A gap that is there but fits no rule, or that more batches might show."""
    batches = case.seen.batches
    known = [metric for metric in case.metrics if case.directions[metric] is not None]
    gap = case.worst("own", "batch")
    if gap is not None and gap.metric in known:
        summary = f"Evaluation mode is worse than training mode: {gap.clause}, and no rule says why."
        again = RECALIBRATE[0].lower() + RECALIBRATE[1:]
        remedy = f"If the term `lag` is large, {again}; if `noise` is, larger batches or GroupNorm."
        return [finding("unexplained", [], gap, summary, [_terms(case, gap.metric)], remedy)]
    if batches < FEWEST:
        summary = f"{plural(batches, 'batch')} {'does' if batches == 1 else 'do'} not say how far luck goes."
        lines = [f"Standard errors over fewer than {FEWEST} batches are too rough for a verdict."]
        remedy = f"Give {FEWEST - batches} more batches, better {max(20 - batches, 1)}."
        return [finding("not_separable", [], None, summary, lines, remedy)]
    doubtful = []
    for metric in known:
        whole = case.effect(metric, "own", "batch")
        if whole.harm < 0 and whole.p < LIKELY:
            continue  # evaluation is the better mode
        effects = (case.effect(metric, "own", "population_total"), whole)
        doubtful += [effect for effect in effects if effect.harm > 0 and effect.material and not effect.certain]
    if not doubtful:
        return []
    worst = max(doubtful, key=lambda effect: effect.weight)
    wanted = math.ceil(batches * (4 * worst.error / abs(worst.value)) ** 2)
    summary = (
        f"Evaluation mode may be worse: {worst.clause}, more than twice its own error, but too little to tell from luck."
    )
    lines = [f"{batches} batches, {case.seen.samples:,} samples."]
    remedy = f"Give {max(1, wanted - batches):,} more batches."
    return [finding("not_separable", [], worst, summary, lines, remedy)]


def _terms(case: Case, metric: str) -> str:
    parts = []
    for name in TERMS:
        sides = [case.stored_unbiased if side == "ema_unbiased" else side for side in PATH[name][:2]]
        if sides[0] != sides[1]:
            parts.append(f"{name} {case.effect(metric, *sides).text}")
    return f"The gap in {metric} is made of {listed(parts)}."


def _healthy(case: Case) -> Finding:
    lines, gaps = [], [case.effect(metric, "own", "batch") for metric in case.metrics]
    for gap in gaps:
        own, batch = (case.levels.contrast(gap.metric, **{side: 1.0}) for side in ("own", "batch"))
        sides = [side.level(gap.metric, error=False) for side in (own, batch)]
        lines.append(f"{gap.metric}: {sides[0]} in evaluation mode, {sides[1]} on batch statistics; difference {gap.text}.")
    if any(gap.certain and gap.material for gap in gaps):
        lines.append("Evaluation mode is the better one: statistics of all data are less noisy than those of a batch.")
    summary = (
        "What the BatchNorm layers store is what these batches say, within luck or without consequence; evaluation mode is "
        "not worse for it."
    )
    return finding("healthy", [], None, summary, lines, "Nothing to do.")
