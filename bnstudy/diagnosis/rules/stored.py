"""Findings about stored statistics that are sound but do not describe the batches: by what pattern they miss them."""

from __future__ import annotations

import math

from bnstudy.analysis.figures.units import plural
from bnstudy.diagnosis.evidence import ROUNDING, Evidence, Stored
from bnstudy.diagnosis.result import Finding
from bnstudy.diagnosis.rules.case import CERTAIN, LIKELY, Case, Effect
from bnstudy.diagnosis.rules.composition import uneven
from bnstudy.diagnosis.rules.structural import RECALIBRATE, named


def missing(case: Case) -> list[Evidence]:
    """Layers whose stored statistics lie further from the batches' than the luck of a moving average takes them."""
    tested = [one for one in case.found if one.stored is not None and len(one.stored.lucky) > 0]
    return [one for one in tested if one.stored is not None and beyond_luck(one.stored) < CERTAIN / len(tested)]


def beyond_luck(stored: Stored, distance: float | None = None) -> float:
    """The chance that luck alone takes stored statistics so far: of a log-normal through the redrawn distances.

    Args:
        stored: a layer's.
        distance: the squared distance to judge. Default: that of what is stored.
    """
    from scipy.stats import norm

    logs = stored.lucky.clamp(min=ROUNDING).log()
    spread = float(logs.std())
    value = math.log(max(stored.distance if distance is None else distance, ROUNDING))
    return float(norm.sf((value - float(logs.mean())) / max(spread, 1e-3)))


def off_the_mark(case: Case, taken: set[str]) -> list[Finding]:
    """Stored statistics under which the model is worse than under those of the batches.

    Too large a momentum if luck explains how far they are; else what pattern they follow: towards the start values (too
    few updates), the input's side only (other preprocessing), or none (frozen while the weights went on).

    Args:
        case: what was measured.
        taken: layers that other findings explain already.
    """
    rest = [one for one in case.found if one.stored is not None and one.layer.name not in taken]
    far = [one for one in missing(case) if one in rest]
    effect = case.worst(case.stored_unbiased, "population_unbiased", rate=LIKELY if far else CERTAIN)
    if effect is None:
        better = case.worst("population_pooled", "own", rate=LIKELY)
        return [_adapted(far, better)] if far and better is not None else []
    if not far:
        # Where layers are off for a reason already found, or for dropout, or batches are of several kinds (redrawn as if of
        # one), the effect is not that of luck.
        lone = not taken and rest and not case.seen.training and not any(uneven(one, len(case.found)) for one in case.found)
        return [_noisy(case, rest, effect)] if lone else []
    slow = [one for one in far if _slow(one)]
    if len(slow) * 2 >= len(far):
        return [_slow_average(case, slow, effect)]
    if len(rest) > 1 and far == rest[:1] and _only_first(rest):
        return [_preprocessing(case, far[0], rest, effect)]
    # A network whose weights still moved in its last updates lags a little: no fault while evaluation is the better mode.
    if case.worst("own", "batch", rate=LIKELY) is None:
        return []
    # A mean over all updates gives the first as much weight as the last: it needs no other reason to be behind.
    mean = all(one.layer.momentum is None for one in far)
    return [_slow_average(case, far, effect) if mean else _stale(case, far, effect)]


def _only_first(rest: list[Evidence]) -> bool:
    """Whether the first layer is far off, and not one behind it is off at all."""
    first, later = rest[0].stored, [one.stored for one in rest[1:] if one.stored is not None]
    return first is not None and math.sqrt(first.distance) > 0.3 and all(beyond_luck(one) > LIKELY for one in later)


def _slow(one: Evidence) -> bool:
    """Whether the start values, or weights of long ago, still count in a moving average."""
    stored, updates, momentum = one.stored, one.layer.updates, one.layer.momentum
    if stored is None:
        return False
    # What a moving average can still have of its start; a larger share of it is another cause's likeness.
    possible = None if updates is None or not momentum else (1 - momentum) ** updates
    if possible is not None and possible > 1e-3:
        return True
    fits = stored.redrawn is not None and 0 < stored.start <= 1 and stored.start_explains > 0.5
    return fits and (possible is None or possible > 0.1 * stored.start)


def _noisy(case: Case, rest: list[Evidence], effect: Effect) -> Finding:
    one = max(rest, key=lambda each: each.stored.distance if each.stored is not None else 0.0)
    momentum, m = one.layer.momentum, one.inputs.m
    assert one.stored is not None
    worth = 2 / momentum - 1 if momentum else math.nan
    return Finding(
        "noisy_average",
        f"The running statistics rest on about {plural(max(1, round(worth)), 'batch')}"
        + f" of {m} values a channel (momentum {momentum:g}): they are a matter of luck, and evaluation inherits it: "
        f"{effect.metric} changes by {effect.text}."
        if momentum
        else f"The running statistics are as scattered as their few batches: {effect.metric} changes by {effect.text}.",
        (
            f"{one.layer.name}: stored statistics lie {distance_text(one.stored.distance)} from those of all batches; a "
            "moving average "
            f"with this momentum over such batches lies {distance_text(one.stored.expected)} away by luck alone, "
            f"the mean of {case.seen.batches:,} batches {distance_text(float(one.stored.reference.mean()))}.",
        ),
        f"A smaller momentum, {0.1 if momentum is None or momentum > 0.3 else momentum / 10:g}, or None for the mean of all "
        f"batches, towards the end of training. {RECALIBRATE}.",
        tuple(each.layer.name for each in rest),
        effect.measured.value,
        effect.measured.error,
        effect.metric,
    )


def _slow_average(case: Case, slow: list[Evidence], effect: Effect) -> Finding:
    one = max(slow, key=lambda each: each.stored.start if each.stored is not None else 0.0)
    assert one.stored is not None
    momentum, updates = one.layer.momentum, one.layer.updates
    counted = "an uncounted number of" if updates is None else f"{updates:,}"
    lines = [f"{one.layer.name}: {counted} batches at momentum {momentum if momentum is not None else 'None (cumulative)'}."]
    if momentum and updates is not None:
        lines.append(f"So the start values, mean 0 and variance 1, still have a share of {(1 - momentum) ** updates:.2g}.")
    lines.append(
        f"Fitted to what is stored, their share is {one.stored.start:.2g}; it explains "
        f"{100 * one.stored.start_explains:.0f} % of the "
        f"distance to the batches' statistics ({distance_text(one.stored.distance)}; luck alone: "
        f"{distance_text(one.stored.expected)})."
    )
    return Finding(
        "slow_average",
        f"The running statistics of {plural(len(slow), 'layer')} have not caught up with the network: they still remember "
        "their "
        f"start, or weights long gone. {effect.metric} changes by {effect.text} for it.",
        tuple(lines),
        "A larger momentum (PyTorch's default is 0.1; Keras' 0.99 is 0.01 here) or more batches in training mode. "
        f"{RECALIBRATE}.",
        tuple(each.layer.name for each in slow),
        effect.measured.value,
        effect.measured.error,
        effect.metric,
    )


def _preprocessing(case: Case, first: Evidence, rest: list[Evidence], effect: Effect) -> Finding:
    assert first.stored is not None
    later = max(beyond_luck(one.stored) for one in rest[1:] if one.stored is not None)
    return Finding(
        "data_differ",
        f"Only {first.layer.name!r}, the first BatchNorm layer, stores statistics of other inputs than these; the layers "
        "behind it, "
        "which see them normalised, agree. So the data reach the network in another scale than in training: "
        f"{effect.metric} changes by {effect.text}.",
        (
            f"{first.layer.name}: stored statistics lie {distance_text(first.stored.distance)} from the batches' (luck "
            "alone: "
            f"{distance_text(first.stored.expected)}).",
            f"The other {plural(len(rest) - 1, 'layer')} lie within luck of them (p up to {later:.2g}).",
        ),
        "Compare the preprocessing of training and evaluation: division by 255, mean and standard deviation, colour order.",
        (first.layer.name,),
        effect.measured.value,
        effect.measured.error,
        effect.metric,
    )


def _stale(case: Case, far: list[Evidence], effect: Effect) -> Finding:
    lines = _lines(far)
    counts = sorted({one.layer.updates for one in case.found if one.layer.updates is not None})
    if len(counts) > 1:
        lines.append(f"The layers have not seen equally many batches: {counts[0]:,} to {counts[-1]:,}.")
    return Finding(
        "frozen",
        f"{named(far, start=True)} {'stores' if len(far) == 1 else 'store'} not what the network gives "
        "on these batches as it is now: the weights went on and the statistics stayed behind. "
        f"{effect.metric} changes by {effect.text}.",
        (
            *lines,
            "Neither the start values explain it nor the luck of a moving average. Usual reasons: statistics frozen; "
            "weights "
            "averaged or loaded without them; a learning rate so high to the end that the average lags; batches unlike "
            "training's.",
        ),
        f"{RECALIBRATE}. After weight averaging call torch.optim.swa_utils.update_bn. If these batches are not prepared "
        "as in "
        "training, that alone would look the same: give batches as training saw them, and these as evaluation batches.",
        tuple(one.layer.name for one in far),
        effect.measured.value,
        effect.measured.error,
        effect.metric,
    )


def _adapted(far: list[Evidence], better: Effect) -> Finding:
    return Finding(
        "frozen",
        f"{named(far, start=True)} {'stores' if len(far) == 1 else 'store'} other statistics than those of the batches, "
        "and the model is better with them: "
        "it was trained further with its statistics frozen, or the batches are not drawn as in training. Measured again: "
        f"{better.metric} changes by {better.text}.",
        tuple(_lines(far)),
        "Leave them. Training mode is not what this model was last trained in: fine-tune it with these layers in evaluation "
        "mode, and do not recalibrate.",
        tuple(one.layer.name for one in far),
        -better.measured.value,
        better.measured.error,
        better.metric,
    )


def _lines(far: list[Evidence]) -> list[str]:
    """How far the worst few are off."""
    worst = sorted(far, key=lambda one: -one.stored.distance if one.stored is not None else 0.0)[:4]
    return [
        f"{one.layer.name}: stored statistics lie {distance_text(one.stored.distance)} from the batches' (luck alone: "
        f"{distance_text(one.stored.expected)}), {_direction(one)}."
        for one in worst
        if one.stored is not None
    ]


def _direction(one: Evidence) -> str:
    assert one.stored is not None
    usable = one.stored.usable
    ratio = float(one.stored.deviation.var[usable].mean().exp())
    shift = float(one.stored.deviation.mean[usable].square().mean().sqrt())
    return f"variances {ratio:.3g} times theirs, means {shift:.2g} σ off"


def distance_text(distance: float) -> str:
    """A squared Fisher distance, as the distance."""
    return f"{math.sqrt(max(distance, 0.0)):.3g}"
