"""Which samples each replica sees, in which order, laid out the way stacked replicas take them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

CHUNK_SAMPLES = 512
"""Samples a replica that are gathered at once; a step then only slices. It does not depend on the number of replicas."""


def draw_order(samples: int, generators: Sequence[torch.Generator], device: torch.device) -> Tensor:
    """A permutation of the samples for each replica, shape (samples, replicas), drawn from the replica's own generator."""
    return torch.stack([torch.randperm(samples, generator=generator) for generator in generators], 1).to(device)


def gather(inputs: Tensor, index: Tensor) -> Tensor:
    """Inputs at `index` with the replicas' channels side by side.

    Args:
        inputs: (n, C, *spatial).
        index: (batch, replicas), int64.

    Returns:
        (batch, replicas·C, *spatial).
    """
    flat = inputs.index_select(0, index.flatten())
    return flat.view(index.size(0), index.size(1) * inputs.size(1), *inputs.shape[2:])


def repeat(inputs: Tensor, replicas: int) -> Tensor:
    """The same inputs for every replica: (n, C, *spatial) → (n, replicas·C, *spatial)."""
    return inputs if replicas == 1 else inputs.repeat(1, replicas, *(1,) * (inputs.dim() - 2))


def chunks(order: Tensor, batch_size: int) -> Iterator[Tensor]:
    """Cut an order into runs of whole batches of about CHUNK_SAMPLES samples."""
    yield from order.split(max(1, CHUNK_SAMPLES // batch_size) * batch_size)
