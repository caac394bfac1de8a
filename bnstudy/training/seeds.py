"""Separate random streams from one seed, so that initial weights, data order and augmentation do not disturb each other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

_STREAMS = ("order", "augmentation", "population", "batch_metrics", "scales", "network")


def generator(seed: int, stream: str) -> torch.Generator:
    """A CPU generator for one stream of a seed.

    Args:
        seed: the run's seed, ≥ 0; 0 is a seed like any other.
        stream: "order" (of the training data), "augmentation", "population" or "batch_metrics" (their partitions), "scales"
            (before training), "network" (what a network itself draws).

    Returns:
        A fresh generator; streams of one seed, and one stream of different seeds, are independent.

    Raises:
        ValueError: an unknown stream.

    Source: NumPy's SeedSequence (O'Neill 2015) mixes seed and stream.
    """
    return torch.Generator().manual_seed(_number(seed, stream))


@contextmanager
def own_random_numbers(seed: int, epoch: int, device: torch.device) -> Iterator[None]:
    """Seed PyTorch's global generators for an epoch and give them back: layers such as dropout know no other.

    Args:
        seed: the run's.
        epoch: counted from 0, so that an interrupted training goes on with the same numbers.
        device: where the network is.
    """
    cuda = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if cuda else []):
        number = _number(seed, "network", epoch)
        torch.default_generator.manual_seed(number)
        if cuda:
            torch.cuda.manual_seed(number)
        yield


def _number(seed: int, stream: str, *further: int) -> int:
    if stream not in _STREAMS:
        raise ValueError(f"stream: {stream!r} is unknown; use {', '.join(_STREAMS)}")
    state = np.random.SeedSequence([seed, _STREAMS.index(stream), *further]).generate_state(1, np.uint64)[0]
    return int(state >> np.uint64(1))
