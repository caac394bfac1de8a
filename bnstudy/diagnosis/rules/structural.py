"""Findings that need no statistics: what is stored, counted and wired cannot be right, or says everything by itself."""

from __future__ import annotations

import torch
from torch import Tensor

from bnstudy.analysis.wording import listed, plural
from bnstudy.diagnosis.evidence import Evidence
from bnstudy.diagnosis.result import Finding
from bnstudy.diagnosis.rules.case import RECALIBRATE, Case, finding, named


def invalid_statistics(case: Case) -> list[Finding]:
    """NaN, infinite or negative stored values."""
    bad = [one for one in case.found if bool(one.broken.any())]
    lines = []
    for one in bad[:6]:
        mean, var = one.layer.stored or (one.broken, one.broken)
        kinds = {
            "a mean that is not finite": ~mean.isfinite(),
            "a variance that is not finite": ~var.isfinite(),
            "a negative variance": var < 0,
        }
        faults = [f"{int(where.sum())} with {kind}" for kind, where in kinds.items() if bool(where.any())]
        lines.append(f"{one.layer.name}: of {len(one.broken)} channels {listed(faults)}")
    summary = (
        f"{named(bad, 'holds', 'hold')} running statistics that no data can have. Evaluation mode divides by them; "
        "training mode does not look at them, so training seems fine."
    )
    for one in bad[:6]:
        stored, needed = one.layer.stored, float(one.inputs.population.total.max())
        if stored is not None and needed > (largest := torch.finfo(stored[1].dtype).max):
            kind = str(stored[1].dtype).removeprefix("torch.")
            lines.append(
                f"{one.layer.name}: the batches have variances of up to {needed:.3g}, and {kind} ends at {largest:.5g}: "
                "keep the layer in float32."
            )
    remedy = (
        "Find the batch that brought the first non-finite input (one is enough: a moving average never forgets NaN) or the "
        f"tool that wrote the checkpoint. {RECALIBRATE}."
    )
    effect = case.worst("own", "population_total") or case.worst("own", "batch")
    return [finding("invalid_statistics", bad, effect, summary, lines, remedy)] if bad else []


def untouched_statistics(case: Case) -> list[Finding]:
    """Statistics at their start values: never updated where no batch was counted, else reset."""
    at_start = [one for one in case.found if not one.layer.fixed and one.stored is not None and _at_start(one)]
    counts = [one.layer.updates for one in case.found if one.layer.updates]
    fresh = [one for one in at_start if not one.layer.updates]
    again = [one for one in at_start if one.layer.updates]
    effect = case.worst("own", "population_total")
    found = []
    if again:
        summary = (
            f"{named(again, 'holds', 'hold')} the start values, mean 0 and variance 1, although the model has been trained."
        )
        counted = (
            f"num_batches_tracked goes up to {max(counts):,} in this model, but every channel of "
            f"{plural(len(again), 'layer')} has exactly mean 0 and variance 1."
        )
        remedy = (
            "Something called reset_running_stats, or the checkpoint was loaded with strict=False and lacked the buffers. "
            f"{RECALIBRATE}."
        )
        found.append(finding("reset", again, effect, summary, [counted, *_far(again)], remedy))
    if fresh:
        summary = (
            f"{named(fresh, 'has', 'have')} never seen a batch in training mode: evaluation uses mean 0 and variance 1."
        )
        lines = ["num_batches_tracked is 0 or absent, and every channel has exactly mean 0 and variance 1."]
        lines += [f"The model's other layers have counted batches ({len(counts)} of them)."] if counts else []
        remedy = (
            "The model was trained with these layers in evaluation mode, or its buffers were not saved (parameters() "
            f"leaves them out, state_dict() does not). {RECALIBRATE}."
        )
        found.append(finding("never_updated", fresh, effect, summary, [*lines, *_far(fresh)], remedy))
    return found


def frozen_by_design(case: Case) -> list[Finding]:
    """Layers that training mode cannot move: kept in evaluation mode, momentum 0, or of a frozen class."""
    why: dict[Evidence, str] = {}
    for one in case.found:
        if one.layer.fixed:
            why[one] = f"is a {type(one.layer.module).__name__}"
        elif one.layer in case.kept_in_evaluation:
            why[one] = "is still in evaluation mode after model.train()"
        elif one.layer.momentum == 0 and one.layer.stored is not None:
            why[one] = "has momentum 0"
    effect = case.worst("own", "population_total")
    if not why or (effect is None and all(one.layer.fixed for one in why)):
        return []  # layers of a frozen class are a choice; what they cost is another matter
    names = listed([repr(one.layer.name) for one in why], 4)
    summary = (
        f"Training does not update the statistics of {plural(len(why), 'layer')} ({names}): what they store is as old as "
        "the day they were frozen."
    )
    remedy = (
        "Fine where it is meant, as in fine-tuning on small batches. Where it is not, leave the layers in training mode "
        f"with momentum 0.1. {RECALIBRATE}, if the weights before them have changed since."
    )
    lines = [f"{one.layer.name} {reason}." for one, reason in list(why.items())[:6]]
    return [finding("frozen", list(why), effect, summary, lines, remedy)]


def no_statistics(case: Case) -> list[Finding]:
    """Layers without running buffers, which use the batch's own statistics in evaluation mode too."""
    bare = [one for one in case.found if one.layer.stored is None]
    summary = (
        f"{named(bare, 'stores', 'store')} no statistics (track_running_stats=False): in evaluation mode too, the answer "
        "for a sample depends on the other samples of its batch, and a batch of one sample fails or is all β."
    )
    lines = [f"running_mean and running_var are absent in {len(bare)} of {len(case.found)} layers."]
    remedy = "Build the layers with track_running_stats=True and measure the statistics: `bnstudy.population_statistics`."
    return [finding("no_statistics", bare, None, summary, lines, remedy)] if bare else []


def dead_channels(case: Case) -> list[Finding]:
    """Channels whose input never varies."""
    off = [one.position for one in case.found if bool(one.zero_gain.all())]
    # Behind a layer whose every γ is 0 nothing varies any more: that layer is the finding.
    dead = [
        one
        for one in case.found
        if one.layer not in case.on_data  # a feature that is constant in the data is no channel that died
        and not bool(one.alive.all())
        and not (off and off[0] < one.position and not bool(one.alive.any()))
    ]
    counts, lines = _counted(dead, [~one.alive for one in dead])
    lines.append(f"Constant to float precision over {case.seen.samples:,} samples.")
    summary = (
        f"The input of {counts} in {named(dead)} never varies, in any sample of any batch. Their stored variance goes to "
        "0, and evaluation mode multiplies the slightest change by γ/√ε, 316·γ at PyTorch's ε."
    )
    remedy = (
        "Look at the layer before: weights at zero, or a ReLU that nothing passes. Re-initialise or prune these channels; "
        "a smaller learning rate or a warm-up keeps them alive."
    )
    return [finding("dead_channels", dead, None, summary, lines, remedy)] if dead else []


def zero_gain(case: Case) -> list[Finding]:
    """Channels with γ at zero, whose input cannot reach the output."""
    off = [one for one in case.found if bool(one.zero_gain.any())]
    counts, lines = _counted(off, [one.zero_gain for one in off], "γ = 0 in ")
    if whole := [repr(one.layer.name) for one in off if bool(one.zero_gain.all())]:
        lines.append(f"In {listed(whole, 4)} every γ is 0: the branch is switched off.")
    summary = f"γ is zero in {counts} of {named(off)}: they give β, whatever comes in, in both modes."
    remedy = (
        "Expected right after zero_init_residual, or after pruning. In a trained model: weight decay on γ without "
        "gradient, or a branch that never learned; exclude γ from weight decay, or remove the channels."
    )
    return [finding("zero_gain", off, None, summary, lines, remedy)] if off else []


def _at_start(one: Evidence) -> bool:
    """Whether a layer stores exactly the start values, and these are not what the batches say."""
    mean, var = one.layer.stored or (one.broken, one.broken)
    return one.stored is not None and one.stored.distance > 0 and bool((mean == 0).all()) and bool((var == 1).all())


def _counted(layers: list[Evidence], channels: list[Tensor], what: str = "") -> tuple[str, list[str]]:
    """How many channels in all, and a line for each of the first layers."""
    lines = [
        f"{one.layer.name}: {what}{int(some.sum())} of {len(some)} channels"
        for one, some in zip(layers[:6], channels, strict=False)
    ]
    return plural(sum(int(some.sum()) for some in channels), "channel"), lines


def _far(layers: list[Evidence]) -> list[str]:
    lines = []
    for one in layers[:2]:
        variances = one.inputs.population.total.cpu()[one.alive].tolist()
        lines.append(f"{one.layer.name}: the batches have variances of {min(variances):.3g} to {max(variances):.3g}.")
    return lines
