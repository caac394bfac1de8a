"""Index arithmetic of batches, against explicit Python loops."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bnstudy.training.data.batches import chunks, draw_order, gather, repeat
from bnstudy.training.seeds import generator

CPU = torch.device("cpu")


def orders(samples: int, seeds: list[int]) -> torch.Tensor:
    return draw_order(samples, [generator(seed, "order") for seed in seeds], CPU)


def test_a_replicas_order_is_its_own_seeds_permutation_whoever_stands_beside_it() -> None:
    together = orders(30, [4, 0, 7])
    for column, seed in enumerate([4, 0, 7]):
        own = torch.randperm(30, generator=generator(seed, "order"))
        assert torch.equal(together[:, column], own)
        assert sorted(own.tolist()) == list(range(30))
    assert not torch.equal(together[:, 0], together[:, 1])


def test_every_batch_size_sees_the_same_permutation() -> None:
    order = orders(1300, [0, 5])
    for size in (1, 2, 3, 8, 64, 511, 512, 700, 1300):
        assert torch.equal(torch.cat(list(chunks(order, size))), order)


@given(st.integers(1, 3000), st.integers(1, 900))
def test_chunks_hold_whole_batches_and_are_of_bounded_size(samples: int, size: int) -> None:
    parts = list(chunks(torch.arange(samples).unsqueeze(1), size))
    assert all(len(part) % size == 0 for part in parts[:-1])
    assert all(len(part) <= max(512, size) for part in parts)
    assert sum(len(part) for part in parts) == samples


@pytest.mark.parametrize("shape", [(5,), (2, 3, 4), (1, 8, 8)])
@pytest.mark.parametrize("replicas", [1, 3])
def test_gathered_channels_stand_side_by_side(shape: tuple[int, ...], replicas: int) -> None:
    inputs = torch.randn(11, *shape, generator=torch.Generator().manual_seed(0))
    index = torch.randint(0, 11, (6, replicas), generator=torch.Generator().manual_seed(1))
    batch = gather(inputs, index)
    assert batch.shape == (6, replicas * shape[0], *shape[1:])
    for row in range(6):
        for replica in range(replicas):
            channels = batch[row, replica * shape[0] : (replica + 1) * shape[0]]
            assert torch.equal(channels, inputs[index[row, replica]])


@pytest.mark.parametrize("shape", [(5,), (2, 3, 4)])
@pytest.mark.parametrize("replicas", [1, 4])
def test_repeated_inputs_are_the_same_for_every_replica(shape: tuple[int, ...], replicas: int) -> None:
    inputs = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
    repeated = repeat(inputs, replicas)
    assert all(torch.equal(part, inputs) for part in repeated.chunk(replicas, 1))
