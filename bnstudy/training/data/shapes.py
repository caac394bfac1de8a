"""What a data set will look like once loaded, worked out from its configuration alone.

A planner asks here whether a batch fits the training split, before anything is loaded; so nothing here imports torch,
scikit-learn or torchvision. What data of the user's own (dataset=import) look like, only their factory knows: it is called.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from bnstudy.errors import UserError
from bnstudy.training.config import DatasetConfig
from bnstudy.training.data.registry import DATASETS, DatasetShape, eighty_twenty
from bnstudy.training.imported import refuse_fields

AUGMENTATIONS = ("none", "crop_flip")

_ACCEPTED: dict[str, tuple[Callable[[Any], bool], str]] = {
    "samples": (lambda samples: samples >= 10, "is too few to split 80/20; use 10 or more"),
    "noise": (lambda noise: math.isfinite(noise) and noise >= 0, "is not a standard deviation; use 0 or more"),
    "dimension": (lambda dimension: dimension >= 1, "is not a number of features; use 1 or more"),
}
"""What the fields of drawn sets must satisfy."""


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

    Source: docs/architecture.md, "The way of a batch size".
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
    if config.name not in DATASETS:
        raise UserError(f"dataset.name: '{config.name}' is not a data set; choose one of {', '.join(DATASETS)}, import")
    entry = DATASETS[config.name]
    for field in entry.fields:
        accepted, remedy = _ACCEPTED[field]
        if not accepted(value := getattr(config, field)):
            raise UserError(f"dataset.{field}: {value} {remedy}")
    input_shape = tuple(getattr(config, size) if isinstance(size, str) else size for size in entry.input_shape)
    return DatasetShape(entry.task, input_shape, entry.outputs, *(entry.samples or eighty_twenty(config.samples)))


def _subset(name: str, key: str, size: int | None, available: int) -> int:
    if size is None:
        return available
    if not 1 <= size <= available:
        raise UserError(f"dataset.{key}: {size} does not fit '{name}'; use 1 to {available}, or null for all of it")
    return size
