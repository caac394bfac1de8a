"""Ways to make an epoch's batches other than plain shuffling: augmentation, domains, frames of one scene, large images."""

from __future__ import annotations


import torch
import torch.nn.functional as F
from torch import Tensor

from bnstudy.diagnosis.gallery.subjects import Batch, Recipe, Sampler, cut, digits, samples

GIVEN_IMAGES = 400
"""Of the large images, an epoch is this many: they cost more than the digits."""


def raw(inputs: Tensor) -> Tensor:
    """Pixels from 0 to 16, as scikit-learn has them."""
    scaling = digits().input_scaling
    mean, std = (torch.as_tensor(part, dtype=inputs.dtype) for part in (scaling.mean, scaling.std))
    return inputs * std + mean


def mild(recipe: Recipe, generator: torch.Generator) -> list[Batch]:
    """Digits moved by a pixel and made a tenth brighter or darker, as many training runs do."""
    return [(_lit(_moved(inputs, generator), generator, 0.1), targets) for inputs, targets in _plain(recipe, generator)]


def disturbed(recipe: Recipe, generator: torch.Generator) -> list[Batch]:
    """Digits under noise as strong as the digits themselves, and half as bright or half as bright again."""
    batches = _plain(recipe, generator)
    return [
        (_lit(inputs, generator, 0.5) + torch.randn(inputs.shape, generator=generator), targets)
        for inputs, targets in batches
    ]


def frames(clips: int) -> Sampler:
    """Batches like those cut from videos: `clips` digits each, every one many times under a little noise and other light."""

    def sampler(recipe: Recipe, generator: torch.Generator) -> list[Batch]:
        inputs, targets = samples()
        order = torch.randperm(len(targets), generator=generator)
        made = []
        for scene in order[: len(order) // clips * clips].view(-1, clips):
            rows = scene[torch.arange(recipe.batch_size) % clips]
            noise = 0.15 * torch.randn((len(rows), 1, 8, 8), generator=generator)
            made.append((_lit(inputs[rows], generator, 0.05) + noise, targets[rows]))
        return made

    return sampler


def alternating(contrast: float, brightness: float, in_order: bool) -> Sampler:
    """Batches of digits as they are, and of digits at another contrast and brightness, by turns or in random order.

    Args:
        contrast: factor on the second domain's standardised pixels; negative for inverted digits.
        brightness: added to them.
        in_order: strictly by turns, or in random order.
    """

    def sampler(recipe: Recipe, generator: torch.Generator) -> list[Batch]:
        batches = _plain(recipe, generator)
        turns = torch.arange(len(batches)) % 2 == 1
        if not in_order:
            turns = turns[torch.randperm(len(turns), generator=generator)]
        return [
            (contrast * inputs + brightness if turn else inputs, targets)
            for (inputs, targets), turn in zip(batches, turns.tolist(), strict=True)
        ]

    return sampler


def enlarged(recipe: Recipe, generator: torch.Generator) -> list[Batch]:
    """Digits enlarged to 32x32: neighbouring pixels say the same."""
    inputs, targets = samples()
    chosen = torch.randperm(len(targets), generator=generator)[:GIVEN_IMAGES]
    large = F.interpolate(inputs[chosen], scale_factor=4, mode="bilinear", align_corners=False)
    return cut((large, targets[chosen]), recipe.batch_size)


def _plain(recipe: Recipe, generator: torch.Generator) -> list[Batch]:
    return cut(samples(), recipe.batch_size, generator)


def _lit(inputs: Tensor, generator: torch.Generator, strength: float) -> Tensor:
    """Each image at a contrast between 1 - strength and 1 + strength."""
    factor = 1 + strength * (2 * torch.rand((len(inputs), 1, 1, 1), generator=generator) - 1)
    return inputs * factor


def _moved(inputs: Tensor, generator: torch.Generator) -> Tensor:
    """Each batch moved by up to a pixel in both directions; the border repeats."""
    down, right = torch.randint(0, 3, (2,), generator=generator).tolist()
    padded = F.pad(inputs, (1, 1, 1, 1), mode="replicate")
    return padded[:, :, down : down + 8, right : right + 8]
