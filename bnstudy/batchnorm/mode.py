"""Hold a model in evaluation mode for a while and give it back as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from bnstudy.batchnorm.layers import ConventionBatchNorm


def batchnorm_layers(model: nn.Module) -> dict[str, ConventionBatchNorm]:
    """Every bnstudy BatchNorm layer of a model by its module name, in the order of registration."""
    return {name: module for name, module in model.named_modules() if isinstance(module, ConventionBatchNorm)}


@contextmanager
def held_in_evaluation(model: nn.Module) -> Iterator[dict[str, ConventionBatchNorm]]:
    """Put every module in evaluation mode; on leaving, modes and the layers' inference settings are what they were.

    Yields:
        The model's BatchNorm layers by name, whose `override`, `force_batch_statistics` and `observer` may be set.
    """
    layers = batchnorm_layers(model)
    modes = {module: module.training for module in model.modules()}
    settings = {layer: (layer.override, layer.force_batch_statistics, layer.observer) for layer in layers.values()}
    model.eval()
    try:
        yield layers
    finally:
        for layer, setting in settings.items():
            layer.override, layer.force_batch_statistics, layer.observer = setting
        for module, training in modes.items():
            module.training = training
