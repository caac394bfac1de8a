"""What stored statistics would look like if nothing were wrong: moving averages redrawn from the measured batches."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
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
    """Weights of the kept batches in redrawn averages, (replicates, batches).

    Args:
        average: of moving averages over batches drawn with replacement; each row is of sum 1 − `small`.
        population: of plain means over as many batches as there are, for the error of the reference itself; of sum 1.
        small: of the smaller batch that ends a pass, (replicates,); 0 where there is none.
        seed: of what is drawn for that batch.
    """

    average: Tensor
    population: Tensor
    small: Tensor
    seed: int


def weights(batches: int, momentum: float | None, updates: int | None, period: int, random: torch.Generator) -> Weights:
    """Draw the weights of `REPLICATES` moving averages and means.

    Args:
        batches: kept batches of full size, 2 or more.
        momentum: α; None for a cumulative average.
        updates: how many batches the average has seen; None where unknown, for many.
        period: batches of a pass whose last one is smaller, else 0. Half of the averages end with a pass, half anywhere.
        random: the generator.
    """
    seen = _LONGEST if updates is None else max(1, min(updates, _LONGEST))
    age = torch.arange(seen)
    age_weight = torch.ones(seen) if not momentum or momentum < 0 else momentum * (1 - momentum) ** age.float()
    shares = (age_weight / age_weight.sum()).expand(REPLICATES, -1)
    ends = torch.zeros(REPLICATES, 1, dtype=torch.long)
    if period:
        ends[REPLICATES // 2 :] = torch.randint(period, (REPLICATES - REPLICATES // 2, 1), generator=random)
    remainders = (age - ends) % period == 0 if period else torch.zeros_like(shares, dtype=torch.bool)
    small = torch.where(remainders, shares, 0.0).sum(1)
    drawn = torch.randint(batches, (REPLICATES, seen), generator=random)
    average = torch.zeros(REPLICATES, batches).scatter_add_(1, drawn, torch.where(remainders, 0.0, shares))
    again = torch.randint(batches, (REPLICATES, batches), generator=random)
    population = torch.zeros(REPLICATES, batches).scatter_add_(1, again, torch.full((1, 1), 1 / batches).expand_as(again))
    # The spread of redrawn batches is too small by (B-1)/B.
    stretch, even, own = math.sqrt(batches / (batches - 1)), 1 / batches, (1 - small[:, None]) / batches
    seed = int(torch.randint(2**31, (), generator=random))
    return Weights(own + (average - own) * stretch, even + (population - even) * stretch, small, seed)


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
    population = inputs.population
    tensors = (*layer.stored, population.mean, population.total, accumulated(layer, inputs))
    mean, var, centre, total, expected = (tensor.detach().double().cpu() for tensor in tensors)
    safe = torch.where(usable, total, 1.0)
    ratio = torch.where(usable, var / torch.where(usable, expected, 1.0), 1.0)
    return Deviation(torch.where(usable, (mean - centre) / safe.sqrt(), 0.0), ratio.log())


def accumulated(layer: NormLayer, inputs: Inputs) -> Tensor:
    """The population's mean of the variance that the layer accumulates."""
    stored: Tensor = getattr(inputs.population, layer.convention.accumulate)
    return stored


def redrawn(layer: NormLayer, inputs: Inputs, drawn: Weights, usable: Tensor) -> tuple[Deviation, Deviation]:
    """Of averages that differ from the population by the luck of batches alone: a moving average's, and the reference's own.

    Args:
        layer, inputs, usable: as for `deviation`.
        drawn: as `weights` gives them for the layer's kept batches.

    Returns:
        With the noise of the moving average (and of the reference), and with that of the reference alone.
    """
    unbiased = layer.convention.accumulate == "unbiased" and inputs.m > 1
    kept = inputs.whole if inputs.remainder else torch.ones_like(inputs.whole)
    means, variances = inputs.means.double()[kept], inputs.variances.double()[kept] * (bessel(inputs.m) if unbiased else 1.0)
    centre = means.mean(0)
    if layer.convention.accumulate == "total":
        variances = variances + (means - centre).square()
    level = torch.where(usable, variances.mean(0), 1.0)
    scale = torch.where(usable, inputs.population.total.double().cpu(), 1.0).sqrt()
    average, population, small = drawn.average.double(), drawn.population.double(), drawn.small.double()[:, None]
    shift, spread = average @ (means - centre), (average @ variances) / level
    if inputs.remainder:
        apart, ratio = _of_few(inputs, means - centre, variances / level, unbiased, drawn.seed)
        shift, spread = shift + small * apart, spread + small * ratio
    own_shift, own_logs = population @ (means - centre), ((population @ variances) / level).clamp(min=1e-6).log()
    return tuple(
        Deviation(torch.where(usable, first / scale, 0.0), torch.where(usable, second, 0.0))
        for first, second in ((shift - own_shift, spread.clamp(min=1e-6).log() - own_logs), (own_shift, own_logs))
    )  # type: ignore[return-value]


def _of_few(inputs: Inputs, shifts: Tensor, ratios: Tensor, unbiased: bool, seed: int) -> tuple[Tensor, Tensor]:
    """Statistics of batches as small as the last one: shift of the mean and variance over its level, (replicates, channels).

    The means of full batches, spread wider by √(m/m_last), and Gamma variables for the variances, whose shape falls from
    that of full batches as degrees of freedom do.
    """
    m, last = inputs.m, inputs.remainder
    random = np.random.default_rng(seed)
    chosen = torch.from_numpy(random.integers(len(shifts), size=REPLICATES))
    shape = (1 / ratios.var(0, correction=1).clamp(min=1e-12) * max(last - 1, 0.5) / (m - 1)).numpy()
    drawn = torch.from_numpy(random.standard_gamma(shape, size=(REPLICATES, len(shape))) / shape)
    level = 1.0 if unbiased else (1 - 1 / last) / (1 - 1 / m)
    return shifts[chosen] * math.sqrt(m / last), drawn * level
