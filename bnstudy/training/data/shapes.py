"""What a data set will look like once loaded, worked out from its configuration alone.

A planner asks here whether a batch fits the training split, before anything is loaded; so nothing here imports torch,
scikit-learn or torchvision. What data of the user's own (dataset=import) look like, only their factory knows: it is called.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from bnstudy.errors import UserError
from bnstudy.training.config import DatasetConfig
from bnstudy.training.imported import refuse_fields

DATASETS = (
    "digits",
    "fashion_mnist",
    "mnist",
    "kmnist",
    "cifar10",
    "cifar100",
    "svhn",
    "gaussian",
    "diabetes",
    "friedman1",
)
AUGMENTATIONS = ("none", "crop_flip")
GAUSSIAN_CLASSES = 10
FRIEDMAN_FEATURES = 10


@dataclass(frozen=True)
class DatasetShape:
    """Sizes of a data set.

    Args:
        task: "classification" or "regression".
        input_shape: shape of one input: (channels, height, width) of an image, (features,) of a row.
        outputs: number of classes, or of regression targets.
        train_samples: training samples in use, after `train_size`.
        test_samples: test samples in use, after `test_size`.
    """

    task: str
    input_shape: tuple[int, ...]
    outputs: int
    train_samples: int
    test_samples: int


FIXED = {
    "digits": DatasetShape("classification", (1, 8, 8), 10, 1437, 360),
    "fashion_mnist": DatasetShape("classification", (1, 28, 28), 10, 60_000, 10_000),
    "mnist": DatasetShape("classification", (1, 28, 28), 10, 60_000, 10_000),
    "kmnist": DatasetShape("classification", (1, 28, 28), 10, 60_000, 10_000),
    "cifar10": DatasetShape("classification", (3, 32, 32), 10, 50_000, 10_000),
    "cifar100": DatasetShape("classification", (3, 32, 32), 100, 50_000, 10_000),
    "svhn": DatasetShape("classification", (3, 32, 32), 10, 73_257, 26_032),
    "diabetes": DatasetShape("regression", (10,), 1, 353, 89),
}
"""Sets whose size nobody chooses: the published ones and those that scikit-learn embeds (split 80/20)."""


def describe(config: DatasetConfig) -> DatasetShape:
    """Task, shapes and sample counts that `load_dataset` will give for a configuration; loads nothing.

    Except for an import: there the factory has to be called, once in a process, with all that it imports.

    Args:
        config: the data set; every field is checked, except that `root` is not looked into
            (`bnstudy.training.data.files.require_files` does that).

    Returns:
        The shape after `train_size` and `test_size`.

    Raises:
        UserError: unknown name, a size larger than the split, a value outside its range, or a factory that is not there or
            gives something else than data.

    Source: bnstudy issue 2, part 4.
    """
    whole = _whole(config)
    if not 0 <= config.split_seed < 2**32:
        raise UserError(f"dataset.split_seed: {config.split_seed} is not a seed; use 0 to {2**32 - 1}")
    if config.augment not in AUGMENTATIONS:
        raise UserError(f"dataset.augment: '{config.augment}' is not known; choose one of {', '.join(AUGMENTATIONS)}")
    if config.augment == "crop_flip" and len(whole.input_shape) != 3:
        raise UserError(f"dataset.augment: 'crop_flip' needs images and '{config.name}' has none; use none")
    return replace(
        whole,
        train_samples=_subset(config.name, "train_size", config.train_size, whole.train_samples),
        test_samples=_subset(config.name, "test_size", config.test_size, whole.test_samples),
    )


def _whole(config: DatasetConfig) -> DatasetShape:
    """The shape before `train_size` and `test_size`."""
    if config.imported and config.name not in DATASETS:
        from bnstudy.training.data.imported import imported_shape

        return imported_shape(config)
    refuse_fields("dataset", config)
    if config.name in FIXED:
        return FIXED[config.name]
    if config.name not in DATASETS:
        raise UserError(f"dataset.name: '{config.name}' is not a data set; choose one of {', '.join(DATASETS)}, import")
    if config.samples < 10:
        raise UserError(f"dataset.samples: {config.samples} is too few to split 80/20; use 10 or more")
    if not (math.isfinite(config.noise) and config.noise >= 0):
        raise UserError(f"dataset.noise: {config.noise} is not a standard deviation; use 0 or more")
    train, test = eighty_twenty(config.samples)
    if config.name == "friedman1":
        return DatasetShape("regression", (FRIEDMAN_FEATURES,), 1, train, test)
    if config.dimension < 1:
        raise UserError(f"dataset.dimension: {config.dimension} is not a number of features; use 1 or more")
    return DatasetShape("classification", (config.dimension,), GAUSSIAN_CLASSES, train, test)


def eighty_twenty(samples: int) -> tuple[int, int]:
    """Sizes of the 80/20 split, the test part rounded up (scikit-learn's rule), in integers."""
    test = -(-samples // 5)
    return samples - test, test


def _subset(name: str, key: str, size: int | None, available: int) -> int:
    if size is None:
        return available
    if not 1 <= size <= available:
        raise UserError(f"dataset.{key}: {size} does not fit '{name}'; use 1 to {available}, or null for all of it")
    return size
