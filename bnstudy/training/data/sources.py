"""A data set as its source gives it: before scaling and subsets, in the one fixed order that subsets are cut from."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bnstudy.training.config import DatasetConfig

Array = NDArray[Any]


class Source(NamedTuple):
    """Both splits, unscaled.

    Args:
        train_inputs: (n, *input_shape); uint8 for images, float64 for rows of features, either or float32 for imports.
        train_targets: (n,) int64 class numbers, or (n, outputs) float64.
        test_inputs: like train_inputs.
        test_targets: like train_targets.
    """

    train_inputs: Array
    train_targets: Array
    test_inputs: Array
    test_targets: Array


def read_source(config: DatasetConfig) -> Source:
    """Read or draw both splits of a data set, in their fixed order.

    Orders, splits and draws come from `numpy.random.RandomState(split_seed)`, the one generator whose stream NumPy
    promises never to change (NEP 19), so that a stored result names the same samples under every library version.

    Args:
        config: the data set; `describe` has checked it.

    Returns:
        The splits; `train_size` and `test_size` are not applied.

    Raises:
        UserError: a file is missing or damaged, or could not be downloaded.

    Source: bnstudy issue 2, part 4.
    """
    # Imported where used: scikit-learn and torchvision take seconds each, and no data set needs both.
    if config.name in ("gaussian", "friedman1"):
        from bnstudy.training.data import synthetic

        return synthetic.gaussian(config) if config.name == "gaussian" else synthetic.friedman1(config)
    if config.name in ("digits", "diabetes"):
        from bnstudy.training.data import embedded

        return embedded.digits(config) if config.name == "digits" else embedded.diabetes(config)
    if config.imported:
        from bnstudy.training.data.imported import imported_source

        return _shuffled(imported_source(config), config.split_seed)
    from bnstudy.training.data.vision import read_images

    return _shuffled(read_images(config), config.split_seed)


def _shuffled(source: Source, seed: int) -> Source:
    """Put both given splits into a fixed random order: their files may be sorted in some way."""
    random = np.random.RandomState(seed)
    train = random.permutation(len(source.train_targets))
    test = random.permutation(len(source.test_targets))
    return Source(
        source.train_inputs[train], source.train_targets[train], source.test_inputs[test], source.test_targets[test]
    )
