"""Which variance convention the stored statistics speak of: each leaves a pattern of its own over the layers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bnstudy.batchnorm.conventions import CONVENTIONS, Convention
from bnstudy.batchnorm.population import Population
from bnstudy.diagnosis.evidence import Evidence
from bnstudy.diagnosis.measure import Reference
from bnstudy.diagnosis.nulls import Deviation, accumulated

FAR = 4.0
"""Standard errors that an amplitude must be away from 0 and may be away from 1 at most: a chance of 1 in 16,000."""
_COMMON = ("paper", "consistent_biased", "consistent_unbiased", "inverted")
"""Conventions by how many frameworks have them; `total` is no framework's, and looks like a pass over the data."""


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
    """An amplitude with its error, and what remains of the weighted distance: 1 a layer where only luck remains."""

    patterns: list[Deviation]
    amplitude: float
    error: float
    left: float


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

    Source: docs/method.md, "Conventions".
    """
    tested = _tested(found)
    own = {one.layer.convention for one in tested}
    if len(own) != 1 or measured_in_one_pass(found):
        return None
    (here,) = own
    lucky = _luck(tested)
    limit = min(_left(tested, [Deviation(torch.zeros(1), torch.zeros(1))] * len(tested)), float(lucky.max()))
    fits = {}
    for name in _COMMON:
        convention = CONVENTIONS[name]
        if convention == here or (convention.normalize != here.normalize and not seen.other):
            continue
        fit = _fit(tested, [_pattern(one, convention, seen.other.get(one.layer)) for one in tested])
        certain = fit.error > 0 and abs(fit.amplitude) > FAR * fit.error
        if certain and abs(fit.amplitude - 1) < min(FAR * fit.error, 0.5) and fit.left < limit:
            fits[name] = fit
    if not fits:
        return None
    best = min(fit.left for fit in fits.values())
    # Those that luck cannot tell apart come by how common they are.
    name, *rivals = [each for each, fit in fits.items() if fit.left <= best + float(lucky.std())]
    fit, ratios = fits[name], []
    for one, pattern in zip(tested, fit.patterns, strict=True):
        stored, usable = one.comparison, one.comparison.usable
        ratio = math.exp(float(stored.deviation.var[usable].mean()))
        error = ratio * float(stored.luck.var[:, usable].mean(1).std())
        ratios.append((one.layer.name, one.inputs.m, ratio, error, math.exp(float(pattern.var[usable].mean()))))
    return Hypothesis(name, tuple(rivals), fit.amplitude, fit.error, ratios)


def measured_in_one_pass(found: Sequence[Evidence]) -> bool:
    """Whether what is stored was measured by a pass over the data rather than averaged in training.

    Such statistics are the total ones (see `bnstudy.diagnosis.remedies`), and closer to them than any redrawn moving
    average is to its own expectation. Behind a BatchNorm layer batch means do not vary, and total is the biased variance:
    without this question they would pass for another convention's.
    """
    tested = _tested(found)
    patterns = []
    for one in tested:
        usable, nothing = one.comparison.usable, torch.zeros((), dtype=torch.float64)
        total = _safe(one.inputs.population.total * one.layer.convention.divisor(one.inputs.m), usable)
        patterns.append(Deviation(nothing, (total / _safe(accumulated(one.layer, one.inputs), usable)).log()))
    return bool(tested) and _left(tested, patterns) < float(_luck(tested).min())


def _tested(found: Sequence[Evidence]) -> list[Evidence]:
    """Layers whose stored statistics can be held against redrawn averages."""
    return [one for one in found if one.stored is not None and one.stored.redrawn is not None]


def _luck(tested: Sequence[Evidence]) -> Tensor:
    """Distances of redrawn averages over what is expected of them, averaged over layers, (replicates,)."""
    return torch.stack([one.comparison.lucky / max(one.comparison.expected, 1e-12) for one in tested]).mean(0)


def _left(tested: Sequence[Evidence], patterns: Sequence[Deviation]) -> float:
    """What patterns leave of the distances over what luck is due, averaged over layers."""
    total = 0.0
    for one, pattern in zip(tested, patterns, strict=True):
        stored = one.comparison
        rest = Deviation(stored.deviation.mean - pattern.mean, stored.deviation.var - pattern.var)
        total += float(rest.distance(stored.usable)) / max(stored.expected, 1e-12)
    return total / len(tested)


def _pattern(one: Evidence, convention: Convention, other: Population | None) -> Deviation:
    """Where a model trained under a convention would have its statistics, against the layer's own expectations."""
    usable, here = one.comparison.usable, one.inputs.population
    there = here if convention.normalize == one.layer.convention.normalize or other is None else other
    stored: Tensor = getattr(there, convention.accumulate)
    ratio = _safe(stored, usable) / _safe(accumulated(one.layer, one.inputs), usable)
    mean = (there.mean.double().cpu() - here.mean.double().cpu()) / _safe(here.total, usable).sqrt()
    return Deviation(torch.where(usable, mean, 0.0), torch.where(usable, ratio, 1.0).log())


def _safe(value: Tensor, usable: Tensor) -> Tensor:
    return torch.where(usable, value.double().cpu(), 1.0)


def _fit(tested: Sequence[Evidence], patterns: list[Deviation]) -> _Fit:
    """Least squares over all layers and channels; layers weighted by 1 over the distance that luck gives them."""
    product = square = replicates = torch.zeros((), dtype=torch.float64)
    for one, pattern in zip(tested, patterns, strict=True):
        stored, centre = one.comparison, one.comparison.luck.var.mean(0)
        weight = 1 / max(stored.expected, 1e-12) / max(1, int(stored.usable.sum()))
        product = product + weight * _inner(Deviation(stored.deviation.mean, stored.deviation.var - centre), pattern)
        square = square + weight * _inner(pattern, pattern)
        replicates = replicates + weight * _inner(Deviation(stored.luck.mean, stored.luck.var - centre), pattern)
    if float(square) == 0:
        return _Fit(patterns, 0.0, 0.0, math.inf)
    return _Fit(patterns, float(product / square), float((replicates / square).std()), _left(tested, patterns))


def _inner(first: Deviation, second: Deviation) -> Tensor:
    """Σ over channels of the products, in the metric of normal distributions."""
    return (first.mean * second.mean).sum(-1) + (first.var * second.var).sum(-1) / 2
