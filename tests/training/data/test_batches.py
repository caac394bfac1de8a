"""Index arithmetic of batches against explicit Python loops, crops and flips against NumPy's padding and slicing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bnstudy.training.data.batches import chunks, crop_flip, draw_order, gather, padding, repeat
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


def every_view(image: np.ndarray, pad: int) -> dict[bytes, tuple[int, int, bool]]:
    """All crops and mirrors of one image (channels, height, width), by content."""
    _, height, width = image.shape
    padded = np.pad(image, ((0, 0), (pad, pad), (pad, pad)))
    views = {}
    for top in range(2 * pad + 1):
        for left in range(2 * pad + 1):
            crop = padded[:, top : top + height, left : left + width]
            views[crop.tobytes()] = (top, left, False)
            views[crop[:, :, ::-1].tobytes()] = (top, left, True)
    return views


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 5), st.integers(1, 3), st.integers(3, 20), st.integers(3, 20), st.integers(0, 2**32))
def test_every_result_is_a_padded_crop_of_its_own_image(n: int, channels: int, height: int, width: int, seed: int) -> None:
    images = torch.arange(1, n * channels * height * width + 1, dtype=torch.float32).view(n, channels, height, width)
    before = images.clone()
    result = crop_flip(images, torch.Generator().manual_seed(seed))
    assert result.shape == images.shape
    assert torch.equal(images, before)
    for image, view in zip(images.numpy(), result.numpy(), strict=True):
        assert view.tobytes() in every_view(image, padding(height, width))


def test_offsets_and_mirrors_are_uniform_and_independent() -> None:
    image = np.arange(1, 65, dtype=np.float32).reshape(1, 8, 8)
    n = 18_000
    result = crop_flip(torch.from_numpy(image).expand(n, 1, 8, 8), torch.Generator().manual_seed(0)).numpy()
    views = every_view(image, 1)
    counts = dict.fromkeys(views.values(), 0)
    for view in result:
        counts[views[view.tobytes()]] += 1
    assert len(counts) == 18
    expected = n / 18
    chi_squared = sum((count - expected) ** 2 / expected for count in counts.values())
    assert chi_squared < 40.8  # 99.9 % point of 17 degrees of freedom


@pytest.mark.parametrize(("side", "pad"), [(8, 1), (16, 2), (28, 4), (32, 4), (224, 4)])
def test_padding_is_an_eighth_of_the_side_and_at_most_four(side: int, pad: int) -> None:
    assert padding(side, side) == padding(side, side + 3) == padding(side + 3, side) == pad


def test_the_generator_alone_decides_and_moves_on() -> None:
    images = torch.randn(64, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(0)
    first, second = crop_flip(images, generator), crop_flip(images, generator)
    assert torch.equal(first, crop_flip(images, torch.Generator().manual_seed(0)))
    assert not torch.equal(first, second)


def test_a_channels_last_batch_gives_the_same_values() -> None:
    images = torch.randn(4, 3, 12, 12, generator=torch.Generator().manual_seed(1))
    plain, last = (
        crop_flip(batch, torch.Generator().manual_seed(0))
        for batch in (images, images.to(memory_format=torch.channels_last))
    )
    assert torch.equal(plain, last)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_generator_on_the_cpu_gives_the_same_crops_on_the_gpu() -> None:
    images = torch.randn(16, 3, 32, 32)
    here, there = (crop_flip(images.to(d), torch.Generator().manual_seed(0)) for d in ("cpu", "cuda"))
    assert torch.equal(here, there.cpu())
