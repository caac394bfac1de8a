"""What the BatchNorm layers of a model see, batch after batch, in memory that does not grow with the number of batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from bnstudy.batchnorm.population import Population, PopulationSums
from bnstudy.diagnosis.normlayers import NormLayer

KEPT = 256
"""Batches whose statistics are kept one by one, at most: the spread over them is what every standard error rests on."""


@dataclass(frozen=True)
class Inputs:
    """The inputs of a layer over all batches.

    Args:
        population: the statistics over all batches, calls and groups.
        calls: the same for each call within a forward pass; one entry for a layer that runs once.
        m: values per channel in the largest batch, or group of a layer with ghost batches.
        samples: samples in the largest batch or group.
        means, variances: μ_B and s²_biased of kept batches, the mean over calls and groups, (batches, channels), float32.
        call_means: μ_B of kept batches by call, (batches, calls, channels).
        between: variance of the samples' own means within a batch, divisor N − 1, (batches, channels).
        whole: which of the kept batches are as large as the largest, (batches,).
        remainder: m of a smaller batch with which every pass ends; 0 where there is none.
        parts: calls and groups that a kept batch is the mean of; 1 for a layer that runs once on the whole batch.
    """

    population: Population
    calls: list[Population]
    m: int
    samples: int
    means: Tensor
    variances: Tensor
    call_means: Tensor
    between: Tensor
    whole: Tensor
    parts: int
    remainder: int = 0

    @property
    def positions(self) -> int:
        """Values per channel in one sample: H·W of an image, 1 of features."""
        return max(1, self.m // self.samples)


@dataclass
class _Seen:
    """One batch at one layer, while its forward pass goes on: what each call and group saw."""

    means: list[Tensor] = field(default_factory=list)
    variances: list[Tensor] = field(default_factory=list)
    between: list[Tensor] = field(default_factory=list)
    calls: int = 0
    m: int = 0
    samples: int = 0
    parts: int = 1
    call_means: list[Tensor] = field(default_factory=list)


class Watch:
    """Notes the inputs of layers; made by `watching`."""

    def __init__(self, layers: Sequence[NormLayer]) -> None:
        self.order: list[NormLayer] = []
        """The layers that ran, in the order in which they first did."""
        self._layers = {layer.module: layer for layer in layers}
        self._all: dict[NormLayer, PopulationSums] = {}
        self._calls: dict[NormLayer, list[PopulationSums]] = {}
        self._kept: dict[NormLayer, list[_Seen]] = {}
        self._now: dict[NormLayer, _Seen] = {}
        self._last: dict[NormLayer, int] = {}
        self._batches = 0
        self._stride = 1
        self._paused = True

    @property
    def smallest(self) -> int:
        """The smallest m of any layer in the batch that is not yet closed."""
        return min((seen.m for seen in self._now.values()), default=0)

    @contextmanager
    def on(self) -> Iterator[None]:
        """Take in what runs inside; elsewhere calls pass unnoticed."""
        self._paused = False
        try:
            yield
        finally:
            self._paused = True

    def note(self, module: nn.Module, args: tuple[Tensor, ...], named: dict[str, Tensor]) -> None:
        """Take in the input of one call; an empty one, such as of a branch that no sample takes, says nothing."""
        layer = self._layers[module]
        x = channels_first(next(iter((*args, *named.values()))), layer.axis)
        if self._paused or x.numel() == 0:
            return
        if layer not in self._all:
            self.order.append(layer)
            self._all[layer], self._calls[layer], self._kept[layer] = PopulationSums(x.size(1)), [], []
        seen = self._now.setdefault(layer, _Seen())
        if seen.calls == len(self._calls[layer]):
            self._calls[layer].append(PopulationSums(x.size(1)))
        group = getattr(module, "norm_batch_size", None) or len(x)
        means = []
        for part in x.detach().split(group):
            mean, var, between, m = _moments(part)
            seen.m, seen.samples = max(seen.m, m), max(seen.samples, len(part))
            for sums in (self._all[layer], self._calls[layer][seen.calls]):
                sums.add(mean[None], (var * (m / max(1, m - 1)))[None], m)
            means.append(mean)
            seen.means.append(mean)
            seen.variances.append(var)
            seen.between.append(between)
        seen.call_means.append(torch.stack(means).mean(0))
        seen.calls += 1

    def end_of_batch(self) -> None:
        """Close a batch; beyond `KEPT` every third is kept, then every ninth, …: odd, so that turns stay turns."""
        self._last = {layer: seen.m for layer, seen in self._now.items()} or self._last
        if self._batches % self._stride == 0:
            for layer, seen in self._now.items():
                mean, var, between = (
                    [torch.stack(part).mean(0).cpu()] for part in (seen.means, seen.variances, seen.between)
                )
                calls = [call.cpu() for call in seen.call_means]
                self._kept[layer].append(_Seen(mean, var, between, seen.calls, seen.m, seen.samples, len(seen.means), calls))
            if max(map(len, self._kept.values()), default=0) > KEPT:
                self._kept = {layer: kept[::3] for layer, kept in self._kept.items()}
                self._stride *= 3
        self._now = {}
        self._batches += 1

    def results(self) -> dict[NormLayer, Inputs]:
        """By layer, in order of execution; only layers that ran."""
        return {layer: self._result(layer) for layer in self.order}

    def _result(self, layer: NormLayer) -> Inputs:
        kept = self._kept[layer]
        m, calls = max(seen.m for seen in kept), max(seen.calls for seen in kept)
        full = [seen for seen in kept if seen.calls == calls]  # a layer that some passes skip has no call means there
        return Inputs(
            population=self._all[layer].result(),
            calls=[sums.result() for sums in self._calls[layer]],
            m=m,
            samples=max(seen.samples for seen in kept),
            means=torch.stack([seen.means[0] for seen in kept]).float(),
            variances=torch.stack([seen.variances[0] for seen in kept]).float(),
            call_means=torch.stack([torch.stack(seen.call_means) for seen in full]).float(),
            between=torch.stack([seen.between[0] for seen in kept]).float(),
            whole=torch.tensor([seen.m == m for seen in kept]),
            parts=max(seen.parts for seen in kept),
            remainder=last if (last := self._last.get(layer, m)) < m and sum(seen.m < m for seen in kept) <= 1 else 0,
        )


def channels_first(x: Tensor, axis: int) -> Tensor:
    """An input as (N, C, *spatial), whichever dimension holds its channels."""
    return x if axis == 1 else x.movedim(axis, 1)


@contextmanager
def watching(layers: Sequence[NormLayer]) -> Iterator[Watch]:
    """Watch the inputs of layers; the caller says where batches end."""
    watch = Watch(layers)
    hooks = [layer.module.register_forward_pre_hook(watch.note, with_kwargs=True) for layer in layers]
    try:
        yield watch
    finally:
        for hook in hooks:
            hook.remove()


def _moments(x: Tensor) -> tuple[Tensor, Tensor, Tensor, int]:
    """μ_B, s²_biased, the variance of the samples' means, each (channels,), and m, of (N, C, *spatial)."""
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    var, mean = torch.var_mean(x, [0, *range(2, x.dim())], correction=0)
    apart = x.flatten(2).mean(2) if x.dim() > 2 else x
    between = apart.var(0, correction=1) if len(x) > 1 else torch.full_like(mean, torch.nan)
    return mean, var, between, x.numel() // x.size(1)
