"""Predictions of stacked replicas under a stored statistic, with frozen weights, and how large activations are meanwhile."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from bnstudy.batchnorm.inference import evaluating
from bnstudy.batchnorm.layers import ConventionBatchNorm
from bnstudy.batchnorm.mode import batchnorm_layers
from bnstudy.batchnorm.population import Population
from bnstudy.training.data.batches import repeat
from bnstudy.training.measuring.batch_mode import CHUNK

WATCHED = 2048
"""Samples of a split on which evaluation moments are taken: its first ones, all of a smaller split."""

Parts = dict[str, list[tuple[int, Tensor]]]
"""By layer, for each chunk of samples: how many they were, and their mean x̂² of every channel, (replicas·channels,)."""


@torch.no_grad()
def predict(
    model: nn.Module,
    inputs: Tensor,
    replicas: int,
    statistic: str,
    population: Mapping[str, Population] | None = None,
    factors: Mapping[str, float] | None = None,
    moments: Parts | None = None,
) -> Tensor:
    """Outputs of every replica on the same samples, under an inference statistic.

    Args:
        model: stacked replicas.
        inputs: (n, C, *spatial).
        replicas: how many are stacked.
        statistic, population, factors: as for `bnstudy.evaluating`; not "batch".
        moments: takes the mean of x̂² = (x-μ̂)²/(v + ε) of the first `WATCHED` samples. Default: not looked at.

    Returns:
        (n, replicas, K).
    """
    chunks = inputs.split(max(16, CHUNK // replicas))
    outputs: list[Tensor] = []
    with evaluating(model, statistic, population, factors):
        if moments is not None:
            watched = -(-WATCHED // len(chunks[0]))
            with _watched(model, moments):
                outputs += [model(repeat(part, replicas)) for part in chunks[:watched]]
        outputs += [model(repeat(part, replicas)) for part in chunks[len(outputs) :]]
    whole = torch.cat(outputs)
    return whole.view(len(whole), replicas, -1)


@contextmanager
def _watched(model: nn.Module, moments: Parts) -> Iterator[None]:
    """Let layers under a stored statistic note how large they make their inputs."""

    def note(name: str, layer: ConventionBatchNorm, args: tuple[Tensor, ...]) -> None:
        x = args[0]
        mean, var = cast(tuple[Tensor, Tensor], layer.override)
        around, middle = torch.var_mean(x, dim=(0, *range(2, x.dim())), correction=0)
        squares = (around + (middle - mean).square()) / (var + layer.eps)
        moments.setdefault(name, []).append((len(x), squares))

    hooks = [layer.register_forward_pre_hook(partial(note, name)) for name, layer in batchnorm_layers(model).items()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
