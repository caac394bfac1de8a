"""Layer probes: what each BatchNorm layer of trained replicas does in training and at inference, beside what theory says."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from bnstudy.batchnorm.conventions import EMA_STATISTICS, POPULATION_STATISTICS
from bnstudy.batchnorm.layers import ConventionBatchNorm
from bnstudy.batchnorm.population import Population
from bnstudy.batchnorm.theory import layer_ratios, noise_of_average
from bnstudy.training.checks import LEAST_BATCHES
from bnstudy.training.measuring.batch_mode import Seen
from bnstudy.training.measuring.estimates import (
    Estimate,
    inverse_effective_size,
    over_channels,
    squared_variation,
    total_variance,
    varying,
)
from bnstudy.training.measuring.predict import Parts

PROBED_STATISTICS = (*EMA_STATISTICS, *POPULATION_STATISTICS)
Stack = Literal["plain", "skip"]
"""How a network's BatchNorm layers stand on each other, where theory follows them: one above the other, each behind a linear
layer and a relu, without or with a skip connection around each such block."""


@dataclass(frozen=True)
class InBatchMode:
    """What batch mode says about a layer of stacked replicas.

    Args:
        batches: how many were drawn; half of them serve 1/m_eff, the other half everything else.
        m: values per channel in a batch.
        alive: channels that are not constant, (replicas, channels).
        inverse_size: 1/m_eff = Var(μ_B)/σ², with σ² = E[s²_biased] + Var(μ_B).
        biased_ratio: E[s²_biased]/σ².
        variation: CV²(s²).
        moment: E[x̂²], x̂ = (x-μ_B)/√(s²_normalize + ε), (replicas,).
    """

    batches: int
    m: int
    alive: Tensor
    inverse_size: Estimate
    biased_ratio: Estimate
    variation: Estimate
    moment: Tensor


@torch.no_grad()
def in_batch_mode(layer: ConventionBatchNorm, seen: Seen) -> InBatchMode:
    """Estimate a layer's dependence between samples and its moment in training.

    A channel that is constant (its inputs all dead) has no x̂ and is left out of every average.

    Raises:
        ValueError: fewer than 4 batches, which leave a half without a standard error.

    Source: docs/method.md, "Probes".
    """
    batches = len(seen.means)
    if batches < LEAST_BATCHES:
        raise ValueError(f"batches: {batches} leave a half without a standard error; use {LEAST_BATCHES} or more")
    halves = [(seen.means[part], seen.biased[part]) for part in (slice(batches // 2), slice(batches // 2, None))]
    alive = torch.stack([varying(means.mean(0), total_variance(means, biased)) for means, biased in halves]).all(0)
    inverse, other = (inverse_effective_size(means, biased, alive) for means, biased in halves)
    biased = halves[1][1].double()
    return InBatchMode(
        batches=batches,
        m=seen.m,
        alive=alive,
        inverse_size=inverse,
        biased_ratio=Estimate(1 - other.value, other.error),
        variation=squared_variation(biased, alive),
        moment=over_channels(biased / (biased * layer.convention.divisor(seen.m) + layer.eps), alive).mean(0),
    )


def probe_rows(
    layers: Mapping[str, ConventionBatchNorm],
    trained: Mapping[str, InBatchMode],
    population: Mapping[str, Population],
    moments: Mapping[str, Parts],
    seeds: Sequence[int],
    stack: Stack | None = None,
) -> list[dict[str, Any]]:
    """The `layers` table of a block of seeds.

        m_eff              1/m_eff = Var(μ_B)/σ²
        biased_ratio       E[s²_biased]/σ², from other batches than m_eff: 1 - 1/m_eff up to their errors
        variation          CV²(s²)
        train_moment       E[x̂²], x̂ = (x-μ_B)/√(s²_normalize + ε), the whole network in batch mode
        eval_moment        E[x̂²], x̂ = (x-μ̂)/√(v + ε), the whole network under the statistic
        ratio              eval_moment/train_moment
        predicted_ratio    what theory makes of m and of every layer's m_eff and CV²(s²), for ε → 0

    Each is averaged over channels. m_eff, biased_ratio and variation have a standard error over batches by the delta method,
    the ratio one over chunks of the split: how far another split of that size would lie. Weights and stored statistics count
        as
    fixed in it; the luck of a moving average is not part of it.

    Args:
        layers: of stacked replicas, by name, in their order.
        trained: what `in_batch_mode` says of those that ran.
        population: for how many batches a population pass averaged.
        moments: by statistic, what `predict` noted.
        seeds: one a replica.
        stack: how the layers stand on each other. Default: not known, and only the first layer has a prediction.

    Returns:
        Rows (seed, layer, layer_index, statistic, batches, m, the numbers above). m_eff is inf, without an error, where
        batch means do not vary. All numbers are NaN where a replica's are not finite or no channel is alive.

    Source: docs/method.md, "Probes" and "Theory, layer by layer".
    """
    rows = []
    for statistic in moments:
        kind, variance = statistic.split("_")
        evaluated = {name: _moment(moments[statistic][name], layer.alive) for name, layer in trained.items()}
        predicted = _predicted(layers, trained, population, kind, variance, stack)
        for index, (name, layer) in enumerate(trained.items()):
            numbers = _numbers(layer, evaluated[name], predicted[name])
            for replica, seed in enumerate(seeds):
                place = {"seed": seed, "layer": name, "layer_index": index, "statistic": statistic}
                counts = {"batches": layer.batches, "m": layer.m}
                rows.append(place | counts | {column: values[replica] for column, values in numbers.items()})
    return rows


def _moment(parts: Sequence[tuple[int, Tensor]], alive: Tensor) -> Estimate:
    """E[x̂²] over living channels and samples, with its standard error over chunks (0 from a single one)."""
    counts = torch.tensor([count for count, _ in parts], dtype=torch.float64, device=alive.device).unsqueeze(1)
    squares = torch.stack([part.double().unflatten(0, tuple(alive.shape)) for _, part in parts])
    chunks = over_channels(squares, alive)  # (chunks, replicas)
    mean = (counts * chunks).sum(0) / counts.sum()
    if len(parts) == 1:
        return Estimate(mean, torch.zeros_like(mean))
    spread = ((counts * (chunks - mean)).square().sum(0) * len(parts) / (len(parts) - 1)).sqrt() / counts.sum()
    return Estimate(mean, spread)


def _predicted(
    layers: Mapping[str, ConventionBatchNorm],
    trained: Mapping[str, InBatchMode],
    population: Mapping[str, Population],
    kind: str,
    variance: str,
    stack: Stack | None,
) -> dict[str, list[float]]:
    """The ratio that theory expects of each layer and replica; NaN where it has nothing to say."""
    names = list(trained)
    predicted = {name: [math.nan] * len(trained[name].alive) for name in names}
    known = names if stack is not None else names[:1]
    sizes = [trained[name].inverse_size.value.tolist() for name in known]
    variations = [trained[name].variation.value.tolist() for name in known]
    if len({trained[name].m for name in known}) != 1:
        return predicted
    for replica in range(len(predicted[names[0]])):
        inverse = [size[replica] for size in sizes]
        if not all(0 <= size < 1 for size in inverse):
            continue
        noise = []
        for name, size, variation in zip(known, inverse, variations, strict=True):
            layer = layers[name]
            weights = 1 / population[name].batches if kind == "population" else _weight_square(layer)
            # What a batch says of the total variance varies less, s² being a part of it; the square of a mean varies by 2.
            within = variation[replica] * (1 - size) ** 2 + 2 * size**2 if variance == "total" else variation[replica]
            noise.append(noise_of_average(weights, size, within))
        layer = layers[known[0]]
        ratios = layer_ratios(
            layer.convention.normalize, variance, trained[known[0]].m, inverse, skip=stack == "skip", noise=noise
        )
        for name, ratio in zip(known, ratios, strict=True):
            predicted[name][replica] = ratio
    return predicted


def _weight_square(layer: ConventionBatchNorm) -> float:
    """Σw² of the batches in a layer's moving averages: its limit under a constant momentum."""
    if layer.momentum is not None:
        return layer.momentum / (2 - layer.momentum)
    return 1 / max(1.0, 0.0 if layer.num_batches_tracked is None else float(layer.num_batches_tracked))


def _numbers(layer: InBatchMode, evaluated: Estimate, predicted: Sequence[float]) -> dict[str, list[float]]:
    """The columns of a layer under one statistic, one number a replica."""
    inverse, error = layer.inverse_size
    columns = {
        "m_eff": 1 / inverse,
        "m_eff_se": error / inverse.square(),
        "biased_ratio": layer.biased_ratio.value,
        "biased_ratio_se": layer.biased_ratio.error,
        "variation": layer.variation.value,
        "variation_se": layer.variation.error,
        "train_moment": layer.moment,
        "eval_moment": evaluated.value,
        "ratio": evaluated.value / layer.moment,
        "ratio_se": evaluated.error / layer.moment,
        "predicted_ratio": inverse.new_tensor(predicted),
    }
    finite = (inverse + layer.moment + evaluated.value).isfinite()
    return {name: values.where(finite, math.nan).tolist() for name, values in columns.items()}
