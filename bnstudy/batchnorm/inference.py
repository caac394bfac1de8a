"""Switch a model's BatchNorm layers to any inference statistic for a while, without copying the model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor, nn

from bnstudy.batchnorm.conventions import EMA_STATISTICS, POPULATION_STATISTICS, STATISTICS
from bnstudy.batchnorm.layers import ConventionBatchNorm
from bnstudy.batchnorm.mode import held_in_evaluation
from bnstudy.batchnorm.population import Population


@contextmanager
def evaluating(
    model: nn.Module,
    statistic: str,
    population: Mapping[str, Population] | None = None,
    factors: Mapping[str, float] | None = None,
) -> Iterator[nn.Module]:
    """Hold `model` in evaluation mode with its BatchNorm layers under `statistic`; the former state comes back on leaving.

    Args:
        model: a model with bnstudy's BatchNorm layers.
        statistic: "batch" (the batch's own, under the layer's normalising variance, nothing updated), "ema_biased",
            "ema_unbiased", "ema_total", "population_biased", "population_unbiased" or "population_total".
        population: what `population_statistics` returned; needed for the `population_` statistics.
        factors: multiplies each layer's variance, by layer name; the k of docs/method.md, "Conventions", which
            makes a stored variance match the training divisor; "batch" takes none. Default: 1 everywhere.

    Yields:
        The model.

    Raises:
        ValueError: an unknown statistic, one that a layer does not keep, or no population where one is needed.

    Source: docs/method.md, "Statistics".
    """
    with held_in_evaluation(model) as layers:
        for name, layer in layers.items():
            if statistic == "batch":
                layer.override, layer.force_batch_statistics = None, True
                continue
            mean, var = _resolve(name, layer, statistic, population)
            layer.override = (mean, var if factors is None else var * factors[name])
            layer.force_batch_statistics = False
        yield model


def _resolve(
    name: str, layer: ConventionBatchNorm, statistic: str, population: Mapping[str, Population] | None
) -> tuple[Tensor, Tensor]:
    if statistic in EMA_STATISTICS:
        return layer.ema(statistic)
    if statistic not in POPULATION_STATISTICS:
        raise ValueError(f"statistic: {statistic!r} is unknown; use {', '.join(STATISTICS)}")
    if population is None:
        raise ValueError(f"statistic: {statistic!r} needs a population pass; give population=population_statistics(…)")
    if name not in population:
        raise ValueError(f"population: has no layer {name!r}; give the population pass of this model")
    return population[name].statistic(statistic)
