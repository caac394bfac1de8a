"""Random crops and flips of a batch of images."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


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
