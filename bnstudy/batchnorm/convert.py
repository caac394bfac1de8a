"""Give an existing model's BatchNorm layers a convention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from torch import nn

from bnstudy.batchnorm.conventions import Convention
from bnstudy.batchnorm.ghost import group_size
from bnstudy.batchnorm.layers import BatchNorm1d, BatchNorm2d, BatchNorm3d, ConventionBatchNorm

_COUNTERPARTS: dict[type[nn.Module], type[ConventionBatchNorm]] = {
    nn.BatchNorm1d: BatchNorm1d,
    nn.BatchNorm2d: BatchNorm2d,
    nn.BatchNorm3d: BatchNorm3d,
}


def convert(
    model: nn.Module,
    convention: str | Sequence[str] | Convention,
    norm_batch_size: int | None = None,
) -> nn.Module:
    """Give every BatchNorm layer of `model` a convention, in place.

    A layer changes its class and stays the object that it was, with its parameters, buffers and hooks.

    Args:
        model: any module; torch's BatchNorm1d/2d/3d become bnstudy's, bnstudy's change their convention.
        convention: as for the layers.
        norm_batch_size: as for the layers. Default: None, the whole batch.

    Returns:
        The model itself.

    Raises:
        ValueError: an unknown convention, a norm_batch_size below 1, or a layer that cannot take a convention
            (SyncBatchNorm, a lazy layer, a subclass); the model is unchanged then.

    Source: docs/method.md, "Conventions".
    """
    chosen, size = Convention.parse(convention), group_size(norm_batch_size)
    layers = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    for layer in layers:
        if not isinstance(layer, ConventionBatchNorm) and type(layer) not in _COUNTERPARTS:
            raise ValueError(
                f"convention: a {type(layer).__name__} layer cannot take one; use BatchNorm1d, BatchNorm2d or BatchNorm3d"
            )
    for layer in layers:
        if not isinstance(layer, ConventionBatchNorm):
            layer.__class__ = _COUNTERPARTS[type(layer)]
        cast(ConventionBatchNorm, layer).set_convention(chosen, size)
    return model
