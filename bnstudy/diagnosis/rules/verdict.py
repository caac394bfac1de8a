"""All rules over a case, in the order in which a reader needs them."""

from __future__ import annotations

import math

from bnstudy.analysis.figures.units import amount, listed, metric_of, plural
from bnstudy.diagnosis.conventions import best_hypothesis, recalibrated
from bnstudy.diagnosis.result import TERMS, Finding
from bnstudy.diagnosis.rules import composition, convention, other_layers, stored, structural
from bnstudy.diagnosis.rules.case import FEWEST, LIKELY, Case
from bnstudy.diagnosis.rules.differing import data_differ


def findings(case: Case) -> tuple[Finding, ...]:
    """What is wrong with a model, most important first; one finding of kind "healthy" if nothing is.

    Broken and untouched statistics come first, since nothing else can be judged with them; then a wrong convention and data
    that differ, which are mistakes whatever they cost; then what explains most of the gap; then what costs nothing that
    these data can show.
    """
    broken = structural.invalid_statistics(case)
    untouched = structural.untouched_statistics(case)
    measured = recalibrated(case.found)
    hypothesis = best_hypothesis(case.found, case.seen)
    ported = convention.wrong_convention(case, hypothesis)
    certain = [*ported, *data_differ(case)]
    taken = {name for finding in (*broken, *untouched, *ported) for name in finding.layers}
    frozen = structural.frozen_by_design(case)
    shared = composition.shared_layer(case)
    design = {name for finding in (*frozen, *shared) for name in finding.layers}
    costly = [finding for finding in (*shared, *frozen) if finding.effect is not None]
    weighed = [
        *costly,
        *([] if hypothesis else convention.bessel_cost(case)),
        *([] if measured else stored.off_the_mark(case, taken | design)),
    ]
    weighed += other_layers.variance_shift(case)
    alike = [] if any(finding.kind == "shared_layer" for finding in costly) else composition.batches(case)
    weighed += [finding for finding in alike if finding.effect is not None]
    if not (certain or broken or untouched or shared):
        weighed += composition.overshoot(case)
    weighed.sort(key=lambda finding: -_weight(case, finding))
    free = [finding for finding in (*shared, *frozen, *alike) if finding.effect is None]
    free += [*structural.no_statistics(case), *structural.dead_channels(case), *structural.zero_gain(case)]
    found = [*broken, *untouched, *certain, *weighed, *free]
    if all(finding.effect is None for finding in found) and any(one.layer.stored is not None for one in case.found):
        found = sorted([*_unexplained(case), *found], key=lambda finding: finding.kind == "not_separable")
    if not any(finding.kind == "other_layers" for finding in found):
        found += other_layers.by_themselves(case)
    return tuple(found or [_healthy(case)])


def _weight(case: Case, finding: Finding) -> float:
    """The size of a finding's effect in units of its metric's own error."""
    if finding.effect is None or finding.metric is None:
        return 0.0
    if math.isnan(finding.effect):
        return math.inf
    return abs(finding.effect) / case.effect(finding.metric, "own", "batch").own_error


def _unexplained(case: Case) -> list[Finding]:
    """A gap that is there but fits no rule, or that more batches might show."""
    batches = case.seen.batches
    known = [metric for metric in case.metrics if case.directions[metric] is not None]
    gap = case.worst("own", "batch")
    if gap is not None and gap.metric in known:
        return [
            Finding(
                "unexplained",
                f"Evaluation mode is worse than training mode: {gap.metric} changes by {gap.text}, and no rule says why.",
                (_terms(case, gap.metric),),
                f"If the term `lag` is large, {RECALIBRATE_LOWER}; if `noise` is, larger batches or GroupNorm.",
                (),
                gap.measured.value,
                gap.measured.error,
                gap.metric,
            )
        ]
    if batches < FEWEST:
        return [
            Finding(
                "not_separable",
                f"{plural(batches, 'batch')} {'does' if batches == 1 else 'do'} not say how far luck goes.",
                (f"Standard errors over fewer than {FEWEST} batches are too rough for a verdict.",),
                f"Give {FEWEST - batches} more batches, better {max(20 - batches, 1)}.",
            )
        ]
    doubtful = [
        case.effect(metric, first, second)
        for metric in known
        for first, second in (("own", "population_pooled"), ("own", "batch"))
    ]
    better = {metric for metric in known if (gap := case.effect(metric, "own", "batch")).harm < 0 and gap.p < LIKELY}
    doubtful = [
        one for one in doubtful if one.harm > 0 and one.material and not one.significant and one.metric not in better
    ]
    if not doubtful:
        return []
    one = max(doubtful, key=lambda each: each.weight)
    wanted = math.ceil(batches * (4 * one.measured.error / abs(one.measured.value)) ** 2)
    return [
        Finding(
            "not_separable",
            f"Evaluation mode may be worse: {one.metric} changes by {one.text}, more than twice its own error, but too "
            "little to "
            "tell from luck.",
            (f"{batches} batches, {case.seen.samples:,} samples.",),
            f"Give {max(1, wanted - batches):,} more batches.",
            (),
            one.measured.value,
            one.measured.error,
            one.metric,
        )
    ]


RECALIBRATE_LOWER = structural.RECALIBRATE[0].lower() + structural.RECALIBRATE[1:]


def _terms(case: Case, metric: str) -> str:
    path = ["own", case.stored_unbiased, "population_unbiased", "population_pooled", "batch"]
    said = [
        f"{name} {case.effect(metric, first, second).text}"
        for name, first, second in zip(TERMS, path[:-1], path[1:], strict=True)
        if first != second
    ]
    return f"The gap in {metric} is made of {listed(said)}."


def _healthy(case: Case) -> Finding:
    lines = []
    for metric in case.metrics:
        gap = case.effect(metric, "own", "batch")
        own, batch = (case.levels.contrast(metric, **{side: 1.0}).value for side in ("own", "batch"))
        shown = metric_of(metric)
        lines.append(
            f"{metric}: {amount(own, shown, unit=False)} in evaluation mode, {amount(batch, shown, unit=False)} on batch "
            f"statistics; difference {gap.text}."
        )
    better = any(
        one.significant and one.material for one in (case.effect(metric, "own", "batch") for metric in case.metrics)
    )
    if better:
        lines.append("Evaluation mode is the better one: statistics of all data are less noisy than those of a batch.")
    return Finding(
        "healthy",
        "What the BatchNorm layers store is what these batches say, within luck or without consequence; evaluation mode "
        "is not "
        "worse for it.",
        tuple(lines),
        "Nothing to do.",
    )
