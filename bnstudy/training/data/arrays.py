"""A data set as its reader gives it: before scaling and subsets, in the one fixed order that subsets are cut from."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bnstudy.training.data.registry import eighty_twenty

Array = NDArray[Any]


class Arrays(NamedTuple):
    """Both splits, unscaled.

    Orders, splits and draws come from `numpy.random.RandomState(split_seed)`, the one generator whose stream NumPy promises
    never to change (NEP 19), so that a stored result names the same samples under every library version.

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

    def shuffled(self, seed: int) -> Arrays:
        """Both splits in a fixed random order, for sets whose files may be sorted in some way."""
        random = np.random.RandomState(seed)
        train = random.permutation(len(self.train_targets))
        test = random.permutation(len(self.test_targets))
        return Arrays(self.train_inputs[train], self.train_targets[train], self.test_inputs[test], self.test_targets[test])


def cut(inputs: Array, targets: Array) -> Arrays:
    """Independent draws cut 80/20 where they lie: they need no shuffling."""
    train, _ = eighty_twenty(len(inputs))
    return Arrays(inputs[:train], targets[:train], inputs[train:], targets[train:])
