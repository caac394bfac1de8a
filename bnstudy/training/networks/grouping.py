"""How many seeds train as one module: a fixed rule, so that the same command always groups alike."""

from __future__ import annotations

import math

from bnstudy.errors import UserError
from bnstudy.training.config import ModelConfig, TrainingConfig
from bnstudy.training.data.registry import DatasetShape

LARGEST = 16
"""Replicas in a block at most: beyond it the gain is small and a lost block costs more."""
ACTIVATIONS = {"mlp": 2**18, "resnet": 2**19}
"""Values in the widest layer's output that a block may have: 1 and 2 MB of float32. Up to there a larger block is never the
slower one; beyond, gains shrink, and for ResNets turn into losses (0.9 at 2^20 and up)."""
WEIGHTS = {"mlp": 2**20, "resnet": 2**21, "torchvision": 2**21}
"""Weights in the largest layer that a block may have: 4 and 8 MB of float32. Stacking saves calls, but no reading and
updating of weights, most of the work of a wide network at a small batch; torchvision's ResNets gain nothing."""
_TORCHVISION_LAYER = 9 * 512**2  # a 3×3 convolution of the last stage, in ResNets of every depth


def block_size(config: TrainingConfig, shape: DatasetShape) -> int:
    """Seeds in an aligned block: a power of two that keeps a step's largest tensors in a core's cache.

    Stacking saves the fixed cost of a call, which pays while a replica's own work is small. The block is the largest
    power of two up to 16 whose replicas together have at most ACTIVATIONS values in the output of the widest layer
    (batch_size · width for an MLP, batch_size · height · width of the image · channels of the first stage for a ResNet)
    and at most WEIGHTS weights in the largest layer; 1 where even one replica has more. The constants come from
    `python -m scripts.benchmark grouping` on one thread, under an allocator that keeps freed memory, as in study workers.
    On a GPU the block is 16. Networks of the user's own follow the same rule (an MLP's where inputs are rows of features) by
    the sizes that one of them is found to have, and train one by one where they cannot be stacked (`unstackable`).

    Args:
        config: the model, batch size, and `replicas`, which overrules the rule unless "auto".
        shape: the data set's shape.

    Returns:
        B ≥ 1.

    Raises:
        UserError: more than one replica is asked for of an import that cannot be stacked, or as `check_imported`.

    Source: bnstudy issue 2, part 6; results/benchmark/grouping.md for the measurements.
    """
    if config.model.imported:
        return _block_of_import(config, shape)
    if config.replicas != "auto":
        return int(config.replicas)
    if config.device == "cuda":
        return LARGEST
    model = config.model
    fitting = min(LARGEST, WEIGHTS[model.architecture] // _largest_layer(model, shape))
    if model.architecture in ACTIVATIONS:
        positions = 1 if model.architecture == "mlp" else math.prod(shape.input_shape[1:])
        fitting = min(fitting, ACTIVATIONS[model.architecture] // (config.batch_size * positions * model.width))
    return 1 << (max(1, fitting).bit_length() - 1)


def _block_of_import(config: TrainingConfig, shape: DatasetShape) -> int:
    from bnstudy.training.networks.imported import check_imported
    from bnstudy.training.networks.stacking import unstackable

    asked = None if config.replicas == "auto" else int(config.replicas)
    if asked == 1:
        return 1
    if asked is None and config.device != "cuda":
        extent = check_imported(config.model, shape.input_shape, shape.outputs)
        kind = "mlp" if len(shape.input_shape) == 1 else "resnet"
        most = (LARGEST, WEIGHTS[kind] // extent.weights, ACTIVATIONS[kind] // (config.batch_size * extent.activations))
        fitting = 1 << (max(1, min(most)).bit_length() - 1)
    else:
        fitting = asked or LARGEST
    if fitting == 1:
        return 1
    reason = unstackable(config.model, shape.input_shape, shape.outputs)
    if reason is None:
        return fitting
    if asked is not None:
        raise UserError(
            f"replicas: {asked} networks of {config.model.factory!r} cannot train as one module ({reason}); use 1, or auto"
        )
    return 1


def _largest_layer(model: ModelConfig, shape: DatasetShape) -> int:
    """Weights of the largest layer."""
    if model.architecture == "mlp":
        return max(math.prod(shape.input_shape), model.width if model.depth > 1 else 0, shape.outputs) * model.width
    if model.architecture == "resnet":
        return 9 * (4 * model.width) ** 2  # a 3×3 convolution of the third stage
    return _TORCHVISION_LAYER
