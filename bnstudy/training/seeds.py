"""Separate random streams from one seed, so that initial weights, data order and augmentation do not disturb each other."""

from __future__ import annotations

import numpy as np
import torch

_STREAMS = ("order", "augmentation", "population", "batch_metrics", "probes")


def generator(seed: int, stream: str) -> torch.Generator:
    """A CPU generator for one stream of a seed.

    Args:
        seed: the run's seed, ≥ 0; 0 is a seed like any other.
        stream: "order" (of the training data), "augmentation", "population" or "batch_metrics" (their partitions), "probes".

    Returns:
        A fresh generator; streams of one seed, and one stream of different seeds, are independent.

    Raises:
        ValueError: an unknown stream.

    Source: NumPy's SeedSequence (O'Neill 2015) mixes seed and stream.
    """
    if stream not in _STREAMS:
        raise ValueError(f"stream: {stream!r} is unknown; use {', '.join(_STREAMS)}")
    state = np.random.SeedSequence([seed, _STREAMS.index(stream)]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))
