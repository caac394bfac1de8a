"""Findings that need no statistics: what is stored, counted and wired cannot be right, or says everything by itself."""

from __future__ import annotations

from bnstudy.analysis.figures.units import listed, plural
from bnstudy.diagnosis.evidence import Evidence
from bnstudy.diagnosis.result import Finding
from bnstudy.diagnosis.rules.case import Case

RECALIBRATE = "Measure the statistics again on training batches: `bnstudy diagnose … --recalibrate OUT`"


def named(layers: list[Evidence], start: bool = False) -> str:
    """Layers in a sentence, or at its start."""
    names = [repr(one.layer.name) for one in layers]
    noun = "layer" if len(names) == 1 else "layers"
    return f"{noun.capitalize() if start else noun} {listed(names, 4)}"


def invalid_statistics(case: Case) -> list[Finding]:
    """NaN, infinite or negative stored values."""
    bad = [one for one in case.found if bool(one.broken.any())]
    if not bad:
        return []
    lines = []
    for one in bad[:6]:
        mean, var = one.layer.stored or (one.broken, one.broken)
        kinds = {
            "a mean that is not finite": ~mean.isfinite(),
            "a variance that is not finite": ~var.isfinite(),
            "a negative variance": var < 0,
        }
        said = [f"{int(where.sum())} with {kind}" for kind, where in kinds.items() if bool(where.any())]
        lines.append(f"{one.layer.name}: of {len(one.broken)} channels {listed(said)}")
    return [
        Finding(
            "invalid_statistics",
            f"{named(bad, start=True)} {'holds' if len(bad) == 1 else 'hold'} running statistics that no data can have. "
            "Evaluation mode divides by them; "
            "training mode does not look at them, so training seems fine.",
            tuple(lines),
            "Find the batch that brought the first non-finite input (one is enough: a moving average never forgets NaN) "
            "or the "
            f"tool that wrote the checkpoint. {RECALIBRATE}.",
            tuple(one.layer.name for one in bad),
            *_effect(case, "own", "population_pooled"),
        )
    ]


def untouched_statistics(case: Case) -> list[Finding]:
    """Statistics at their start values: never updated where no batch was counted, else reset."""
    at_start = []
    for one in case.found:
        if one.layer.stored is None or one.layer.fixed:
            continue
        mean, var = one.layer.stored
        moved = one.stored is not None and one.stored.distance > 0
        if moved and bool((mean == 0).all()) and bool((var == 1).all()):
            at_start.append(one)
    counted = [one for one in case.found if one.layer.updates]
    fresh = [one for one in at_start if not one.layer.updates]
    again = [one for one in at_start if one.layer.updates]
    found = []
    if again:
        counts = sorted({one.layer.updates or 0 for one in counted})
        found.append(
            Finding(
                "reset",
                f"{named(again, start=True)} {'holds' if len(again) == 1 else 'hold'} the start values, mean 0 and "
                "variance 1, although the model has been "
                "trained.",
                (
                    f"num_batches_tracked goes up to {counts[-1]:,} in this model, but every channel of "
                    f"{plural(len(again), 'layer')} has exactly mean 0 and variance 1.",
                    *_far(again),
                ),
                "Something called reset_running_stats, or the checkpoint was loaded with strict=False and lacked the "
                "buffers. "
                f"{RECALIBRATE}.",
                tuple(one.layer.name for one in again),
                *_effect(case, "own", "population_pooled"),
            )
        )
    if fresh:
        found.append(
            Finding(
                "never_updated",
                f"{named(fresh, start=True)} {'has' if len(fresh) == 1 else 'have'} never seen a batch in training mode: "
                "evaluation uses mean 0 and "
                "variance 1.",
                (
                    "num_batches_tracked is 0 or absent, and every channel has exactly mean 0 and variance 1.",
                    *([f"The model's other layers have counted batches ({len(counted)} of them)."] if counted else []),
                    *_far(fresh),
                ),
                "The model was trained with these layers in evaluation mode, or its buffers were not saved (parameters() "
                "leaves "
                f"them out, state_dict() does not). {RECALIBRATE}.",
                tuple(one.layer.name for one in fresh),
                *_effect(case, "own", "population_pooled"),
            )
        )
    return found


def frozen_by_design(case: Case) -> list[Finding]:
    """Layers that training mode cannot move: kept in evaluation mode, momentum 0, or of a frozen class."""
    why = {}
    for one in case.found:
        if one.layer.fixed:
            why[one.layer.name] = f"is a {type(one.layer.module).__name__}"
        elif one.layer in case.kept_in_evaluation:
            why[one.layer.name] = "is still in evaluation mode after model.train()"
        elif one.layer.momentum == 0 and one.layer.stored is not None:
            why[one.layer.name] = "has momentum 0"
    effect = _effect(case, "own", "population_pooled")
    if not why or (effect[0] is None and all(one.layer.fixed for one in case.found if one.layer.name in why)):
        return []  # layers of a frozen class are a choice; what they cost is another matter
    names = list(why)
    return [
        Finding(
            "frozen",
            f"Training does not update the statistics of {plural(len(names), 'layer')} "
            f"({listed([repr(name) for name in names], 4)}): "
            "what they store is as old as the day they were frozen.",
            tuple(f"{name} {reason}." for name, reason in list(why.items())[:6]),
            "Fine where it is meant, as in fine-tuning on small batches. Where it is not, leave the layers in training "
            "mode with "
            f"momentum 0.1. {RECALIBRATE}, if the weights before them have changed since.",
            tuple(names),
            *_effect(case, "own", "population_pooled"),
        )
    ]


def no_statistics(case: Case) -> list[Finding]:
    """Layers without running buffers, which use the batch's own statistics in evaluation mode too."""
    bare = [one for one in case.found if one.layer.stored is None]
    if not bare:
        return []
    return [
        Finding(
            "no_statistics",
            f"{named(bare, start=True)} {'stores' if len(bare) == 1 else 'store'} no statistics "
            "(track_running_stats=False): in evaluation mode too, the "
            "answer for "
            "a sample depends on the other samples of its batch, and a batch of one sample fails or is all β.",
            (f"running_mean and running_var are absent in {len(bare)} of {len(case.found)} layers.",),
            "Build the layers with track_running_stats=True and measure the statistics: `bnstudy.population_statistics`.",
            tuple(one.layer.name for one in bare),
        )
    ]


def dead_channels(case: Case) -> list[Finding]:
    """Channels whose input never varies."""
    off = [one.position for one in case.found if bool(one.zero_gain.all())]
    # Behind a layer whose every γ is 0 nothing varies any more: that layer is the finding.
    # A feature that is constant in the data is no channel that died: there is no layer before it.
    first = next((module for module in case.model.modules() if module._parameters or module._buffers), None)
    dead = [
        one
        for one in case.found
        if one.layer.module is not first
        and not bool(one.alive.all())
        and not (off and off[0] < one.position and not bool(one.alive.any()))
    ]
    if not dead:
        return []
    lines = [f"{one.layer.name}: {int((~one.alive).sum())} of {len(one.alive)} channels" for one in dead[:6]]
    return [
        Finding(
            "dead_channels",
            f"The input of {plural(sum(int((~one.alive).sum()) for one in dead), 'channel')} in {named(dead)} never "
            "varies, in any "
            "sample of any batch. Their stored variance goes to 0, and evaluation mode multiplies the slightest change by "
            "γ/√ε, 316·γ at PyTorch's ε.",
            (*lines, f"Constant to float precision over {case.seen.samples:,} samples."),
            "Look at the layer before: weights at zero, or a ReLU that nothing passes. Re-initialise or prune these "
            "channels; "
            "a smaller learning rate or a warm-up keeps them alive.",
            tuple(one.layer.name for one in dead),
        )
    ]


def zero_gain(case: Case) -> list[Finding]:
    """Channels with γ at zero, whose input cannot reach the output."""
    off = [one for one in case.found if bool(one.zero_gain.any())]
    if not off:
        return []
    whole = [one.layer.name for one in off if bool(one.zero_gain.all())]
    lines = [f"{one.layer.name}: γ = 0 in {int(one.zero_gain.sum())} of {len(one.zero_gain)} channels" for one in off[:6]]
    if whole:
        lines.append(f"In {listed([repr(name) for name in whole], 4)} every γ is 0: the branch is switched off.")
    return [
        Finding(
            "zero_gain",
            f"γ is zero in {plural(sum(int(one.zero_gain.sum()) for one in off), 'channel')} of {named(off)}: they give β, "
            "whatever comes in, in both modes.",
            tuple(lines),
            "Expected right after zero_init_residual, or after pruning. In a trained model: weight decay on γ without "
            "gradient, "
            "or a branch that never learned; exclude γ from weight decay, or remove the channels.",
            tuple(one.layer.name for one in off),
        )
    ]


def _far(layers: list[Evidence]) -> list[str]:
    lines = []
    for one in layers[:2]:
        variances = one.inputs.population.pooled.cpu()[one.alive]
        lines.append(f"{one.layer.name}: the batches have variances of {_range(variances.tolist())}.")
    return lines


def _range(values: list[float]) -> str:
    return f"{min(values):.3g} to {max(values):.3g}"


def _effect(case: Case, first: str, second: str) -> tuple[float | None, float | None, str | None]:
    effect = case.worst(first, second)
    return (None, None, None) if effect is None else (effect.measured.value, effect.measured.error, effect.metric)
