"""Findings about the variance convention: another one's statistics, or what the layers' own costs."""

from __future__ import annotations

from bnstudy.analysis.figures.units import listed
from bnstudy.diagnosis.conventions import Hypothesis
from bnstudy.diagnosis.result import Finding
from bnstudy.diagnosis.rules.case import Case
from bnstudy.diagnosis.rules.structural import RECALIBRATE


def wrong_convention(case: Case, hypothesis: Hypothesis | None) -> list[Finding]:
    """Running variances that another convention would have stored.

    Args:
        case: what was measured.
        hypothesis: as `bnstudy.diagnosis.conventions.best_hypothesis` found it; None where none fits better.
    """
    if hypothesis is None:
        return []
    effect = case.worst("own", "population_pooled", both_ways=True) or case.effect(
        case.metrics[-1], "own", "population_pooled"
    )
    rows = sorted(hypothesis.ratios, key=lambda row: row[1])[:5]
    lines = [
        f"{name}: stored over expected {ratio:.4f} ± {error:.4f}; `{hypothesis.name}` at m = {m} gives {predicted:.4f}."
        for name, m, ratio, error, predicted in rows
    ]
    own = case.found[0].layer.convention.name
    return [
        Finding(
            "wrong_convention",
            f"The running statistics are those of a model trained under `{hypothesis.name}`{_who(hypothesis.name)}, and "
            "its layers "
            f"here are `{own}`: every variance is off by the same ratio, a channel like the next.",
            (
                f"The pattern of `{hypothesis.name}` fits with amplitude {hypothesis.amplitude:.2f} ± "
                f"{hypothesis.error:.2f} "
                f"(1: exactly this convention, 0: `{own}`).",
                *lines,
                *([f"`{listed(list(hypothesis.rivals))}` would fit as well."] if hypothesis.rivals else []),
                *(
                    ["Statistics measured by a pass over few batches (recalibrated) would look like `consistent_unbiased`."]
                    if "consistent_unbiased" in (hypothesis.name, *hypothesis.rivals)
                    else []
                ),
                f"In {effect.metric} it makes {effect.text} of difference to statistics measured on these batches.",
            ),
            "If the checkpoint comes from another framework, translate its running variances: `bnstudy diagnose … "
            "--translate OUT` "
            "or `bnstudy translate`. Or measure them again: `--recalibrate OUT`.",
            tuple(one.layer.name for one in case.found),
            effect.measured.value,
            effect.measured.error,
            effect.metric,
        )
    ]


def bessel_cost(case: Case) -> list[Finding]:
    """What layers lose that store the biased variance, or divide by the unbiased one, by their own convention."""
    effect = case.worst("own", case.stored_unbiased) if case.stored_unbiased != "own" else None
    if effect is None:
        return []
    own = [one for one in case.found if one.layer.convention.name != "paper" and not one.layer.fixed]
    least = min(own, key=lambda one: one.inputs.m)
    m, name = least.inputs.m, least.layer.convention.name
    return [
        Finding(
            "wrong_convention",
            f"The layers' own convention, `{name}`, stores a variance that does not match the one training divides by: "
            f"{effect.metric} changes by {effect.text} for the constant m/(m-1) alone.",
            (f"{least.layer.name}: m = {m}, so the ratio is {m / max(1, m - 1):.4f}.",),
            "Store the unbiased variance for inference, k·s² of DESIGN.md; at this batch size the choice matters. "
            f"{RECALIBRATE}.",
            tuple(one.layer.name for one in own),
            effect.measured.value,
            effect.measured.error,
            effect.metric,
        )
    ]


def _who(name: str) -> str:
    used = {
        "consistent_biased": ["Flax", "Keras", "ONNX"],
        "consistent_unbiased": ["Karpathy's lecture"],
        "paper": ["PyTorch"],
    }.get(name, [])
    return f" (as {listed(used)} do)" if len(used) > 1 else f" (as in {used[0]})" if used else ""
