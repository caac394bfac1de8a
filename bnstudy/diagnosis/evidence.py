"""What the first sweep says about each layer, in numbers that rules can weigh."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from scipy import stats
from torch import Tensor

from bnstudy.diagnosis.measure import Reference
from bnstudy.diagnosis.measured import Measured
from bnstudy.diagnosis.moments import Inputs
from bnstudy.diagnosis.normlayers import NormLayer
from bnstudy.diagnosis.nulls import Deviation, Weights, deviation, redrawn, weights
from bnstudy.training.measuring.estimates import inverse_effective_size, ratio_of_means, varying

ROUNDING = 1e-9
"""A 1/m_eff, or squared distance, below it is what float32 leaves where nothing varies."""


@dataclass(frozen=True)
class Stored:
    """How a layer's stored statistics compare with those of the batches.

    Args:
        deviation: by channel.
        distance: squared Fisher distance, mean over usable channels.
        lucky: the same of redrawn moving averages, (replicates,); empty where one batch leaves no spread.
        reference: the same of the reference's own error.
        redrawn: deviations of redrawn averages, (replicates, channels); None likewise.
        start: share of the start values 0 and 1 that fits the stored statistics best, by least squares.
        start_explains: share of `distance` that it takes away.
        usable: channels that vary and have sound stored statistics.
    """

    deviation: Deviation
    distance: float
    lucky: Tensor
    reference: Tensor
    redrawn: Deviation | None
    start: float
    start_explains: float
    usable: Tensor

    @property
    def expected(self) -> float:
        """Mean squared distance of a moving average that only luck moves; NaN from one batch."""
        return float(self.lucky.mean()) if len(self.lucky) else math.nan

    @property
    def luck(self) -> Deviation:
        """`redrawn`, of a layer that has it."""
        assert self.redrawn is not None
        return self.redrawn

    def beyond_luck(self) -> float:
        """The chance that luck alone takes stored statistics so far: of a log-normal through the redrawn distances."""
        logs = self.lucky.clamp(min=ROUNDING).log()
        beyond = math.log(max(self.distance, ROUNDING)) - float(logs.mean())
        return float(stats.norm.sf(beyond / max(float(logs.std()), 1e-3)))


@dataclass(frozen=True, eq=False)
class Evidence:
    """One layer.

    Args:
        layer, inputs: itself and what it sees.
        position: its place in the order of execution, from 0.
        alive: channels that are not constant over the batches, (channels,).
        broken: channels whose stored mean or variance is NaN, infinite, or a variance below 0.
        zero_gain: channels with γ = 0.
        inverse: 1/m_eff, averaged over living channels; see `bnstudy.training.measuring.estimates`.
        composition: variance of the batch means over what samples drawn at random would give; 1 for random batches.
        sample_inverse: 1/m_eff from the variance of the samples' own means, as if samples were drawn at random.
        stored: against what the layer sees in training mode, which is what its statistics were taken from; None where it
            stores nothing, or nothing sound.
        still: the same against what it sees with dropout and its like in evaluation mode; `stored` itself where that
            makes no difference.
    """

    layer: NormLayer
    inputs: Inputs
    position: int
    alive: Tensor
    broken: Tensor
    zero_gain: Tensor
    inverse: Measured
    composition: Measured
    sample_inverse: float
    stored: Stored | None
    still: Stored | None

    @property
    def comparison(self) -> Stored:
        """`stored`, of a layer that has it."""
        assert self.stored is not None
        return self.stored


def evidence(seen: Reference, random: torch.Generator) -> list[Evidence]:
    """Weigh every layer, in order of execution.

    Args:
        seen: the first sweep.
        random: draws the moving averages; layers of like momentum, count and batches share the draws, so that what
            their batches have in common stays in common.
    """
    drawn: dict[tuple[int, float | None, int | None, int], Weights] = {}
    found = []
    for position, (layer, inputs) in enumerate(seen.inputs.items()):
        total, gain = inputs.population.total.cpu(), layer.gain
        alive = varying(inputs.population.mean.cpu(), total)
        broken = torch.zeros_like(alive)
        stored = still = None
        if layer.stored is not None:
            mean, var = (value.detach().cpu() for value in layer.stored)
            broken = ~(mean.isfinite() & var.isfinite() & (var >= 0))
            calls, usable = len(inputs.calls), alive & ~broken & (var > 0)
            # A layer that runs several times in a pass updates as often: together as one update of a larger weight.
            momentum = layer.momentum if layer.momentum is None else 1 - (1 - layer.momentum) ** calls
            updates = layer.updates if _believable(layer, inputs, usable) else None
            kept = int(inputs.whole.sum()) if inputs.remainder else len(inputs.means)
            key = (kept, momentum, None if updates is None else updates // calls, seen.batches if inputs.remainder else 0)
            if kept > 1 and key not in drawn:
                drawn[key] = weights(*key, random)
            if bool(usable.any()):
                still = _stored(layer, inputs, usable, drawn.get(key))
                trained = seen.training.get(layer)
                stored = still if trained is None else _stored(layer, trained, usable, drawn.get(key))
        zero_gain = torch.zeros_like(alive) if gain is None else gain.cpu() == 0
        sizes = _sizes(inputs, alive)
        found.append(Evidence(layer, inputs, position, alive, broken, zero_gain, *sizes, stored, still))
    return found


def _stored(layer: NormLayer, inputs: Inputs, usable: Tensor, drawn: Weights | None) -> Stored:
    seen = deviation(layer, inputs, usable)
    distance = float(seen.distance(usable))
    share, explains, _ = _start(seen, inputs, usable)
    lucky = reference = torch.empty(0, dtype=torch.float64)
    again = None
    if drawn is not None:
        again, own = redrawn(layer, inputs, drawn, usable)
        lucky, reference = again.distance(usable), own.distance(usable)
    return Stored(seen, distance, lucky, reference, again, share, explains, usable)


def _start(seen: Deviation, inputs: Inputs, usable: Tensor) -> tuple[float, float, float]:
    """The share of the start values 0 and 1 in what is stored, what part of its distance that is, and how far they lie.

    By least squares. Towards them: μ̂ = (1-w)·μ and v = (1-w)·E + w, so Δμ = -w·μ and Δv = w·(1-E), in units of σ and E.
    """
    population = inputs.population
    total, mean = population.total.double().cpu(), population.mean.double().cpu()
    level = torch.where(usable, total, 1.0)
    start = Deviation(torch.where(usable, -mean / level.sqrt(), 0.0), torch.where(usable, 1 / level - 1, 0.0))
    linear = Deviation(seen.mean, torch.where(usable, seen.var.exp() - 1, 0.0))
    product = (linear.mean * start.mean + linear.var * start.var / 2).sum()
    square = (start.mean.square() + start.var.square() / 2).sum()
    share = float(product / square) if square > 0 else 0.0
    left = Deviation(linear.mean - share * start.mean, linear.var - share * start.var).distance(usable)
    whole = linear.distance(usable)
    return share, float(1 - left / whole) if whole > 0 else 0.0, float(start.distance(usable))


def _believable(layer: NormLayer, inputs: Inputs, usable: Tensor) -> bool:
    """Whether the count of batches may be that of what is stored.

    After t updates of weight α the start values still have a share of (1-α)^t. Where that is large, statistics without it
    were not stored in so few updates: they were converted, copied or averaged, and their count says nothing.
    """
    momentum, updates = layer.momentum, layer.updates
    if updates is None or momentum is None or not bool(usable.any()):
        return updates is None or updates > 0
    left = (1 - momentum) ** updates
    share, _, far = _start(deviation(layer, inputs, usable), inputs, usable)
    return left < 0.02 or far < 0.01 or left / 2 < share < 1.5


def _sizes(inputs: Inputs, alive: Tensor) -> tuple[Measured, Measured, float]:
    """1/m_eff; the variance of batch means over that of random batches; 1/m_eff of random samples."""
    nothing = Measured(math.nan, math.nan)
    whole = inputs.whole
    means, variances, between = inputs.means[whole], inputs.variances[whole], inputs.between[whole]
    if not bool(alive.any()):
        return nothing, nothing, math.nan
    total = torch.where(alive, inputs.population.total.double().cpu(), 1.0)
    apart = (between.double() / total)[:, alive].mean(1)  # (batches,)
    samples = float(apart.mean()) / inputs.samples
    if len(means) < 2 or inputs.parts > 1:  # of a mean over calls or groups, the spread is not that of one
        return nothing, nothing, samples
    value, error = inverse_effective_size(means[:, None], variances[:, None], alive[None])
    spread = (means.double() - means.double().mean(0)).square() / total
    above = spread[:, alive].mean(1) * (len(means) / (len(means) - 1)) * inputs.samples
    ratio = ratio_of_means(above[:, None], apart[:, None])
    return Measured(float(value), float(error)), Measured(float(ratio.value), float(ratio.error)), samples
