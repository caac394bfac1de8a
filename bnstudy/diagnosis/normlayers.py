"""The BatchNorm layers of any model: torch's, bnstudy's, subclasses such as timm's, torchvision's frozen ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from bnstudy.batchnorm.conventions import CONVENTIONS, Convention
from bnstudy.batchnorm.layers import ConventionBatchNorm
from bnstudy.errors import UserError

BatchNorm = nn.modules.batchnorm._BatchNorm


@dataclass(frozen=True, eq=False)
class NormLayer:
    """A BatchNorm layer of a model.

    Args:
        names: every path at which the model holds it, the first one first.
        module: the layer itself.
        convention: how it normalises and what it stores; torch's layers and their subclasses are `paper`.
    """

    names: tuple[str, ...]
    module: nn.Module
    convention: Convention

    @property
    def name(self) -> str:
        """Its name in tables."""
        return self.names[0]

    @property
    def stored(self) -> tuple[Tensor, Tensor] | None:
        """Its running mean and variance, (channels,) each; None where it keeps none."""
        mean, var = self.module._buffers.get("running_mean"), self.module._buffers.get("running_var")
        return None if mean is None or var is None else (mean, var)

    @property
    def gain(self) -> Tensor | None:
        """γ, (channels,); None without."""
        weight = getattr(self.module, "weight", None)
        return weight.detach() if isinstance(weight, Tensor) else None

    @property
    def eps(self) -> float:
        """ε."""
        return float(cast(float, self.module.eps))

    @property
    def momentum(self) -> float | None:
        """α, the weight of a new batch; None for a cumulative average, and for layers that never update."""
        value = getattr(self.module, "momentum", None)
        return None if value is None else float(value)

    @property
    def updates(self) -> int | None:
        """Batches that the running statistics have seen; None where that is not counted."""
        count = self.module._buffers.get("num_batches_tracked")
        return None if count is None else int(count)

    @property
    def fixed(self) -> bool:
        """Whether it normalises by stored statistics in training mode too, as torchvision's FrozenBatchNorm2d does."""
        return not isinstance(self.module, BatchNorm)


def norm_layers(model: nn.Module) -> list[NormLayer]:
    """The BatchNorm layers of a model in order of registration, each once.

    Args:
        model: any module. Found are instances of torch's BatchNorm classes, SyncBatchNorm and subclasses included, and
            layers that are called a BatchNorm and keep running_mean and running_var, such as FrozenBatchNorm2d.

    Raises:
        UserError: the model has none; one with eps = 0; layers that are still lazy, on the meta device, TorchScript, made in
            inference mode, or spread over several GPUs.

    Source: bnstudy issue 7, part 1.
    """
    _check(model)
    found: dict[nn.Module, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        frozen = "BatchNorm" in type(module).__name__ and module._buffers.get("running_var") is not None
        if isinstance(module, BatchNorm) or frozen:
            found.setdefault(module, []).append(name or type(module).__name__)
    if not found:
        raise UserError(
            f"model: {type(model).__name__} has no BatchNorm layer; a model with BatchNorm1d, 2d, 3d or a subclass expected"
        )
    layers = [
        NormLayer(
            tuple(names), module, module.convention if isinstance(module, ConventionBatchNorm) else CONVENTIONS["paper"]
        )
        for module, names in found.items()
    ]
    for layer in layers:
        if not layer.fixed and not layer.eps > 0:
            raise UserError(
                f"model: layer {layer.name!r} has eps = {layer.eps:g}, with which torch runs no training mode to compare "
                "with; set it to what the model was trained with"
            )
    return layers


def _check(model: nn.Module) -> None:
    """Refuse what cannot be run with other statistics."""
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.lazy.LazyModuleMixin) and module.has_uninitialized_params():  # type: ignore[misc]
            raise UserError(f"model: layer {name!r} has not seen an input yet; run the model once, or load its weights")
        if isinstance(module, torch.jit.ScriptModule) and (not name or "BatchNorm" in module.original_name):
            raise UserError(
                f"model: {f'layer {name!r}' if name else 'it'} is TorchScript, in which statistics cannot be swapped; give "
                "the model from before torch.jit.script or torch.jit.trace"
            )
        if isinstance(module, nn.DataParallel) and len(module.device_ids) > 1:
            raise UserError(
                f"model: DataParallel over {len(module.device_ids)} GPUs, each of which normalises its own part of a "
                "batch; give model.module, and batches of the size that one GPU had"
            )
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.is_meta:
            raise UserError(f"model: {name!r} is on the meta device and has no values; load the weights onto a real one")
        if tensor.is_inference() and not isinstance(tensor, nn.Parameter) and not torch.is_inference_mode_enabled():
            raise UserError(
                f"model: {name!r} was made in torch.inference_mode, so that training mode cannot update it; build and load "
                "the model outside, or diagnose it inside"
            )
