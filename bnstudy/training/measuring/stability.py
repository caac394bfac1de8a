"""Networks whose activations exploded while every loss stayed finite: named, never averaged in silently."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bnstudy.batchnorm.population import Population
from bnstudy.training.measuring.batch_mode import observe

GROWTH = 100.0
"""How many times the standard deviation of a layer's inputs may grow over a training."""
MOMENT = 100.0
"""How large the second moment of a normalised activation may be at inference, under the population's total variance."""
_SAMPLES = 512


def scales(model: nn.Module, inputs: Tensor, batch_size: int, generators: Sequence[torch.Generator]) -> dict[str, Tensor]:
    """Standard deviation of each BatchNorm layer's inputs, RMS over channels, for each replica.

    Args:
        model: stacked replicas, in batch mode for a pass over the first 512 samples, or a batch if that is more.
        inputs, batch_size, generators: as for `observe`.
    """
    population, _ = observe(model, inputs[: max(_SAMPLES, batch_size)], batch_size, generators)
    return _scales(population, len(generators))


def growth_of(population: Mapping[str, Population], initial: Mapping[str, Tensor], replicas: int) -> dict[str, Tensor]:
    """How many times the scale of each layer's inputs is what it was before the first step, (replicas,)."""
    return {name: scale / initial[name] for name, scale in _scales(population, replicas).items()}


def unstable(seeds: Sequence[int], growth: Mapping[str, Tensor], layers: Sequence[Mapping[str, Any]]) -> list[int]:
    """Seeds of which a layer's inputs grew more than `GROWTH` times, or that BatchNorm at inference no longer holds.

    With two samples a batch x̂ is a step function of their difference: most batches have no gradient and a few an enormous
    one. Some networks' inner activations then grow by orders of magnitude although every loss is finite, since the next
    normalisation hides it.

    Args:
        seeds: one a replica.
        growth: by layer, (replicas,).
        layers: rows of the probes, for the second moments at inference; none where layers were not probed.

    Source: docs/method.md, "Unstable networks".
    """
    found = {
        seed for values in growth.values() for seed, value in zip(seeds, values.tolist(), strict=True) if value > GROWTH
    }
    found |= {row["seed"] for row in layers if row["statistic"] == "population_total" and row["eval_moment"] > MOMENT}
    return sorted(found)


def _scales(population: Mapping[str, Population], replicas: int) -> dict[str, Tensor]:
    return {
        name: layer.total.double().unflatten(0, (replicas, -1)).mean(1).sqrt()
        for name, layer in population.items()
        if layer.batches
    }
