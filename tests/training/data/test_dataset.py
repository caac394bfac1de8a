"""Embedded and synthetic data sets, subsets, and what describe() promises without loading anything."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_diabetes, load_digits

from bnstudy.errors import UserError
from bnstudy.training.config import DatasetConfig
from bnstudy.training.data import DATASETS, Dataset, describe, load_dataset

LOCAL = ["digits", "gaussian", "diabetes", "friedman1"]


def raw_inputs(data: Dataset, split: str) -> np.ndarray:
    """Undo the normalisation in float64."""
    inputs = getattr(data, split).inputs.double().numpy()
    shape = (1, -1, *(1 for _ in data.input_shape[1:]))
    return inputs * np.reshape(data.input_scaling.std, shape) + np.reshape(data.input_scaling.mean, shape)


def raw_targets(data: Dataset, split: str) -> np.ndarray:
    return getattr(data, split).targets.double().numpy() * data.target_scaling.std + data.target_scaling.mean


@pytest.mark.parametrize("sizes", [(None, None), (40, 30)])
@pytest.mark.parametrize("name", LOCAL)
def test_describe_agrees_with_load_dataset(name: str, sizes: tuple[int | None, int | None]) -> None:
    config = DatasetConfig(name=name, train_size=sizes[0], test_size=sizes[1], samples=1003, dimension=7)
    shape, data = describe(config), load_dataset(config)
    assert (data.name, data.task, data.input_shape, data.outputs) == (name, shape.task, shape.input_shape, shape.outputs)
    assert (len(data.train), len(data.test)) == (shape.train_samples, shape.test_samples)
    for split in (data.train, data.test):
        assert split.inputs.shape == (len(split), *shape.input_shape)
        assert split.inputs.dtype == torch.float32
        assert split.inputs.isfinite().all()
        if shape.task == "classification":
            assert (split.targets.shape, split.targets.dtype) == ((len(split),), torch.int64)
            assert 0 <= split.targets.min() <= split.targets.max() < shape.outputs
        else:
            assert (split.targets.shape, split.targets.dtype) == ((len(split), shape.outputs), torch.float32)


def test_describe_needs_neither_torch_nor_scikit_learn() -> None:
    script = (
        "import sys; from bnstudy.training.config import DatasetConfig;"
        "from bnstudy.training.data import describe, require_files;"
        "describe(DatasetConfig('cifar10')); require_files(DatasetConfig());"
        "print({'torch', 'torchvision', 'sklearn', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize("name", ["digits", "diabetes", "friedman1"])
def test_training_split_has_mean_zero_and_variance_one_per_channel(name: str) -> None:
    train = load_dataset(DatasetConfig(name=name)).train
    values = [train.inputs] + ([train.targets] if train.targets.is_floating_point() else [])
    for tensor in values:
        channels = np.moveaxis(tensor.double().numpy(), 1, 0).reshape(tensor.shape[1], -1)
        np.testing.assert_allclose(channels.mean(axis=1), 0, atol=1e-6)
        np.testing.assert_allclose(channels.std(axis=1), 1, atol=1e-6)


def test_digits_split_is_a_stratified_partition_of_the_embedded_images() -> None:
    data = load_dataset(DatasetConfig())
    published = load_digits()
    both = np.concatenate([raw_inputs(data, "train"), raw_inputs(data, "test")])[:, 0]
    labels = np.concatenate([data.train.targets, data.test.targets])
    rows = np.column_stack([np.rint(both).reshape(len(both), -1), labels])
    expected = np.column_stack([published.data, published.target])
    np.testing.assert_allclose(both, np.rint(both), atol=1e-5)
    np.testing.assert_array_equal(rows[np.lexsort(rows.T)], expected[np.lexsort(expected.T)])
    share = np.bincount(data.test.targets, minlength=10) / np.bincount(published.target)
    np.testing.assert_allclose(share, 0.2, atol=0.005)


def test_diabetes_constants_come_from_its_training_rows_alone() -> None:
    data = load_dataset(DatasetConfig(name="diabetes"))
    published, progression = load_diabetes(return_X_y=True, scaled=False)
    rows = np.column_stack([published, progression])
    where = {}
    for split in ("train", "test"):
        loaded = np.column_stack([raw_inputs(data, split), raw_targets(data, split)])
        distance = np.abs(loaded[:, None] - rows).max(axis=2)
        assert distance.min(axis=1).max() < 1e-3
        where[split] = distance.argmin(axis=1).tolist()
    assert sorted(where["train"] + where["test"]) == list(range(442))
    np.testing.assert_allclose(data.input_scaling.mean, published[where["train"]].mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(data.input_scaling.std, published[where["train"]].std(axis=0), rtol=1e-12)
    np.testing.assert_allclose(data.target_scaling.mean, progression[where["train"]].mean(), rtol=1e-12)
    assert not np.allclose(data.input_scaling.mean, published.mean(axis=0), rtol=1e-6)


def test_friedman1_without_noise_is_friedmans_formula() -> None:
    data = load_dataset(DatasetConfig(name="friedman1", noise=0.0, samples=500))
    for split in ("train", "test"):
        x = raw_inputs(data, split)
        y = 10 * np.sin(np.pi * x[:, 0] * x[:, 1]) + 20 * (x[:, 2] - 0.5) ** 2 + 10 * x[:, 3] + 5 * x[:, 4]
        np.testing.assert_allclose(raw_targets(data, split)[:, 0], y, atol=2e-5)


def test_gaussian_inputs_have_the_known_moments_and_are_not_standardised_again() -> None:
    data = load_dataset(DatasetConfig(name="gaussian", samples=20_000, dimension=16))
    assert data.input_scaling.known
    assert data.input_scaling.mean == (0.0,) * 16
    assert data.input_scaling.std == (1.0,) * 16
    x = data.train.inputs.double().numpy()
    n = len(x)
    assert np.all(np.abs(x.mean(axis=0)) < 5 / np.sqrt(n))
    assert np.all(np.abs(x.var(axis=0) - 1) < 5 * np.sqrt(2 / n))
    assert abs((x**4).mean() - 3) < 5 * np.sqrt(96 / x.size)
    assert np.all(np.abs(np.corrcoef(x.T) - np.eye(16)) < 5 / np.sqrt(n))
    assert np.all(np.abs(x.mean(axis=0)) > 1e-6)


def test_gaussian_labels_are_linear_in_the_inputs_and_noise_changes_nothing_else() -> None:
    accuracy, inputs = {}, {}
    for noise in (0.0, 3.0):
        data = load_dataset(DatasetConfig(name="gaussian", noise=noise, samples=10_000, dimension=32))
        x, y = data.train.inputs.numpy(), data.train.targets.numpy()
        weights, *_ = np.linalg.lstsq(x, np.eye(10)[y], rcond=None)
        accuracy[noise] = np.mean((data.test.inputs.numpy() @ weights).argmax(axis=1) == data.test.targets.numpy())
        inputs[noise] = data.train.inputs
        assert np.bincount(y, minlength=10).min() > 0.05 * len(y)
    assert accuracy[0.0] > 0.8  # least squares on one-hot labels, not the teacher itself
    assert 0.1 < accuracy[3.0] < 0.4
    assert torch.equal(inputs[0.0], inputs[3.0])


@pytest.mark.parametrize("name", LOCAL)
def test_the_split_seed_alone_decides_split_and_draw(name: str) -> None:
    config = DatasetConfig(name=name)
    first, again = load_dataset(config), load_dataset(config)
    assert torch.equal(first.train.inputs, again.train.inputs)
    assert torch.equal(first.test.targets, again.test.targets)
    other = load_dataset(replace(config, split_seed=1))
    assert not torch.equal(first.train.inputs, other.train.inputs)


@settings(max_examples=15, deadline=None)
@given(st.sampled_from(LOCAL), st.integers(1, 300), st.integers(1, 300), st.integers(0, 3))
def test_a_smaller_subset_is_a_prefix_of_a_larger_one_bit_for_bit(name: str, one: int, other: int, seed: int) -> None:
    small, large = sorted((one, other))
    config = DatasetConfig(name=name, samples=500, split_seed=seed, test_size=small // 4 or 1)
    less, more = (load_dataset(replace(config, train_size=size)) for size in (small, large))
    assert torch.equal(less.train.inputs, more.train.inputs[:small])
    assert torch.equal(less.train.targets, more.train.targets[:small])
    assert torch.equal(less.test.inputs, load_dataset(replace(config, test_size=None)).test.inputs[: config.test_size])


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"name": "imagenet"}, f"dataset.name: 'imagenet' is not a data set; choose one of {', '.join(DATASETS)}, import"),
        ({"train_size": 1438}, "dataset.train_size: 1438 does not fit 'digits'; use 1 to 1437, or null for all of it"),
        ({"test_size": 361}, "dataset.test_size: 361 does not fit 'digits'; use 1 to 360, or null for all of it"),
        ({"train_size": 0}, "dataset.train_size: 0 does not fit 'digits'; use 1 to 1437, or null for all of it"),
        ({"name": "gaussian", "samples": 9}, "dataset.samples: 9 is too few to split 80/20; use 10 or more"),
        ({"name": "gaussian", "dimension": 0}, "dataset.dimension: 0 is not a number of features; use 1 or more"),
        ({"name": "friedman1", "noise": -1.0}, "dataset.noise: -1.0 is not a standard deviation; use 0 or more"),
        ({"split_seed": -1}, "dataset.split_seed: -1 is not a seed; use 0 to 4294967295"),
        ({"augment": "mixup"}, "dataset.augment: 'mixup' is not known; choose one of none, crop_flip"),
        (
            {"name": "diabetes", "augment": "crop_flip"},
            "dataset.augment: 'crop_flip' needs images and 'diabetes' has none; use none",
        ),
    ],
)
def test_a_setting_that_cannot_be_met_names_key_value_and_what_would_do(changes: dict[str, object], text: str) -> None:
    config = replace(DatasetConfig(), **changes)
    for function in (describe, load_dataset):
        with pytest.raises(UserError) as caught:
            function(config)
        assert str(caught.value) == text


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_data_set_on_the_gpu_equals_the_one_on_the_cpu() -> None:
    for name in LOCAL:
        here, there = (load_dataset(DatasetConfig(name=name), device) for device in ("cpu", "cuda"))
        assert there.train.inputs.is_cuda
        assert torch.equal(here.train.inputs, there.train.inputs.cpu())
