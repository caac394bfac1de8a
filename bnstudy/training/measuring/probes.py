"""Layer probes: what each BatchNorm layer of trained replicas does in training and at inference, with standard errors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from bnstudy.batchnorm.conventions import EMA_STATISTICS, POPULATION_STATISTICS
from bnstudy.batchnorm.inference import evaluating
from bnstudy.batchnorm.layers import ConventionBatchNorm
from bnstudy.batchnorm.mode import batchnorm_layers
from bnstudy.batchnorm.population import Population
from bnstudy.training.checks import LEAST_BATCHES
from bnstudy.training.measuring.estimates import (
    Estimate,
    inverse_effective_size,
    over_channels,
    predicted_ratio,
    ratio_of_means,
    total_variance,
    varying,
)
from bnstudy.training.measuring.watching import Seen, batch_statistics, sample_moments
from bnstudy.training.seeds import generator

PROBED_STATISTICS = (*EMA_STATISTICS, *POPULATION_STATISTICS)


@torch.no_grad()
def probe_layers(
    model: nn.Module,
    inputs: Tensor,
    batch_size: int,
    seeds: Sequence[int],
    population: Mapping[str, Population] | None = None,
    batches: int = 200,
    statistics: Sequence[str] = PROBED_STATISTICS,
) -> list[dict[str, Any]]:
    """Measure every BatchNorm layer of stacked replicas in batch mode and under stored statistics, weights frozen.

    Batches are drawn from the inputs, each sample by itself and with replacement, so that they are independent samples to
    the letter: on features, m_eff = m in the first layer, whatever the split's size. Each replica draws from its seed's
    own stream. Under a `norm_batch_size` a batch here is a group that shares statistics.

    For a layer with input x, μ_B and s² over the m values of a channel in a batch; all is averaged over channels:

        m_eff              1/m_eff = Var(μ_B)/σ², with σ² = E[s²_biased] + Var(μ_B)
        biased_ratio       E[s²_biased]/σ²
        train_moment       E[x̂²], x̂ = (x-μ_B)/√(s²_normalize + ε), the whole network in batch mode
        eval_moment        E[x̂²], x̂ = (x-μ̂)/√(v + ε), the whole network under the statistic, on the same samples
        ratio              eval_moment/train_moment
        predicted_ratio    what theory makes of m_eff, for ε → 0
        std_discrepancy    E|σ̂/σ_B - 1| with σ̂ = √(v + ε), σ_B = √(s²_normalize + ε): what the layer divides by
        mean_discrepancy   E|μ̂ - μ_B|/σ_B

    m_eff comes from the first half of the batches, everything measured beside it from the second. Each number has a
    standard error over batches, by the delta method. Weights and stored statistics count as fixed in it: the luck of a
    moving average is not part of it.

    A channel that is constant (its inputs all dead) has no x̂ and is left out of every average. Batches in which a channel
    happens to be constant, such as m times the same sample, have no distance from anything: the discrepancies leave them
    out. At m = 2 only ε keeps E[1/σ_B] of Gaussian values finite, and at m = 3 its variance: there both discrepancies
    hang on a few batches.

    Args:
        model: stacked replicas with bnstudy's BatchNorm layers, of one group size.
        inputs: (n, C, *spatial), the training split without augmentation.
        batch_size: samples of a training batch.
        seeds: one a replica.
        population: what `population_of` returned; needed for the population statistics.
        batches: how many to draw. Default: 200.
        statistics: which stored ones. Default: the three averages and the three of the population.

    Returns:
        Rows (seed, layer, statistic, batches, m, the numbers above, each with its error as …_se). m_eff is inf, without an
        error, where batch means do not vary. All numbers are NaN where a replica's are not finite or no channel is alive.

    Raises:
        ValueError: fewer than 4 batches, layers of different group size, or a layer that runs more than once in a pass.

    Source: docs/method.md, "Probes".
    """
    if batches < LEAST_BATCHES:
        raise ValueError(f"batches: {batches} leave a half without a standard error; use {LEAST_BATCHES} or more")
    layers = batchnorm_layers(model)
    sizes = {min(layer.norm_batch_size or batch_size, batch_size) for layer in layers.values()}
    if len(sizes) > 1:
        raise ValueError(f"norm_batch_size: layers have groups of {sorted(sizes)} samples; probes need one size")
    size = sizes.pop() if sizes else batch_size
    drawn = [torch.randint(len(inputs), (batches * size,), generator=generator(seed, "probes")) for seed in seeds]
    index = torch.stack(drawn, 1).to(inputs.device)
    half = batches // 2
    trained = {
        name: _in_batch_mode(layers[name], seen, half) for name, seen in batch_statistics(model, inputs, index, size).items()
    }
    alive = {name: layer.alive for name, layer in trained.items()}
    rows = []
    for statistic in statistics:
        with evaluating(model, statistic, population):
            moments = sample_moments(model, alive, inputs, index[half * size :])
            for name, layer in trained.items():
                evaluation = moments[name].unflatten(0, (batches - half, size)).mean(1)
                columns = _columns(layers[name], layer, statistic, evaluation)
                for replica, seed in enumerate(seeds):
                    row = {"seed": seed, "layer": name, "statistic": statistic, "batches": batches, "m": layer.m}
                    rows.append(row | {column: values[replica] for column, values in columns.items()})
    return rows


@dataclass(frozen=True)
class _BatchMode:
    """What batch mode says about a layer: 1/m_eff of the first half of the batches, everything else of the second.

    Args:
        m: values per channel in a batch.
        alive: channels that are not constant, (replicas, channels).
        inverse: 1/m_eff.
        biased_ratio: E[s²_biased]/σ².
        moments: mean x̂² of each batch, (batches, replicas).
        means: μ_B, (batches, replicas, channels).
        precisions: 1/√(s²_normalize + ε), likewise; 0 where a batch of the channel is constant.
    """

    m: int
    alive: Tensor
    inverse: Estimate
    biased_ratio: Estimate
    moments: Tensor
    means: Tensor
    precisions: Tensor


def _in_batch_mode(layer: ConventionBatchNorm, seen: Seen, half: int) -> _BatchMode:
    means, variances, m = seen
    alive = varying(means[:half].mean(0), total_variance(means[:half], variances[:half]))
    alive &= varying(means[half:].mean(0), total_variance(means[half:], variances[half:]))
    inverse = inverse_effective_size(means[:half], variances[:half], alive)
    means, variances = means[half:], variances[half:]
    other = inverse_effective_size(means, variances, alive)
    usable = alive & varying(means, variances)
    means, variances = means.double(), variances.double()
    divisors = variances * layer.convention.divisor(m) + layer.eps
    return _BatchMode(
        m=m,
        alive=alive,
        inverse=inverse,
        biased_ratio=Estimate(1 - other.value, other.error),
        moments=over_channels(variances / divisors, alive),
        means=means,
        precisions=torch.where(usable, divisors.rsqrt(), 0.0),
    )


def _columns(layer: ConventionBatchNorm, trained: _BatchMode, statistic: str, evaluation: Tensor) -> dict[str, list[float]]:
    """The numbers of a layer, one a replica, from its x̂² under the statistic that it is held in, (batches, replicas)."""
    mean, var = (stored.double().unflatten(0, trained.alive.shape) for stored in cast(Any, layer.override))
    usable = trained.precisions != 0
    count = usable.sum(-1, dtype=torch.float64)
    scales = ((var + layer.eps).sqrt() * trained.precisions - 1).abs()
    shifts = (mean - trained.means).abs() * trained.precisions
    inverse, error = trained.inverse
    predict = partial(predicted_ratio, layer.convention, statistic, trained.m, weight_square=layer.weight_square)
    predicted = [predict(value, spread) for value, spread in zip(inverse.tolist(), error.tolist(), strict=True)]
    ones = torch.ones_like(evaluation)
    estimates = {
        "m_eff": Estimate(1 / inverse, error / inverse.square()),
        "biased_ratio": trained.biased_ratio,
        "train_moment": ratio_of_means(trained.moments, ones),
        "eval_moment": ratio_of_means(evaluation, ones),
        "ratio": ratio_of_means(evaluation, trained.moments),
        "predicted_ratio": Estimate(*inverse.new_tensor(predicted).T),
        "std_discrepancy": ratio_of_means(torch.where(usable, scales, 0.0).sum(-1), count),
        "mean_discrepancy": ratio_of_means(torch.where(usable, shifts, 0.0).sum(-1), count),
    }
    finite = (inverse + estimates["train_moment"].value + estimates["eval_moment"].value).isfinite()
    columns: dict[str, list[float]] = {}
    for name, (value, spread) in estimates.items():
        columns[name] = value.where(finite, math.nan).tolist()
        columns[f"{name}_se"] = spread.where(finite, math.nan).tolist()
    return columns
