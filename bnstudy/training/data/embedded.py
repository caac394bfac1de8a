"""Data sets that scikit-learn carries inside its package: nothing to download."""

from __future__ import annotations

import numpy as np

from bnstudy.training.config import DatasetConfig
from bnstudy.training.data.sources import Source


def digits(config: DatasetConfig) -> Source:
    """1,797 handwritten digits, (1, 8, 8) with values 0…16, split 80/20 with equal shares of every class.

    Args:
        config: `split_seed` picks the split.

    Returns:
        1,437 training and 360 test images, shuffled.

    Source: sklearn.datasets.load_digits (UCI Optical Recognition of Handwritten Digits, its test part).
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    data = load_digits()
    images = data.images.astype(np.uint8)[:, None]  # (n, 1, 8, 8)
    labels = data.target.astype(np.int64)
    train_inputs, test_inputs, train_targets, test_targets = train_test_split(
        images, labels, test_size=0.2, stratify=labels, random_state=config.split_seed
    )
    return Source(train_inputs, train_targets, test_inputs, test_targets)


def diabetes(config: DatasetConfig) -> Source:
    """442 patients, 10 features, one target: disease progression after a year; split 80/20.

    Args:
        config: `split_seed` picks the split.

    Returns:
        353 training and 89 test rows, shuffled.

    Source: Efron et al. 2004, Least angle regression; sklearn.datasets.load_diabetes.
    """
    from sklearn.datasets import load_diabetes
    from sklearn.model_selection import train_test_split

    # scaled=False: scikit-learn's default standardises with the test rows included.
    inputs, targets = load_diabetes(return_X_y=True, scaled=False)
    train_inputs, test_inputs, train_targets, test_targets = train_test_split(
        inputs, targets[:, None], test_size=0.2, random_state=config.split_seed
    )
    return Source(train_inputs, train_targets, test_inputs, test_targets)
