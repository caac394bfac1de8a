"""Findings about the batches themselves: too small, made of samples that depend on each other, or of several kinds."""

from __future__ import annotations

import math

import torch
from scipy import stats
from torch import Tensor

from bnstudy.analysis.wording import plural
from bnstudy.diagnosis.evidence import Evidence
from bnstudy.diagnosis.result import Finding
from bnstudy.diagnosis.rules.case import CERTAIN, LIKELY, RECALIBRATE, Case, Difference, finding, named

SMALL = 5.0
"""Independent values up to which 1/s² of Gaussian values has no finite variance (none at all up to 3)."""


def shared_layer(case: Case) -> list[Finding]:
    """One layer run several times in a pass, on inputs of different statistics."""
    found = []
    for one in case.found:
        calls = one.inputs.calls
        if len(calls) < 2 or not _calls_differ(one):
            continue
        centre = torch.stack([call.mean.double().cpu() for call in calls])[:, one.alive]
        pooled = one.inputs.population.total.double().cpu()[one.alive]
        apart = ((centre - centre.mean(0)) / pooled.sqrt()).square().mean().sqrt()
        variances = torch.stack([call.total.double().cpu() for call in calls])[:, one.alive]
        factor = variances.clamp(min=1e-30).log().std(0).mean().exp()
        effect = case.worst("population_total", "batch")
        names = [repr(name) for name in one.layer.names[:3]]
        held = f" It stands in the model as {' and '.join(names)}." if len(names) > 1 else ""
        cost = "" if effect is None else f" {effect.clause} between evaluation and training mode."
        summary = (
            f"Layer {one.layer.name!r} runs {len(calls)} times in a forward pass, on inputs of different statistics: "
            f"training normalises each by its own, evaluation all by one average of them.{held}{cost}"
        )
        lines = [
            f"Its calls lie {float(apart):.2f} σ apart in their means (RMS over channels and calls) and differ by a factor "
            f"of {float(factor):.2f} in their variances."
        ]
        lines += [
            f"call {number}: mean {float(call.mean.mean()):.3g}, variance {float(call.total.mean()):.3g} (over channels)"
            for number, call in enumerate(calls[:4], start=1)
        ]
        remedy = "Give every branch a BatchNorm layer of its own; the convolutions or linear layers may stay shared."
        found.append(finding("shared_layer", [one], effect, summary, lines, remedy))
    return found


def batches(case: Case) -> list[Finding]:
    """Why evaluation on the batches' own population statistics still differs from batch mode.

    In this order: batches of different kinds; batches whose samples are alike, or pixels of an image; too few values.
    """
    kinds = [one for one in case.found if uneven(one, len(case.found))]
    effect = case.worst("population_unbiased", "batch", both_ways=True, rate=LIKELY if kinds else CERTAIN)
    if kinds and (found := _uneven_batches(kinds, effect)) is not None:
        return [found]
    effect = case.worst("population_total", "batch", both_ways=True)
    few = [one for one in case.found if not math.isnan(one.sample_inverse) and one.sample_inverse >= 1 / SMALL]
    if effect is None or not few:
        return []
    tiny = [one for one in few if one.inputs.m <= SMALL]
    return [_tiny(tiny, effect) if tiny else _alike_pixels(few, effect)]


def single_samples(case: Case) -> list[Finding]:
    """Batches of one sample with many positions: training mode normalises each by its own statistics."""
    alone = [one for one in case.found if one.inputs.samples == 1 and one.inputs.positions > 1]
    effect = case.worst("own", "batch", both_ways=True) or case.worst("population_total", "batch", both_ways=True)
    if effect is None or len(alone) < len(case.found):
        return []
    lines = [f"{one.layer.name}: {one.inputs.positions:,} values a channel, all of one sample." for one in alone[:4]]
    lines.append("On statistics measured again over all these batches: " + _closed(case, effect.metric))
    summary = (
        f"Each batch is a single sample, so in training mode {named(alone)} {'is' if len(alone) == 1 else 'are'} instance "
        "normalisation: each sample by its own mean and variance. Evaluation normalises all by one average, which is "
        f"another function: {effect.clause}."
    )
    remedy = (
        "Put InstanceNorm in their place, with γ and β as they are (track_running_stats=False): evaluation is then what "
        "training was. Or train again on batches of several samples, or with GroupNorm. No statistics that are stored give "
        "what training mode gives."
    )
    return [finding("instance_statistics", alone, effect, summary, lines, remedy)]


def _closed(case: Case, metric: str) -> str:
    """A metric on statistics of all batches, beside both modes."""
    names = {"own": "in evaluation mode", "population_total": "on those statistics", "batch": "on each batch's own"}
    levels = {name: case.levels.contrast(metric, **{name: 1.0}).level(metric, error=False) for name in names}
    return f"{metric} is " + ", ".join(f"{levels[name]} {text}" for name, text in names.items()) + "."


def overshoot(case: Case) -> list[Finding]:
    """Batch means that vary less than those of independent samples: Bessel's correction then corrects what is not there."""
    step = case.worst("population_unbiased", "population_total")
    if step is None or case.worst("own", "population_total") is None or case.worst("own", "batch") is None:
        return []
    # Then it is the kinds of batches that are pooled, or nothing varies behind a layer that is switched off.
    if any(uneven(one, len(case.found)) or bool(one.zero_gain.all()) for one in case.found):
        return []
    steady = [one for one in case.found if one.inverse.value < 0.5 / one.inputs.m]
    if not steady:
        return []
    product = math.prod(1 - 1 / one.inputs.m for one in steady) ** 0.5
    lines = [
        f"{one.layer.name}: m = {one.inputs.m}, but m_eff = {_worth(one)}: its batch means hardly vary."
        for one in steady[:3]
    ]
    lines.append(
        f"The unbiased variance is m/(m-1) times too large there; over {plural(len(steady), 'layer')} one behind the other "
        f"the outputs shrink by up to {product:.4f}."
    )
    summary = (
        f"In {named(steady)} the batch means do not vary as those of independent samples do: the same data come again in "
        "every batch, or a BatchNorm layer before has normalised them. The unbiased variance that is stored is then larger "
        f"than the variance that training divides by, and {step.clause}."
    )
    remedy = (
        f"Store the variance by the law of total variance: {RECALIBRATE}; or use layers that store the biased one "
        "(`consistent_biased`)."
    )
    return [finding("dependent_samples", steady, step, summary, lines, remedy)]


def _tiny(tiny: list[Evidence], effect: Difference) -> Finding:
    least = min(tiny, key=lambda one: one.inputs.m)
    m = least.inputs.m
    spread = f"{math.sqrt(2 / (m - 1)):.2f}" if m > 1 else "∞"
    summary = (
        f"Batches give {named(tiny)} only {m} values a channel to measure a variance on. In training mode each sample is "
        "normalised by statistics of which its own value is a large part, so the network in training mode is another one "
        f"than in evaluation, whatever statistics are stored: {effect.clause}, and "
        f"{'evaluation' if effect.harm > 0 else 'training'} mode is the worse one."
    )
    lines = [
        f"{least.layer.name}: m = {m}, worth {1 / least.sample_inverse:.1f} independent values.",
        f"Of {m} Gaussian values the variance has a relative standard error of {spread}; up to m = 5 its inverse has no "
        "finite variance.",
    ]
    remedy = (
        "Larger normalisation batches (SyncBatchNorm over devices; accumulating gradients does not help), GroupNorm, or "
        "fine-tune with the statistics frozen. Measuring the statistics again cannot close this gap."
    )
    return finding("tiny_batches", tiny, effect, summary, lines, remedy)


def _alike_pixels(few: list[Evidence], effect: Difference) -> Finding:
    least = max(few, key=lambda one: one.sample_inverse)
    m, size, inputs = least.inputs.m, 1 / least.sample_inverse, least.inputs
    summary = (
        f"The values of a sample depend on each other: in {named(few)} a batch of {m:,} values a channel is worth only "
        f"{size:.1f} independent ones, so its statistics are those of very few. {effect.clause} between training and "
        "evaluation mode, whatever statistics are stored."
    )
    lines = [
        f"{least.layer.name}: m = {m:,} ({inputs.samples} samples of {inputs.positions:,} values), m_eff = {size:.1f} from "
        "the spread of the samples' own means.",
        f"Measured over batches: 1/m_eff = {least.inverse.value:.4f} ± {least.inverse.error:.4f}; of independent values it "
        f"would be {1 / m:.4f}.",
    ]
    remedy = "More samples a batch (SyncBatchNorm over devices), not larger images; or GroupNorm."
    return finding("dependent_samples", few, effect, summary, lines, remedy)


def _uneven_batches(kinds: list[Evidence], effect: Difference | None) -> Finding | None:
    one = max(kinds, key=lambda each: each.composition.value)
    ratio = one.composition
    means = one.inputs.means[one.inputs.whole].double()[:, one.alive]
    scaled = (means - means.mean(0)) / one.inputs.population.total.double().cpu()[one.alive].sqrt()
    scores = torch.linalg.svd(scaled, full_matrices=False).U[:, 0]
    share, parted = _two_groups(scores)
    facts = [
        f"{one.layer.name}: the means of batches vary {ratio.value:.1f} ± {ratio.error:.1f} times as much as those of "
        "samples drawn at random would.",
        f"So a batch of {one.inputs.m:,} values is worth {_worth(one)} independent ones.",
    ]
    if share > _luckiest_split(len(scores)):
        turns = float((parted[1:] != parted[:-1]).double().mean())
        gap = float((scaled[parted].mean(0) - scaled[~parted].mean(0)).square().mean().sqrt())
        order = "in turn" if turns > 0.9 else "one after the other" if turns < 0.1 else "in irregular order"
        facts.append(
            f"The kinds lie {gap:.2f} σ apart (RMS over channels) and account for {100 * share:.0f} % of what sets batches "
            "apart; the best split of one kind would account for 64 %."
        )
        summary = (
            f"The batches are of two kinds, {int(parted.sum())} and {int((~parted).sum())} of them, {order}: training "
            "normalises each kind by its own statistics, evaluation both by one average. "
            f"{'Here it costs nothing' if effect is None else effect.clause}."
        )
        remedy = (
            "Mix the kinds within every batch, or give each its own statistics (one BatchNorm a domain), also at evaluation."
        )
        return finding("mixed_domains", kinds, effect, summary, facts, remedy)
    if effect is None:
        return None
    summary = (
        f"The samples of a batch are more alike than samples drawn at random: batches differ {ratio.value:.1f} times as "
        f"much as they should, and {effect.clause} between training and evaluation mode."
    )
    remedy = (
        "Shuffle: sorted classes, frames of one video or crops of one image in a batch look like this. Where it cannot be "
        "helped, use GroupNorm."
    )
    return finding("dependent_samples", kinds, effect, summary, facts, remedy)


def uneven(one: Evidence, layers: int) -> bool:
    """Whether batches differ more than random batches do, at the rate `CERTAIN` over the layers."""
    ratio = one.composition
    if not (ratio.error > 0 and ratio.value > 1):
        return False
    freedom = int(one.inputs.whole.sum()) - 1
    return bool(stats.t.sf((ratio.value - 1) / ratio.error, freedom) < CERTAIN / layers)


def _calls_differ(one: Evidence) -> bool:
    """Whether the calls of a layer see different means, at the rate `CERTAIN`: each against the first, batch by batch."""
    means = one.inputs.call_means.double()[:, :, one.alive]
    if len(means) < 2 or means.size(2) == 0:
        return False
    apart = means[:, 1:] - means[:, :1]  # (batches, calls - 1, channels)
    error = apart.var(0, correction=1) / len(apart)
    ratio = float((apart.mean(0).square() / error.clamp(min=1e-30)).mean(1).max())
    # All channels alike would make the mean over channels an F of 1 and B-1 degrees of freedom: the most careful case.
    return bool(stats.f.sf(ratio, 1, len(apart) - 1) < CERTAIN)


def _two_groups(scores: Tensor) -> tuple[float, Tensor]:
    """The best split of numbers in two: the share of their variance between the groups, and who is in the upper one."""
    order = scores.sort().values - scores.mean()
    low = torch.arange(1, len(order), dtype=order.dtype)
    sums = order.cumsum(0)[:-1]  # of the lower group; the upper one has its opposite
    between = sums.square() * (1 / low + 1 / (len(order) - low))
    whole, best = float(order.square().sum()), int(between.argmax())
    return (float(between[best]) / whole if whole > 0 else 0.0), scores >= scores.sort().values[best + 1]


def _luckiest_split(count: int) -> float:
    """The share that the best split of `count` Gaussian numbers exceeds in one of a thousand cases."""
    random = torch.Generator().manual_seed(count)
    shares = [_two_groups(torch.randn(count, generator=random, dtype=torch.float64))[0] for _ in range(200)]
    tensor = torch.tensor(shares, dtype=torch.float64)
    return min(0.999, float(tensor.mean() + stats.norm.isf(CERTAIN) * tensor.std()))


def _worth(one: Evidence) -> str:
    """m_eff of a layer, for reading."""
    size = math.inf if one.inverse.value <= 0 else 1 / one.inverse.value
    return "more than a million" if size > 1e6 else f"{size:.3g}" if size < 1000 else f"{size:,.0f}"
