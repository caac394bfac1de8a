"""Population statistics: one pass over the training data with frozen weights, after training."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bnstudy.batchnorm.conventions import POPULATION_STATISTICS
from bnstudy.batchnorm.mode import held_in_evaluation


@dataclass(frozen=True)
class Population:
    """What a pass over the data says about one layer; every tensor has shape (channels,) and the layer's statistics dtype.

    Batches of different size are weighted by what each knows: B batches of m_b values per channel,

        mean       Σ m_b·μ_b / Σ m_b
        biased     Σ m_b·s²_biased,b / Σ m_b
        unbiased   Σ (m_b-1)·s²_unbiased,b / Σ (m_b-1)                         Ioffe & Szegedy 2015, Algorithm 2, line 10
        total      biased + Σ m_b·(μ_b - mean)² / Σ m_b                        law of total variance; what PreciseBN does

    Args:
        mean, biased, unbiased, total: as above; NaN for a layer that the pass did not reach.
        batches: number of batches, or of groups where the layer has a norm_batch_size.
        values: m of the largest batch or group.
    """

    mean: Tensor
    biased: Tensor
    unbiased: Tensor
    total: Tensor
    batches: int
    values: int

    def statistic(self, name: str) -> tuple[Tensor, Tensor]:
        """Mean and variance of "population_biased", "population_unbiased" or "population_total".

        Raises:
            ValueError: another name.
        """
        variances = dict(zip(POPULATION_STATISTICS, (self.biased, self.unbiased, self.total), strict=True))
        if name not in variances:
            raise ValueError(f"statistic: {name!r} is no population statistic; use {', '.join(variances)}")
        return self.mean, variances[name]


class PopulationSums:
    """Running sums of one layer in float64, by Chan's update, so that a large mean does not eat the variance of means."""

    def __init__(self, channels: int) -> None:
        self.values = self.freedom = self.batches = self.largest = 0
        self.mean = self.within = self.between = torch.zeros(channels, dtype=torch.float64)
        self.dtype = torch.float32

    def add(self, means: Tensor, variances: Tensor, m: int) -> None:
        """Take in (groups, channels) batch means and unbiased variances of m values each."""
        groups = means.size(0)
        if self.batches == 0:
            self.dtype = means.dtype
            self.mean = self.within = self.between = self.mean.to(means.device)
        means, variances = means.double(), variances.double()
        center = means.mean(0)
        delta = center - self.mean
        values = self.values + groups * m
        self.between = (
            self.between + m * (means - center).square().sum(0) + delta.square() * (self.values * groups * m / values)
        )
        self.mean = self.mean + delta * (groups * m / values)
        self.within = self.within + (m - 1) * variances.sum(0)
        self.values, self.freedom = values, self.freedom + groups * (m - 1)
        self.batches, self.largest = self.batches + groups, max(self.largest, m)

    def result(self) -> Population:
        biased = self.within / self.values
        tensors = (self.mean, biased, self.within / self.freedom, biased + self.between / self.values)
        mean, biased, unbiased, total = (tensor.to(self.dtype) for tensor in tensors)
        return Population(mean, biased, unbiased, total, self.batches, self.largest)


Witness = Callable[[str, Tensor, Tensor, int], None]
"""Called with a layer's name, batch means and unbiased variances, both (groups, channels), and m, the values in a group."""


@torch.no_grad()
def population_statistics(
    model: nn.Module, batches: Iterable[Tensor], witness: Witness | None = None
) -> dict[str, Population]:
    """Population statistics of every BatchNorm layer, from one pass in batch mode over a partition of the training data.

    The whole network normalises by batch statistics during the pass, so that every layer sees the inputs it was trained on.
    Nothing in the model changes: not the running buffers, not the mode.

    Args:
        model: a model with bnstudy's BatchNorm layers; called as model(batch).
        batches: input batches of the training size, without augmentation; sizes may differ.
        witness: shown every batch's statistics as they go by. Default: nobody.

    Returns:
        A `Population` for each layer, by module name.

    Raises:
        ValueError: no batch at all, or one with a single value per channel.

    Source: Ioffe & Szegedy 2015, Algorithm 2, lines 8-11; Wu & Johnson 2021, "Rethinking 'Batch' in BatchNorm", section 3
    (PreciseBN); docs/method.md, "Statistics".
    """
    with held_in_evaluation(model) as layers:
        sums = {name: PopulationSums(layer.num_features) for name, layer in layers.items()}
        for name, layer in layers.items():
            layer.observer, layer.override, layer.force_batch_statistics = _noting(name, sums[name], witness), None, True
        for batch in batches:
            model(batch)
    if layers and all(layer_sums.batches == 0 for layer_sums in sums.values()):
        raise ValueError("batches: none given; population statistics need at least one batch")
    return {name: layer_sums.result() for name, layer_sums in sums.items()}


def _noting(name: str, sums: PopulationSums, witness: Witness | None) -> Callable[[Tensor, Tensor, int], None]:
    if witness is None:
        return sums.add

    def note(means: Tensor, variances: Tensor, m: int) -> None:
        sums.add(means, variances, m)
        witness(name, means, variances, m)

    return note
