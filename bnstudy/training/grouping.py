"""How many seeds train as one module: a fixed rule, so that the same command always groups alike."""

from __future__ import annotations

import math

from bnstudy.training.config import Config, ModelConfig
from bnstudy.training.shapes import DatasetShape

LARGEST = 16
"""Replicas in a block at most: beyond it the gain is small and a lost block costs more."""
ACTIVATIONS = {"mlp": 2**17, "resnet": 2**18}
"""Values in the widest layer's output that a block may have: 0.5 and 1 MB of float32. Measured by R·activations: an MLP gains
1.4 to 1.6 at 2^17 and nothing at 2^18; a ResNet gains 1.3 to 2.5 at 2^18 and loses up to a quarter beyond 2^19."""
WEIGHTS = {"mlp": 2**18, "resnet": 2**20}
"""Weights in the largest layer that a block may have: 1 and 4 MB of float32. Stacked weights save no work, and those that
no longer fit in the cache cost as much as the calls that stacking spares."""


def block_size(config: Config, shape: DatasetShape) -> int:
    """Seeds in an aligned block: a power of two that keeps a step's largest tensors in a core's cache.

    Stacking saves the fixed cost of a call, which pays while a replica's own work is small. The block is the largest power of
    two up to 16 whose replicas together have at most ACTIVATIONS values in the widest layer's output (batch_size · width for
    an MLP, batch_size · height · width of the image · channels of the first stage for a ResNet) and at most WEIGHTS weights in
    the largest layer. torchvision's networks, whose layers have up to 2.4 million weights, train one at a time. The constants
    come from `scripts/benchmark.py grouping` on one thread; on a GPU the block is 16.

    Args:
        config: the model, batch size, and `replicas`, which overrules the rule unless "auto".
        shape: the data set's shape.

    Returns:
        B ≥ 1.

    Source: bnstudy issue 2, part 6; results/benchmark/grouping.md for the constants.
    """
    if config.replicas != "auto":
        return int(config.replicas)
    if config.device == "cuda":
        return LARGEST
    model = config.model
    if model.architecture == "torchvision":
        return 1
    activations = config.batch_size * model.width
    if model.architecture == "resnet":
        activations *= math.prod(shape.input_shape[1:])
    fitting = min(
        LARGEST,
        ACTIVATIONS[model.architecture] // activations,
        WEIGHTS[model.architecture] // _largest_layer(model, shape),
    )
    return 1 << (max(1, fitting).bit_length() - 1)


def _largest_layer(model: ModelConfig, shape: DatasetShape) -> int:
    """Weights of the largest layer."""
    if model.architecture == "resnet":
        return 9 * (4 * model.width) ** 2  # a 3×3 convolution of the third stage
    return max(math.prod(shape.input_shape), model.width if model.depth > 1 else 0, shape.outputs) * model.width
