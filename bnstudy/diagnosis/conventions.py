"""Which variance convention the stored statistics speak of: each leaves a pattern of its own over the layers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bnstudy.batchnorm.conventions import CONVENTIONS, Convention
from bnstudy.batchnorm.population import Population
from bnstudy.diagnosis.evidence import Evidence, Stored
from bnstudy.diagnosis.measure import Reference
from bnstudy.diagnosis.nulls import Deviation, accumulated

FAR = 4.0
"""Standard errors that an amplitude must be away from 0 and may be away from 1 at most: a chance of 1 in 16,000."""


_COMMON = ("paper", "consistent_biased", "consistent_unbiased", "inverted")
"""Conventions by how many frameworks have them."""


@dataclass(frozen=True)
class Hypothesis:
    """A convention that explains the stored statistics better than the layers' own.

    Args:
        name: of the convention.
        rivals: others that fit as well: the batches cannot tell them apart.
        amplitude, error: how much of its pattern is in them, 1 for all of it, and the standard error.
        ratios: by layer: name, m, stored over expected variance, its standard error, and what the convention predicts.
    """

    name: str
    rivals: tuple[str, ...]
    amplitude: float
    error: float
    ratios: list[tuple[str, int, float, float, float]]


@dataclass(frozen=True)
class _Fit:
    amplitude: float
    error: float
    left: float
    """What remains of the weighted distance; 1 a layer where only luck remains."""


def best_hypothesis(found: Sequence[Evidence], seen: Reference) -> Hypothesis | None:
    """The convention whose pattern is in the stored statistics, where their own convention's is ruled out.

    A model trained under convention h and evaluated under another stores E_h[s²_accumulate] and E_h[μ_B], the expectations
    in a network that normalises by h. Against the layers' own expectations that is a deviation log(E_h/E), known for every
    channel from the two reference passes. Its amplitude in what is stored is fitted by least squares over all layers,
    each weighted by the luck that its average is due; 0 is the layers' own convention, 1 is h. The standard error is the
    spread of the same fit over redrawn moving averages.

    Returns:
        The best fitting convention with an amplitude that is 1 within its error and not 0, and after which luck explains
        what is left; None if there is none, or with fewer than two batches.

    Source: DESIGN.md, section 2, "Words and formulas"; bnstudy issue 7, part 2.
    """
    tested = [one for one in found if one.stored is not None and one.stored.redrawn is not None]
    own = {one.layer.convention for one in tested}
    if len(own) != 1 or measured_in_one_pass(found):
        return None
    (here,) = own
    rivals = {}
    for name, convention in CONVENTIONS.items():
        if convention == here or (convention.normalize != here.normalize and not seen.other):
            continue
        patterns = [_pattern(one, convention, seen.other.get(one.layer)) for one in tested]
        rivals[name] = (_fit(tested, patterns), patterns)
    lucky = _luck(tested)
    none = _fit(tested, [Deviation(torch.zeros(1), torch.zeros(1)) for _ in tested])
    fitting = {
        name: fit
        for name, (fit, _) in rivals.items()
        if fit.error > 0
        and abs(fit.amplitude) > FAR * fit.error
        and abs(fit.amplitude - 1) < min(FAR * fit.error, 0.5)
        and fit.left < min(none.left, float(lucky.max()))
    }
    if not fitting:
        return None
    best = min(fit.left for fit in fitting.values())
    # Those that luck cannot tell apart come by how common they are.
    alike = [each for each, fit in fitting.items() if fit.left <= best + float(lucky.std())]
    name = next(iter(sorted(alike, key=_COMMON.index)))
    fit, patterns = rivals[name]
    ratios = []
    for one, pattern in zip(tested, patterns, strict=True):
        stored = one.stored
        if stored is None or stored.redrawn is None:
            continue
        usable = stored.usable
        ratio = math.exp(float(stored.deviation.var[usable].mean()))
        error = ratio * float(stored.redrawn.var[:, usable].mean(1).std())
        ratios.append((one.layer.name, one.inputs.m, ratio, error, math.exp(float(pattern.var[usable].mean()))))
    return Hypothesis(name, tuple(each for each in alike if each != name), fit.amplitude, fit.error, ratios)


def measured_in_one_pass(found: Sequence[Evidence]) -> bool:
    """Whether what is stored was measured by a pass over the data rather than averaged in training.

    Such statistics are the pooled ones (see `bnstudy.diagnosis.remedies`), and closer to them than any redrawn moving
    average is to its own expectation. Behind a BatchNorm layer batch means do not vary, and pooled is the biased variance:
    without this question they would pass for another convention's.
    """
    tested = [one for one in found if one.stored is not None and one.stored.redrawn is not None]
    if not tested:
        return False
    left = torch.zeros((), dtype=torch.float64)
    for one, stored in zip(tested, _stored(tested), strict=True):
        c = one.layer.convention.divisor(one.inputs.m)
        pooled = _safe(one.inputs.population.pooled * c, stored.usable)
        expected = _safe(accumulated(one.layer, one.inputs), stored.usable)
        rest = Deviation(stored.deviation.mean, stored.deviation.var - (pooled / expected).log())
        left = left + rest.distance(stored.usable) / max(stored.expected, 1e-12)
    return float(left / len(tested)) < float(_luck(tested).min())


def _luck(tested: Sequence[Evidence]) -> Tensor:
    """Distances of redrawn averages over what is expected of them, averaged over layers, (replicates,)."""
    return torch.stack([one.lucky / max(one.expected, 1e-12) for one in _stored(tested)]).mean(0)


def _stored(tested: Sequence[Evidence]) -> list[Stored]:
    return [one.stored for one in tested if one.stored is not None]


def _pattern(one: Evidence, convention: Convention, other: Population | None) -> Deviation:
    """Where a model trained under a convention would have its statistics, against the layer's own expectations."""
    assert one.stored is not None
    usable, here = one.stored.usable, one.inputs.population
    there = here if convention.normalize == one.layer.convention.normalize or other is None else other
    stored = there.unbiased if convention.accumulate == "unbiased" else there.biased
    expected = accumulated(one.layer, one.inputs)
    safe = _safe(here.pooled, usable)
    ratio = torch.where(usable, _safe(stored, usable) / _safe(expected, usable), 1.0)
    mean = (there.mean.double().cpu() - here.mean.double().cpu()) / safe.sqrt()
    return Deviation(torch.where(usable, mean, 0.0), ratio.log())


def _safe(value: Tensor, usable: Tensor) -> Tensor:
    return torch.where(usable, value.double().cpu(), 1.0)


def _fit(tested: Sequence[Evidence], patterns: Sequence[Deviation]) -> _Fit:
    """Least squares over all layers and channels; layers weighted by 1 over the distance that luck gives them."""
    product = square = left = torch.zeros((), dtype=torch.float64)
    replicates: Tensor | float = 0.0
    for one, pattern in zip(tested, patterns, strict=True):
        stored = one.stored
        if stored is None or stored.redrawn is None:
            continue
        weight = 1 / max(stored.expected, 1e-12) / max(1, int(stored.usable.sum()))
        centred = Deviation(stored.deviation.mean, stored.deviation.var - stored.redrawn.var.mean(0))
        product = product + weight * _inner(centred, pattern)
        square = square + weight * _inner(pattern, pattern)
        luck = Deviation(stored.redrawn.mean, stored.redrawn.var - stored.redrawn.var.mean(0))
        replicates = replicates + weight * _inner(luck, pattern)
    if float(square) == 0:
        amplitude, error = 0.0, 0.0
    else:
        amplitude = float(product / square)
        error = float((torch.as_tensor(replicates) / square).std())
    for one, pattern in zip(tested, patterns, strict=True):
        if one.stored is not None:
            rest = Deviation(one.stored.deviation.mean - pattern.mean, one.stored.deviation.var - pattern.var)
            left = left + rest.distance(one.stored.usable) / max(one.stored.expected, 1e-12)
    return _Fit(amplitude, error, float(left) / len(tested))


def _inner(first: Deviation, second: Deviation) -> Tensor:
    """Σ over channels of the products, in the metric of normal distributions."""
    return (first.mean * second.mean).sum(-1) + (first.var * second.var).sum(-1) / 2
