"""Batches of a split: which samples each replica sees, in which order, laid out as stacked replicas take them, augmented."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional

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


def padding(height: int, width: int) -> int:
    """Pixels of padding on each side: an eighth of the shorter side, rounded up, at most 4.

    That is the customary 4 for CIFAR's 32 and MNIST's 28 pixels, and 1 for the 8 pixels of `digits`.
    """
    return min(4, -(-min(height, width) // 8))


def crop_flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Shift each image at random and mirror it left to right with probability ½.

    Each image is padded with zeros on every side (`padding`) and cropped back to its size at an offset drawn uniformly
    and independently for rows and columns. Inputs are normalised, so zero is the training split's mean of the channel.

    Args:
        images: (n, channels, height, width), any dtype and device; not changed.
        generator: draws row offsets, column offsets and mirrors, in this order; where it lives decides the stream, not
            where the images live.

    Returns:
        A new tensor like `images`.

    Source: He et al. 2016, Deep residual learning, section 4.2 (pad 4, random crop, horizontal flip).
    """
    samples, channels, height, width = images.shape
    pad = padding(height, width)
    offsets = torch.randint(0, 2 * pad + 1, (2, samples, 1), generator=generator, device=generator.device)
    mirrors = torch.randint(0, 2, (samples, 1), generator=generator, device=generator.device, dtype=torch.bool)
    offsets, mirrors = offsets.to(images.device), mirrors.to(images.device)

    row = torch.arange(height, device=images.device)
    column = torch.arange(width, device=images.device)
    rows = offsets[0] + row  # (n, height)
    columns = offsets[1] + torch.where(mirrors, width - 1 - column, column)  # (n, width)
    padded = functional.pad(images, (pad, pad, pad, pad))
    pixels = rows[:, :, None] * padded.shape[3] + columns[:, None, :]  # (n, height, width), into a flattened image
    pixels = pixels.view(samples, 1, height * width).expand(-1, channels, -1)
    return padded.flatten(2).gather(2, pixels).view(images.shape)
