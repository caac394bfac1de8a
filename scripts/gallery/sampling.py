"""Ways to make an epoch's batches other than plain shuffling: augmentation, domains, frames of one scene, large images."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from scripts.gallery.subjects import Batch, Recipe, Sampler, cut, digits, samples

LARGE_IMAGES = 480
"""In an epoch of large images, which cost more than digits as they are."""
SCENES = 600
"""Digits in an epoch of frames, each of them several times."""


def raw(inputs: Tensor) -> Tensor:
    """Pixels from 0 to 16, as scikit-learn has them."""
    scaling = digits().input_scaling
    mean, std = (torch.as_tensor(part, dtype=inputs.dtype) for part in (scaling.mean, scaling.std))
    return inputs * std + mean


def mild(recipe: Recipe, generator: torch.Generator) -> list[Batch]:
    """A third of the digits moved by a pixel, all at up to a tenth more or less contrast: augmentation that hurts nobody."""
    inputs, targets = samples()
    moves = torch.rand((len(inputs), 1, 1, 1), generator=generator) < 1 / 3
    moved = torch.where(moves, _moved(inputs, generator), inputs)
    return cut((_lit(moved, generator, 0.1), targets), recipe.batch_size, generator)


def zoomed(recipe: Recipe, generator: torch.Generator) -> list[Batch]:
    """Crops of 6x6 pixels enlarged to 8x8: objects look larger than in whole images (Touvron et al. 2019, FixRes)."""
    inputs, targets = samples()
    crops = torch.cat([inputs[:, :, down : down + 6, right : right + 6] for down in range(3) for right in range(3)])
    large = F.interpolate(crops, size=8, mode="bilinear", align_corners=False).unflatten(0, (9, len(inputs)))
    chosen = torch.randint(0, 9, (len(inputs),), generator=generator)
    return cut((large[chosen, torch.arange(len(inputs))], targets), recipe.batch_size, generator)


def frames(clips: int) -> Sampler:
    """Batches like those cut from videos: `clips` digits each, every one many times under a little noise and other light."""

    def sampler(recipe: Recipe, generator: torch.Generator) -> list[Batch]:
        inputs, targets = samples()
        order = torch.randperm(len(targets), generator=generator)[:SCENES]
        made = []
        for scene in order[: len(order) // clips * clips].view(-1, clips):
            rows = scene[torch.arange(recipe.batch_size) % clips]
            noise = 0.15 * torch.randn((len(rows), 1, 8, 8), generator=generator)
            made.append((_lit(inputs[rows], generator, 0.05) + noise, targets[rows]))
        return made

    return sampler


def alternating(contrast: float, brightness: float, in_order: bool) -> Sampler:
    """Batches of digits as they are, and of another domain's, by turns or in random order.

    Args:
        contrast: factor on the second domain's standardised pixels; negative for inverted digits.
        brightness: added to them.
        in_order: strictly by turns, or in random order.
    """

    def sampler(recipe: Recipe, generator: torch.Generator) -> list[Batch]:
        batches = cut(samples(), recipe.batch_size, generator)
        turns = torch.arange(len(batches)) % 2 == 1
        if not in_order:
            turns = turns[torch.randperm(len(turns), generator=generator)]
        return [
            (contrast * inputs + brightness if turn else inputs, targets)
            for (inputs, targets), turn in zip(batches, turns.tolist(), strict=True)
        ]

    return sampler


def enlarged(recipe: Recipe, generator: torch.Generator) -> list[Batch]:
    """Digits enlarged to 32x32, each under a light of its own, as photographs are: the pixels of an image are alike."""
    inputs, targets = samples()
    chosen = torch.randperm(len(targets), generator=generator)[:LARGE_IMAGES]
    large = F.interpolate(inputs[chosen], scale_factor=4, mode="bilinear", align_corners=False)
    light = 3 * torch.randn((LARGE_IMAGES, 1, 1, 1), generator=generator)
    return cut((_lit(large, generator, 0.5) + light, targets[chosen]), recipe.batch_size)


def _lit(inputs: Tensor, generator: torch.Generator, strength: float) -> Tensor:
    """Each image at a contrast between 1 - strength and 1 + strength."""
    factor = 1 + strength * (2 * torch.rand((len(inputs), 1, 1, 1), generator=generator) - 1)
    return inputs * factor


def _moved(inputs: Tensor, generator: torch.Generator) -> Tensor:
    """Each image moved by up to a pixel in both directions; the border repeats."""
    padded = F.pad(inputs, (1, 1, 1, 1), mode="replicate")
    moved = torch.stack([padded[:, :, down : down + 8, right : right + 8] for down in range(3) for right in range(3)])
    return moved[torch.randint(0, 9, (len(inputs),), generator=generator), torch.arange(len(inputs))]
