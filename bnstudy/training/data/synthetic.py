"""Data sets that are drawn: `gaussian`, whose moments are known exactly, and Friedman's regression."""

from __future__ import annotations

import numpy as np

from bnstudy.training.config import DatasetConfig
from bnstudy.training.data.shapes import FRIEDMAN_FEATURES, GAUSSIAN_CLASSES, eighty_twenty
from bnstudy.training.data.sources import Array, Source


def gaussian(config: DatasetConfig) -> Source:
    """Independent standard-normal features, classified by a fixed noisy linear teacher.

    x ~ N(0, I_d),   y = argmax_k (w_k·x + noise·ε_k),   ε_k ~ N(0, 1), w_k random with ‖w_k‖ = 1,

    so that every logit without noise is N(0, 1) too. Inputs, teacher and noise are drawn in this order: another `noise`
    changes labels only. The inputs' known mean 0 and variance 1 hold for the distribution, not for the sample, and
    nothing re-standardises them.

    Args:
        config: `samples` rows of `dimension` features, `noise` (0 makes the teacher exact), `split_seed`.

    Returns:
        10 classes, split 80/20 in the order drawn.

    Source: bnstudy issue 2, part 4.
    """
    random = np.random.RandomState(config.split_seed)
    inputs = random.standard_normal((config.samples, config.dimension))  # (n, d)
    teacher = random.standard_normal((config.dimension, GAUSSIAN_CLASSES))  # (d, classes)
    teacher /= np.linalg.norm(teacher, axis=0)
    noise = random.standard_normal((config.samples, GAUSSIAN_CLASSES))
    # einsum, not BLAS: a thread count that regroups the sum could flip a label at a near tie.
    logits = np.einsum("nd,dk->nk", inputs, teacher) + config.noise * noise
    return _split(inputs, logits.argmax(axis=1).astype(np.int64))


def friedman1(config: DatasetConfig) -> Source:
    """Friedman's first regression problem: five features that matter and five that do not.

    x ~ U(0, 1)^10,   y = 10 sin(π x₁x₂) + 20 (x₃ − ½)² + 10 x₄ + 5 x₅ + noise·ε,   ε ~ N(0, 1).

    Args:
        config: `samples`, `noise`, `split_seed`; `dimension` does not apply.

    Returns:
        One target, split 80/20 in the order drawn.

    Source: Friedman 1991, Multivariate adaptive regression splines, eq. 56; sklearn.datasets.make_friedman1.
    """
    from sklearn.datasets import make_friedman1

    inputs, targets = make_friedman1(
        n_samples=config.samples, n_features=FRIEDMAN_FEATURES, noise=config.noise, random_state=config.split_seed
    )
    return _split(inputs, targets[:, None])


def _split(inputs: Array, targets: Array) -> Source:
    """Cut independent draws 80/20 where they lie: they need no shuffling."""
    train, _ = eighty_twenty(len(inputs))
    return Source(inputs[:train], targets[:train], inputs[train:], targets[train:])
