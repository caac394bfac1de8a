"""Findings about stored statistics that are sound but do not describe the batches: by what pattern they miss them."""

from __future__ import annotations

import math

from bnstudy.analysis.wording import plural
from bnstudy.diagnosis.evidence import Evidence
from bnstudy.diagnosis.result import Finding
from bnstudy.diagnosis.rules.case import CERTAIN, LIKELY, RECALIBRATE, Case, Difference, finding, named
from bnstudy.diagnosis.rules.composition import uneven


def missing(case: Case) -> list[Evidence]:
    """Layers whose stored statistics lie further from the batches' than the luck of a moving average takes them."""
    tested = [one for one in case.found if one.stored is not None and len(one.stored.lucky) > 0]
    return [one for one in tested if one.comparison.beyond_luck() < CERTAIN / len(tested)]


def off_the_mark(case: Case, taken: set[str], noisy: bool = True) -> list[Finding]:
    """Stored statistics under which the model is worse than under those of the batches.

    Too large a momentum if luck explains how far they are; else what pattern they follow: towards the start values (too
    few updates), the input's side only (other preprocessing), or none (of which frozen statistics are one cause).

    Args:
        case: what was measured.
        taken: layers that other findings explain already.
        noisy: whether the luck of a moving average may be a cause.
    """
    rest = [one for one in case.found if one.stored is not None and one.layer.name not in taken]
    far = [one for one in missing(case) if one in rest]
    effect = case.worst(case.stored_unbiased, "population_unbiased", rate=LIKELY if far else CERTAIN)
    if effect is None:
        better = case.worst("population_total", "own", rate=LIKELY)
        return [_adapted(far, better)] if far and better is not None else []
    if not far:
        # Where layers are off for a reason already found, or for dropout, or batches are of several kinds (redrawn as if of
        # one), the effect is not that of luck.
        alone = (
            noisy
            and not taken
            and rest
            and not case.seen.training
            and not any(uneven(one, len(case.found)) for one in case.found)
        )
        return [_noisy(case, rest, effect)] if alone else []
    slow = [one for one in far if _slow(one)]
    if len(slow) * 2 >= len(far):
        return [_slow_average(slow, effect)]
    if len(rest) > 1 and far == rest[:1] and _only_first(rest):
        return [_preprocessing(far[0], rest, effect)]
    # A network whose weights still moved in its last updates lags a little: no fault while evaluation is the better mode.
    if case.worst("own", "batch", rate=LIKELY) is None:
        return []
    # A mean over all updates gives the first as much weight as the last: it needs no other reason to be behind.
    mean = all(one.layer.momentum is None for one in far)
    return [_slow_average(far, effect) if mean else _stale(case, far, effect)]


def _only_first(rest: list[Evidence]) -> bool:
    """Whether the first layer is far off, and not one behind it is off at all."""
    return math.sqrt(rest[0].comparison.distance) > 0.3 and all(one.comparison.beyond_luck() > LIKELY for one in rest[1:])


def _slow(one: Evidence) -> bool:
    """Whether the start values still count in a moving average: whether they fit what is stored.

    The count of batches and the momentum are hints alone: neither makes a share of the start that the numbers do not show.
    But where both say that nothing can be left of the start, what looks like it is another cause's likeness.
    """
    stored, updates, momentum = one.comparison, one.layer.updates, one.layer.momentum
    fits = stored.redrawn is not None and 0 < stored.start <= 1 and stored.start_explains > 0.5
    possible = None if not updates or not momentum else (1 - momentum) ** updates
    return fits and (possible is None or possible > 0.1 * stored.start)


def _noisy(case: Case, rest: list[Evidence], effect: Difference) -> Finding:
    one = max(rest, key=lambda each: each.comparison.distance)
    momentum, m, stored = one.layer.momentum, one.inputs.m, one.comparison
    if momentum:
        worth = plural(max(1, round(2 / momentum - 1)), "batch")
        summary = (
            f"The running statistics rest on about {worth} of {m} values a channel (momentum {momentum:g}): they are a "
            f"matter of luck, and evaluation inherits it: {effect.clause}."
        )
    else:
        summary = f"The running statistics are as scattered as their few batches: {effect.clause}."
    lines = [
        f"{one.layer.name}: stored statistics lie {distance_text(stored.distance)} from those of all batches; a moving "
        f"average with this momentum over such batches lies {distance_text(stored.expected)} away by luck alone, the mean "
        f"of {case.seen.batches:,} batches {distance_text(float(stored.reference.mean()))}."
    ]
    ends = one.inputs.remainder
    if ends and momentum:
        lines.append(
            f"The last batch of a pass has only {ends} values a channel, and a weight of {momentum:g} in an average that "
            "ends with it: use drop_last=True."
        )
    smaller = 0.1 if momentum is None or momentum > 0.3 else momentum / 10
    remedy = (
        f"A smaller momentum, {smaller:g}, or None for the mean of all batches, towards the end of training. {RECALIBRATE}."
    )
    return finding("noisy_average", rest, effect, summary, lines, remedy)


def _slow_average(slow: list[Evidence], effect: Difference) -> Finding:
    one = max(slow, key=lambda each: each.comparison.start)
    momentum, updates, stored = one.layer.momentum, one.layer.updates, one.comparison
    counted = "an uncounted number of" if updates is None else f"{updates:,}"
    lines = [f"{one.layer.name}: {counted} batches at momentum {momentum if momentum is not None else 'None (cumulative)'}."]
    if momentum and updates is not None:
        lines.append(f"So the start values, mean 0 and variance 1, still have a share of {(1 - momentum) ** updates:.2g}.")
    lines.append(
        f"Fitted to what is stored, their share is {stored.start:.2g}; it explains {100 * stored.start_explains:.0f} % of "
        f"the distance to the batches' statistics ({distance_text(stored.distance)}; luck alone: "
        f"{distance_text(stored.expected)})."
    )
    summary = (
        f"The running statistics of {plural(len(slow), 'layer')} have not caught up with the network: they still remember "
        f"their start, or weights long gone. {effect.clause} for it."
    )
    remedy = (
        "A larger momentum (PyTorch's default is 0.1; Keras' 0.99 is 0.01 here) or more batches in training mode. "
        f"{RECALIBRATE}."
    )
    return finding("slow_average", slow, effect, summary, lines, remedy)


def _preprocessing(first: Evidence, rest: list[Evidence], effect: Difference) -> Finding:
    later = max(one.comparison.beyond_luck() for one in rest[1:])
    summary = (
        f"Only {first.layer.name!r}, the first BatchNorm layer, stores statistics of other inputs than these; the layers "
        "behind it, which see them normalised, agree. So the data reach the network in another scale than in training: "
        f"{effect.clause}."
    )
    lines = [
        f"{first.layer.name}: stored statistics lie {distance_text(first.comparison.distance)} from the batches' (luck "
        f"alone: {distance_text(first.comparison.expected)}).",
        f"The other {plural(len(rest) - 1, 'layer')} lie within luck of them (p up to {later:.2g}).",
    ]
    remedy = (
        "Compare the preprocessing of training and evaluation: division by 255, mean and standard deviation, colour order."
    )
    return finding("data_differ", [first], effect, summary, lines, remedy)


def _stale(case: Case, far: list[Evidence], effect: Difference) -> Finding:
    lines = _lines(far)
    counts = sorted({one.layer.updates for one in case.found if one.layer.updates is not None})
    if len(counts) > 1:
        lines.append(f"The layers have not seen equally many batches: {counts[0]:,} to {counts[-1]:,}.")
    lines += [line for one in far if (line := _by_one_factor(one))]
    lines += ["Neither the start values explain it nor the luck of a moving average.", *case.others_with_statistics()]
    summary = (
        f"{named(far, 'stores', 'store')} other statistics than the network has on these batches as it is now, and "
        f"evaluation is worse for it: {effect.clause}. What was measured does not tell the cause: the statistics were "
        "frozen while the weights went on, the weights were averaged or loaded without them, a tool converted or scaled "
        "them, the learning rate was high to the end or the momentum too small to follow, "
        "or these batches are not as in training."
    )
    remedy = (
        f"{RECALIBRATE}. After weight averaging call torch.optim.swa_utils.update_bn. If these batches are not prepared as "
        "in training, that alone would look the same: give batches as training saw them, and these as evaluation batches."
    )
    return finding("frozen", far, effect, summary, lines, remedy)


def _by_one_factor(one: Evidence) -> str:
    """Whether all variances of a layer are off by the same factor, which weights that moved do not make."""
    logs = one.comparison.deviation.var[one.comparison.usable]
    factor, spread = float(logs.mean()), float(logs.std(correction=0))
    if abs(factor) < 0.1 or len(logs) < 2 or spread > 0.05 * abs(factor):
        return ""
    return f"{one.layer.name}: every variance is {math.exp(factor):.4g} times what it should be, all by one factor: a scale."


def _adapted(far: list[Evidence], better: Difference) -> Finding:
    summary = (
        f"{named(far, 'stores', 'store')} other statistics than those of the batches, and the model is better with them: "
        "it was trained further with its statistics frozen, or the batches are not drawn as in training. Measured again: "
        f"{better.clause}."
    )
    remedy = (
        "Leave them. Training mode is not what this model was last trained in: fine-tune it with these layers in "
        "evaluation mode, and do not recalibrate."
    )
    return finding("frozen", far, better.reversed(), summary, _lines(far), remedy)


def _lines(far: list[Evidence]) -> list[str]:
    """How far the worst few are off, and in which direction."""
    lines = []
    for one in sorted(far, key=lambda each: -each.comparison.distance)[:4]:
        stored, usable = one.comparison, one.comparison.usable
        ratio = float(stored.deviation.var[usable].mean().exp())
        shift = float(stored.deviation.mean[usable].square().mean().sqrt())
        lines.append(
            f"{one.layer.name}: stored statistics lie {distance_text(stored.distance)} from the batches' (luck alone: "
            f"{distance_text(stored.expected)}), variances {ratio:.3g} times theirs, means {shift:.2g} σ off."
        )
    return lines


def distance_text(distance: float) -> str:
    """A squared Fisher distance, as the distance."""
    return f"{math.sqrt(max(distance, 0.0)):.3g}"
