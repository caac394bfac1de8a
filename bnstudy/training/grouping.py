"""How many seeds train as one module: a fixed rule, so that the same command always groups alike."""

from __future__ import annotations

import math

from bnstudy.training.config import Config
from bnstudy.training.shapes import DatasetShape

LARGEST = 16
"""Replicas in a block at most: beyond it the gain is small and a lost block costs more."""
MLP_WORK = 131072
RESNET_WORK = 2048


def block_size(config: Config, shape: DatasetShape) -> int:
    """Seeds in an aligned block: a power of two that keeps a step's work below what a core's cache holds.

    Stacking saves the fixed cost of a call, which pays while a replica's own work is small. The work of a replica is counted
    in activations of its widest layer, batch_size · width (MLP) or batch_size · height · width (ResNet); the block is the
    largest power of two up to 16 for which the replicas' work stays below a constant that `scripts/benchmark.py grouping`
    measured. On a GPU the block is 16.

    Args:
        config: the model, batch size, and `replicas`, which overrules the rule unless "auto".
        shape: the data set's shape.

    Returns:
        B ≥ 1.

    Source: bnstudy issue 2, part 6; results/benchmark for the constants.
    """
    if config.replicas != "auto":
        return int(config.replicas)
    if config.device == "cuda":
        return LARGEST
    if config.model.architecture == "mlp":
        work, limit = config.batch_size * config.model.width, MLP_WORK
    else:
        work, limit = config.batch_size * math.prod(shape.input_shape[1:]), RESNET_WORK
    fitting = max(1, limit // work)
    return min(LARGEST, 1 << (fitting.bit_length() - 1))
