"""What the BatchNorm layers of stacked replicas see in batch mode, over batches drawn as training draws them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bnstudy.batchnorm.inference import evaluating
from bnstudy.batchnorm.mode import batchnorm_layers
from bnstudy.batchnorm.population import Population, population_statistics
from bnstudy.training.data.batches import draw_order, gather

CHUNK = 512
"""Samples times replicas in one forward pass: enough to amortise the calls, little enough to stay in the cache (measured: a
stacked ResNet-8 on 8×8 images takes 0.023 ms an image at 512 and 0.045 ms at 2,048)."""


@dataclass(frozen=True)
class Seen:
    """Statistics of a layer's batches, or groups where it has a norm_batch_size.

    Args:
        means, biased: μ_B and s²_biased, (batches, replicas, channels).
        m: values per channel in a batch.
    """

    means: Tensor
    biased: Tensor
    m: int


@torch.no_grad()
def predict_by_batch(
    model: nn.Module, inputs: Tensor, batch_size: int, generators: Sequence[torch.Generator]
) -> tuple[Tensor, Tensor]:
    """Outputs in batch mode over a partition of the samples, as in training; nothing is updated.

    Args:
        model: stacked replicas.
        inputs: (n, C, *spatial).
        batch_size: samples that share statistics (fewer under the layers' own norm_batch_size).
        generators: one a replica; draws its partition. The remainder of a partition is dropped, unless that leaves nothing:
            a split smaller than a batch is one batch.

    Returns:
        Outputs (n', replicas, K) and which sample each belongs to, (n', replicas).
    """
    order = _partition(inputs, batch_size, generators)
    with _many_batches_a_pass(model, min(batch_size, len(order))) as batches, evaluating(model, "batch"):
        parts: list[Tensor] = [
            model(gather(inputs, index)) for index in _passes(order, min(batch_size, len(order)), batches)
        ]
    outputs = torch.cat(parts)
    return outputs.view(len(outputs), len(generators), -1), order


def observe(
    model: nn.Module, inputs: Tensor, batch_size: int, generators: Sequence[torch.Generator], batches: int = 0
) -> tuple[dict[str, Population], dict[str, Seen]]:
    """Population statistics of a partition of the training split, and what single batches said.

    Args:
        model: stacked replicas; weights frozen, nothing updated.
        inputs: (n, C, *spatial), the training split without augmentation.
        batch_size: samples of a training batch.
        generators: one a replica; draws its partitions. No sample stands twice in a batch, as in training.
        batches: how many to keep the statistics of (of groups, where a layer cuts a batch into groups; a remainder's smaller
            group is left out). The first partition's come first; further ones are drawn where they are too few. Default: 0.

    Returns:
        A `Population` for each layer, by name, of the first partition; and `Seen` of `batches` batches for each layer.

    Raises:
        ValueError: `batches` of a layer that runs more than once in a pass.

    Source: docs/method.md, "Probes".
    """
    replicas = len(generators)
    kept: dict[str, list[tuple[Tensor, Tensor]]] = {}
    values: dict[str, int] = {}
    calls: Counter[str] = Counter()

    def note(name: str, means: Tensor, variances: Tensor, m: int) -> None:
        if values.setdefault(name, m) == m:
            calls[name] += 1
            if sum(len(part) for part, _ in kept.setdefault(name, [])) < batches:
                kept[name].append((means, variances * ((m - 1) / m)))

    population: dict[str, Population] = {}
    done = passes = 0
    while not passes or done < batches:
        order = _partition(inputs, batch_size, generators)
        size = min(batch_size, len(order))
        if passes:
            order = order[: (batches - done) * size]
        with _many_batches_a_pass(model, size) as most:
            pieces = list(_passes(order, size, most))
            found = population_statistics(model, (gather(inputs, index) for index in pieces), note if batches else None)
        population = population or found
        done, passes = done + len(order) // size, passes + len(pieces)
    if repeated := [name for name, count in calls.items() if count != passes]:
        raise ValueError(f"model: layer {repeated[0]!r} runs more than once in a pass; probes need layers that run once")
    seen = {}
    for name, parts in kept.items():
        means, biased = (torch.cat(part)[:batches].unflatten(1, (replicas, -1)) for part in zip(*parts, strict=True))
        seen[name] = Seen(means, biased, values[name])
    return population, seen


def _partition(inputs: Tensor, batch_size: int, generators: Sequence[torch.Generator]) -> Tensor:
    order = draw_order(len(inputs), generators, inputs.device)
    return order[: max(len(order) - len(order) % batch_size, min(len(order), batch_size))]


def _passes(order: Tensor, batch_size: int, batches: int) -> Iterator[Tensor]:
    wanted = max(1, CHUNK // (batch_size * order.size(1)))
    yield from order.split(batch_size * min(batches, wanted))


@contextmanager
def _many_batches_a_pass(model: nn.Module, batch_size: int) -> Iterator[int]:
    """Let one forward pass normalise many batches, each by itself: a batch is then a group of the layers' ghost batches.

    Args:
        model: its layers' group sizes come back on leaving.
        batch_size: samples a batch.

    Yields:
        How many batches may share a pass: 1 where the layers' own groups do not divide a batch.
    """
    layers = list(batchnorm_layers(model).values())
    own = [layer.norm_batch_size for layer in layers]
    divides = all(size is None or batch_size % size == 0 for size in own)
    try:
        for layer in layers:
            if layer.norm_batch_size is None:
                layer.norm_batch_size = batch_size
        yield 2**31 if divides else 1
    finally:
        for layer, size in zip(layers, own, strict=True):
            layer.norm_batch_size = size
