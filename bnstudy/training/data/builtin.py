"""Data sets that need no files: those that scikit-learn carries inside its package, and those that are drawn."""

from __future__ import annotations

import numpy as np

from bnstudy.training.config import DatasetConfig
from bnstudy.training.data.arrays import Arrays, cut
from bnstudy.training.data.registry import DATASETS


def digits(config: DatasetConfig) -> Arrays:
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
    return Arrays(train_inputs, train_targets, test_inputs, test_targets)


def diabetes(config: DatasetConfig) -> Arrays:
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
    return Arrays(train_inputs, train_targets, test_inputs, test_targets)


def gaussian(config: DatasetConfig) -> Arrays:
    """Independent standard-normal features, classified by a fixed noisy linear teacher.

    x ~ N(0, I_d),   y = argmax_k (w_k·x + noise·ε_k),   ε_k ~ N(0, 1), w_k random with ‖w_k‖ = 1,

    so that every logit without noise is N(0, 1) too. Inputs, teacher and noise are drawn in this order: another `noise`
    changes labels only. The inputs' known mean 0 and variance 1 hold for the distribution, not for the sample, and
    nothing re-standardises them.

    Args:
        config: `samples` rows of `dimension` features, `noise` (0 makes the teacher exact), `split_seed`.

    Returns:
        10 classes, split 80/20 in the order drawn.

    Source: docs/method.md, "Theory, layer by layer": inputs whose moments are known exactly.
    """
    classes = DATASETS[config.name].outputs
    random = np.random.RandomState(config.split_seed)
    inputs = random.standard_normal((config.samples, config.dimension))  # (n, d)
    teacher = random.standard_normal((config.dimension, classes))  # (d, classes)
    teacher /= np.linalg.norm(teacher, axis=0)
    noise = random.standard_normal((config.samples, classes))
    # einsum, not BLAS: a thread count that regroups the sum could flip a label at a near tie.
    logits = np.einsum("nd,dk->nk", inputs, teacher) + config.noise * noise
    return cut(inputs, logits.argmax(axis=1).astype(np.int64))


def friedman1(config: DatasetConfig) -> Arrays:
    """Friedman's first regression problem: five features that matter and five that do not.

    x ~ U(0, 1)^10,   y = 10 sin(π x₁x₂) + 20 (x₃ − ½)² + 10 x₄ + 5 x₅ + noise·ε,   ε ~ N(0, 1).

    Args:
        config: `samples`, `noise`, `split_seed`; `dimension` does not apply.

    Returns:
        One target, split 80/20 in the order drawn.

    Source: Friedman 1991, Multivariate adaptive regression splines, eq. 56; sklearn.datasets.make_friedman1.
    """
    from sklearn.datasets import make_friedman1

    inputs, targets = make_friedman1(n_samples=config.samples, noise=config.noise, random_state=config.split_seed)
    return cut(inputs, targets[:, None])
