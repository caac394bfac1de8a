"""Streams of a seed are reproducible, and independent of each other and of other seeds."""

from __future__ import annotations

import itertools

import pytest
import torch

from bnstudy.training.seeds import generator

STREAMS = ("order", "augmentation", "population", "batch_metrics", "scales")


def draws(seed: int, stream: str) -> tuple[int, ...]:
    return tuple(torch.randint(2**62, (4,), generator=generator(seed, stream)).tolist())


def test_a_stream_of_a_seed_is_always_the_same() -> None:
    assert draws(3, "order") == draws(3, "order")


def test_the_order_of_seed_0_does_not_change_between_versions() -> None:
    assert torch.randperm(8, generator=generator(0, "order")).tolist() == [3, 2, 5, 1, 7, 4, 6, 0]


def test_every_stream_of_every_seed_is_another() -> None:
    pairs = list(itertools.product([*range(50), 2**31, 2**32 - 1], STREAMS))
    assert len({draws(seed, stream) for seed, stream in pairs}) == len(pairs)


def test_seed_0_is_a_seed_like_any_other_and_not_the_global_state() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = draws(0, "order")
    torch.manual_seed(2)
    assert draws(0, "order") == first
    assert first != draws(1, "order")
    torch.manual_seed(1)
    generator(0, "order")
    assert torch.equal(torch.get_rng_state(), before)


def test_orders_of_neighbouring_seeds_are_uncorrelated() -> None:
    orders = torch.stack([torch.randperm(2000, generator=generator(seed, "order")).double() for seed in range(20)])
    correlations = torch.corrcoef(orders) - torch.eye(20)
    assert correlations.abs().max() < 5 / 2000**0.5


def test_an_unknown_stream_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'weights' is unknown; use order, augmentation"):
        generator(0, "weights")
