"""Ghost batches: statistics over consecutive groups of samples, computed by one native call with the groups as channels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bnstudy.batchnorm.averages import Moments


def group_size(value: int | None) -> int | None:
    """The value itself where it can be a `norm_batch_size`.

    Raises:
        ValueError: below 1.
    """
    if value is not None and value < 1:
        raise ValueError(f"norm_batch_size: {value} is no group size; use 1 or more, or None")
    return value


def split(input: Tensor, size: int | None) -> list[tuple[Tensor, int]]:
    """Cut a batch into parts of equal groups: the whole groups, and what remains as a group of its own.

    Args:
        input: shape (N, C, *spatial).
        size: samples a group; None for one group of all.

    Returns:
        Pairs (part, number of groups in it), in the order of the samples; one or two of them.

    Source: Hoffer, Hubara & Soudry 2017, Algorithm 1, which has no remainder; docs/method.md, "Conventions".
    """
    samples = input.size(0)
    if size is None or size >= samples:
        return [(input, 1)]
    groups, remainder = samples // size, samples % size  # torch.compile knows no divmod of a dynamic size
    if remainder == 0:
        return [(input, groups)]
    return [(input[: samples - remainder], groups), (input[samples - remainder :], 1)]


def groups_to_channels(part: Tensor, groups: int) -> Tensor:
    """(groups·n, C, *spatial) → (n, groups·C, *spatial), each group beside the others; a copy unless groups = 1."""
    if groups == 1:
        return part
    return part.reshape(groups, part.size(0) // groups, *part.shape[1:]).transpose(0, 1).flatten(1, 2)


def channels_to_groups(part: Tensor, groups: int) -> Tensor:
    """The inverse of `groups_to_channels`."""
    if groups == 1:
        return part
    return part.reshape(part.size(0), groups, part.size(1) // groups, *part.shape[2:]).transpose(0, 1).flatten(0, 1)


def moments(means: Sequence[Tensor], variances: Sequence[Tensor], samples: Sequence[int], m: Sequence[int]) -> Moments:
    """A batch's statistics from those of its groups, each weighted by its samples.

    Args:
        means: batch means, one tensor a part, shape (groups in the part, channels).
        variances: unbiased batch variances, shaped like `means`.
        samples: number of samples in each part.
        m: values per channel in each group of a part.
    """
    shares = [n / sum(samples) for n in samples]

    def average(parts: Sequence[Tensor]) -> Tensor:
        return torch.stack([part.mean(0) * share for part, share in zip(parts, shares, strict=True)]).sum(0)

    mean = average(means)
    return Moments(
        mean,
        average([variance * ((values - 1) / values) for variance, values in zip(variances, m, strict=True)]),
        average(variances),
        average([(part - mean).square() for part in means]),
    )
