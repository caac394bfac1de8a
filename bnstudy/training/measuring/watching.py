"""What the BatchNorm layers of stacked replicas see: every batch's statistics, and every sample's moment at inference."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bnstudy.batchnorm.inference import evaluating
from bnstudy.batchnorm.layers import ConventionBatchNorm
from bnstudy.batchnorm.mode import batchnorm_layers
from bnstudy.training.data.batches import gather, repeat
from bnstudy.training.measuring.predict import CHUNK, many_batches_a_pass

Seen = tuple[Tensor, Tensor, int]
"""Batch means and biased variances, both (batches, replicas, channels), and m, the values per channel in a batch."""


@torch.no_grad()
def batch_statistics(model: nn.Module, inputs: Tensor, index: Tensor, size: int) -> dict[str, Seen]:
    """Statistics of every batch in every BatchNorm layer, the whole network in batch mode; activations are not kept.

    Args:
        model: stacked replicas.
        inputs: (n, C, *spatial).
        index: which samples, one batch after the other, (batches·size, replicas).
        size: samples that share statistics.

    Returns:
        By name, for each layer that ran.

    Raises:
        ValueError: a layer that runs more than once in a pass.
    """
    replicas = index.size(1)
    kept: dict[str, list[Seen]] = {}

    def note(name: str, means: Tensor, variances: Tensor, m: int) -> None:
        biased = variances * ((m - 1) / m)
        kept.setdefault(name, []).append((means.unflatten(1, (replicas, -1)), biased.unflatten(1, (replicas, -1)), m))

    with many_batches_a_pass(model, size) as most, evaluating(model, "batch"):
        for name, layer in batchnorm_layers(model).items():
            layer.observer = partial(note, name)
        for part in index.split(size * min(most, max(1, CHUNK // (size * replicas)))):
            model(gather(inputs, part))
    result = {}
    for name, parts in kept.items():
        means, variances, m = zip(*parts, strict=True)
        result[name] = torch.cat(means), torch.cat(variances), m[0]
        if len(result[name][0]) != len(index) // size:
            raise ValueError(f"model: layer {name!r} runs more than once in a pass; probes need layers that run once")
    return result


@torch.no_grad()
def sample_moments(model: nn.Module, alive: Mapping[str, Tensor], inputs: Tensor, index: Tensor) -> dict[str, Tensor]:
    """Second moment of x̂ = (x-μ̂)/√(v + ε) of every sample, in a model held under a stored statistic.

    At inference samples do not interact: where more are drawn than there are, each is put through the network once.

    Args:
        model: stacked replicas within `evaluating`.
        alive: for each layer to watch, the channels to average over, (replicas, channels).
        inputs: (n, C, *spatial).
        index: which samples, (samples, replicas).

    Returns:
        By layer: the mean of x̂² over living channels and positions, (samples, replicas), float64.
    """
    replicas = index.size(1)
    chunk = max(16, CHUNK // replicas)
    whole = len(index) > len(inputs)
    with _recorded(model, alive, replicas) as kept:
        for part in (inputs if whole else index).split(chunk):
            model(repeat(part, replicas) if whole else gather(inputs, part))
    moments = {name: torch.cat(parts).double() for name, parts in kept.items()}
    return {name: values.gather(0, index) for name, values in moments.items()} if whole else moments


@contextmanager
def _recorded(model: nn.Module, alive: Mapping[str, Tensor], replicas: int) -> Iterator[dict[str, list[Tensor]]]:
    """Let layers under a stored statistic note what they make of each sample."""
    kept: dict[str, list[Tensor]] = {name: [] for name in alive}

    def note(name: str, layer: ConventionBatchNorm, args: tuple[Tensor, ...]) -> None:
        x, living = args[0], alive[name]
        mean, var = cast(tuple[Tensor, Tensor], layer.override)
        # Dead channels have a gain of 0.
        normalised = F.batch_norm(x, mean, var, living.flatten().to(var.dtype), None, False, 0.0, layer.eps)
        by_replica = normalised.unflatten(1, (replicas, -1))  # (N, R, C, *spatial)
        length = torch.linalg.vector_norm(by_replica, dim=tuple(range(2, by_replica.dim())))
        kept[name].append(length.square() / (living.sum(1) * math.prod(x.shape[2:])))

    layers = batchnorm_layers(model)
    hooks = [layers[name].register_forward_pre_hook(partial(note, name)) for name in alive]
    try:
        yield kept
    finally:
        for hook in hooks:
            hook.remove()
