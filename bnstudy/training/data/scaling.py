"""Normalisation constants of a data set: computed from its whole training split, and from nothing else."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bnstudy.training.data.arrays import Array

_PIECE = 2048
"""Samples that are worked on at a time."""


@dataclass(frozen=True)
class Scaling:
    """x ↦ (x − mean) / std along axis 1 of a batch: channels of images, features of rows, outputs of targets.

    Args:
        mean: a value for each channel, in the units of the source (pixels 0…255, digits 0…16).
        std: a value for each channel, in the same units; 1 where the training split does not vary.
        known: the constants belong to the distribution (`gaussian`), not to the training split.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    known: bool = False

    def apply(self, values: Array, device: torch.device | str) -> Tensor:
        """Scale `values`, (n, channels, …), into a float32 tensor on `device`.

        Floats are scaled in float64 and rounded once. Images travel as uint8 and are scaled on the device.
        """
        shape = (1, -1, *(1 for _ in values.shape[2:]))
        if values.dtype == np.uint8:
            images = torch.from_numpy(np.ascontiguousarray(values)).to(device).float()
            mean = torch.tensor(self.mean, dtype=torch.float32, device=device).view(shape)
            std = torch.tensor(self.std, dtype=torch.float32, device=device).view(shape)
            return images.sub_(mean).div_(std)
        means, stds = np.array(self.mean).reshape(shape), np.array(self.std).reshape(shape)
        scaled = np.empty(values.shape, np.float32)
        for start in range(0, len(values), _PIECE):
            part = slice(start, start + _PIECE)
            scaled[part] = (values[part] - means) / stds
        return torch.from_numpy(scaled).to(device)


def standard(channels: int, known: bool = True) -> Scaling:
    """Mean 0 and variance 1 of every channel or feature, whether `known` or asked for: leaves the values as they are."""
    return Scaling((0.0,) * channels, (1.0,) * channels, known)


def measured(values: Array) -> Scaling:
    """Mean and standard deviation of each channel of a training split.

    μ = Σx/n and σ² = Σ(x−μ)²/n, the biased variance, over samples and pixels. For uint8 images the sums are exact
    integers: σ² = (n·Σx² − (Σx)²)/n².

    Args:
        values: (n, channels, …).

    Returns:
        The constants; a channel that does not vary gets standard deviation 1.
    """
    mean, variance = _image_moments(values) if values.dtype == np.uint8 else _row_moments(values)
    std = np.sqrt(variance)
    # Rounding can leave a constant column a variance of about (μ·2⁻⁵³)² instead of 0.
    std[std <= 1e-12 * np.abs(mean)] = 1.0
    return Scaling(tuple(mean.tolist()), tuple(std.tolist()))


def _row_moments(rows: Array) -> tuple[Array, Array]:
    if rows.ndim > 2:
        return _channel_moments(rows)
    return rows.mean(axis=0, dtype=np.float64), rows.var(axis=0, dtype=np.float64)


def _channel_moments(values: Array) -> tuple[Array, Array]:
    """Of images of floats, in two passes and in pieces, since float64 takes twice the memory."""
    axes = (0, *range(2, values.ndim))
    count = values.size // values.shape[1]
    pieces = [values[start : start + _PIECE] for start in range(0, len(values), _PIECE)]
    mean = sum(piece.sum(axis=axes, dtype=np.float64) for piece in pieces) / count
    centre = mean.reshape(1, -1, *(1 for _ in values.shape[2:]))
    return mean, sum(np.square(piece - centre).sum(axis=axes) for piece in pieces) / count


def _image_moments(images: Array) -> tuple[Array, Array]:
    channels = images.shape[1]
    count = images.size // channels
    total = np.zeros(channels, dtype=np.int64)
    squares = np.zeros(channels, dtype=np.int64)
    for start in range(0, len(images), _PIECE):  # in pieces: int64 takes eight times the memory
        pixels = images[start : start + _PIECE].astype(np.int64)
        total += pixels.sum(axis=(0, 2, 3))
        squares += (pixels * pixels).sum(axis=(0, 2, 3))
    # Python's integers: n·Σx² passes 2⁶³ on the larger sets.
    variance = [(count * int(q) - int(s) ** 2) / count**2 for q, s in zip(squares, total, strict=True)]
    return total / count, np.array(variance)
