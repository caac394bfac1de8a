"""Findings about the variance convention: another one's statistics, or what the layers' own costs."""

from __future__ import annotations

from bnstudy.analysis.wording import listed
from bnstudy.diagnosis.conventions import Hypothesis
from bnstudy.diagnosis.result import Finding
from bnstudy.diagnosis.rules.case import RECALIBRATE, Case, finding

_USERS = {
    "paper": " (as in PyTorch)",
    "consistent_biased": " (as Flax, Keras and ONNX do)",
    "consistent_unbiased": " (as in Karpathy's lecture)",
}


def wrong_convention(case: Case, hypothesis: Hypothesis | None) -> list[Finding]:
    """Running variances that another convention would have stored.

    Args:
        case: what was measured.
        hypothesis: as `bnstudy.diagnosis.conventions.best_hypothesis` found it; None where none fits better.
    """
    if hypothesis is None:
        return []
    name, own, rivals = hypothesis.name, case.found[0].layer.convention.name, list(hypothesis.rivals)
    effect = case.worst("own", "population_total", both_ways=True)
    effect = effect or case.effect(case.metrics[-1], "own", "population_total")
    summary = (
        f"The running statistics are those of a model trained under `{name}`{_USERS.get(name, '')}, and its layers here "
        f"are `{own}`: every variance is off by the same ratio, a channel like the next."
    )
    lines = [
        f"The pattern of `{name}` fits with amplitude {hypothesis.amplitude:.2f} ± {hypothesis.error:.2f} (1: exactly this "
        f"convention, 0: `{own}`)."
    ]
    lines += [
        f"{layer}: stored over expected {ratio:.4f} ± {error:.4f}; `{name}` at m = {m} gives {predicted:.4f}."
        for layer, m, ratio, error, predicted in sorted(hypothesis.ratios, key=lambda row: row[1])[:5]
    ]
    if rivals:
        lines.append(f"`{listed(rivals)}` would fit as well.")
    if "consistent_unbiased" in (name, *rivals):
        lines.append("Statistics measured by a pass over few batches (recalibrated) would look like `consistent_unbiased`.")
    lines.append(f"In {effect.metric} it makes {effect.text} of difference to statistics measured on these batches.")
    remedy = (
        "If the checkpoint comes from another framework, translate its running variances: `bnstudy diagnose … --translate "
        "OUT` or `bnstudy translate`. Or measure them again: `--recalibrate OUT`."
    )
    return [finding("wrong_convention", case.found, effect, summary, lines, remedy)]


def bessel_cost(case: Case) -> list[Finding]:
    """What layers lose that store the biased variance, or divide by the unbiased one, by their own convention."""
    effect = case.worst("own", case.stored_unbiased) if case.stored_unbiased != "own" else None
    if effect is None:
        return []
    own = [one for one in case.found if one.layer.convention.name != "paper" and not one.layer.fixed]
    least = min(own, key=lambda one: one.inputs.m)
    m = least.inputs.m
    summary = (
        f"The layers' own convention, `{least.layer.convention.name}`, stores a variance that does not match the one "
        f"training divides by: {effect.clause} for the constant m/(m-1) alone."
    )
    lines = [f"{least.layer.name}: m = {m}, so the ratio is {m / max(1, m - 1):.4f}."]
    remedy = (
        "Store the unbiased variance for inference, times m/(m-1) where the unbiased one normalises; at this batch size "
        f"the choice matters. {RECALIBRATE}."
    )
    return [finding("wrong_convention", own, effect, summary, lines, remedy)]
