"""What stored statistics would look like if nothing were wrong: moving averages redrawn from the measured batches."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from bnstudy.batchnorm.conventions import bessel
from bnstudy.diagnosis.moments import Inputs
from bnstudy.diagnosis.normlayers import NormLayer

REPLICATES = 200
_LONGEST = 4096
"""Updates of a redrawn average at most; a longer memory differs by less than the batches' own error."""


@dataclass(frozen=True)
class Weights:
    """Weights of the kept batches in redrawn averages, each row of sum 1, (replicates, batches).

    Args:
        average: of moving averages over batches drawn with replacement.
        population: of plain means over as many batches as there are, for the error of the reference itself.
    """

    average: Tensor
    population: Tensor


def weights(batches: int, momentum: float | None, updates: int | None, random: torch.Generator) -> Weights:
    """Draw the weights of `REPLICATES` moving averages and means.

    Args:
        batches: kept batches, 2 or more.
        momentum: α; None for a cumulative average.
        updates: how many batches the average has seen; None where unknown, for many.
        random: the generator.
    """
    seen = _LONGEST if updates is None else max(1, min(updates, _LONGEST))
    if momentum is None or momentum <= 0:
        age_weight = torch.full((seen,), 1 / seen)
    else:
        age_weight = momentum * (1 - momentum) ** torch.arange(seen, dtype=torch.float32)
        age_weight = age_weight / age_weight.sum()
    drawn = torch.randint(batches, (REPLICATES, seen), generator=random)
    average = torch.zeros(REPLICATES, batches).scatter_add_(1, drawn, age_weight.expand(REPLICATES, -1))
    again = torch.randint(batches, (REPLICATES, batches), generator=random)
    population = torch.zeros(REPLICATES, batches).scatter_add_(1, again, torch.full((1, 1), 1 / batches).expand_as(again))
    # The spread of redrawn batches is too small by (B-1)/B.
    stretch = math.sqrt(batches / (batches - 1))
    even = 1 / batches
    return Weights(even + (average - even) * stretch, even + (population - even) * stretch)


@dataclass(frozen=True)
class Deviation:
    """Where stored statistics stand from those of the batches, by channel, in the metric of normal distributions.

    With σ² the variance over all batches and E the mean of the accumulated variance: mean (μ̂-μ)/σ, var log(v/E).
    The squared distance of two normal distributions that lie close is (Δμ/σ)² + ½·(Δ log σ²)².

    Args:
        mean, var: (channels,), or (replicates, channels) of redrawn averages.
    """

    mean: Tensor
    var: Tensor

    def distance(self, usable: Tensor) -> Tensor:
        """The squared distance, averaged over usable channels; (), or (replicates,)."""
        square = self.mean.square() + self.var.square() / 2
        return torch.where(usable, square, 0.0).sum(-1) / usable.sum().clamp(min=1)


def deviation(layer: NormLayer, inputs: Inputs, usable: Tensor) -> Deviation:
    """Of what the layer has stored.

    Args:
        layer: with stored statistics.
        inputs: what it sees.
        usable: channels whose stored and measured statistics are sound; others give 0.
    """
    assert layer.stored is not None
    mean, var = (stored.detach().double().cpu() for stored in layer.stored)
    population = inputs.population
    centre, pooled, expected = (
        value.double().cpu() for value in (population.mean, population.pooled, accumulated(layer, inputs))
    )
    safe = torch.where(usable, pooled, 1.0)
    ratio = torch.where(usable, var / torch.where(usable, expected, 1.0), 1.0)
    return Deviation(torch.where(usable, (mean - centre) / safe.sqrt(), 0.0), ratio.log())


def accumulated(layer: NormLayer, inputs: Inputs) -> Tensor:
    """The population's mean of the variance that the layer accumulates."""
    population = inputs.population
    return population.unbiased if layer.convention.accumulate == "unbiased" else population.biased


def redrawn(layer: NormLayer, inputs: Inputs, drawn: Weights, usable: Tensor) -> tuple[Deviation, Deviation]:
    """Of averages that differ from the population by the luck of batches alone: a moving average's, and the reference's own.

    Args:
        layer, inputs, usable: as for `deviation`.
        drawn: as `weights` gives them for the layer's kept batches.

    Returns:
        With the noise of the moving average (and of the reference), and with that of the reference alone.
    """
    factor = bessel(inputs.m) if layer.convention.accumulate == "unbiased" and inputs.m > 1 else 1.0
    means, variances = inputs.means.double(), inputs.variances.double() * factor
    centre, level = means.mean(0), variances.mean(0)
    scale = torch.where(usable, inputs.population.pooled.double().cpu(), 1.0).sqrt()
    level = torch.where(usable, level, 1.0)

    def of(first: Tensor, second: Tensor | None) -> Deviation:
        one, other = first.double(), None if second is None else second.double()
        shift = one @ (means - centre) - (0.0 if other is None else other @ (means - centre))
        spread = (one @ variances) / level
        logs = spread.clamp(min=1e-6).log()
        if other is not None:
            logs = logs - ((other @ variances) / level).clamp(min=1e-6).log()
        return Deviation(torch.where(usable, shift / scale, 0.0), torch.where(usable, logs, 0.0))

    return of(drawn.average, drawn.population), of(drawn.population, None)
