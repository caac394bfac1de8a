"""The BatchNorm layers of any model: torch's, bnstudy's, subclasses such as timm's, frozen ones, and others."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bnstudy.batchnorm.conventions import CONVENTIONS, Convention
from bnstudy.batchnorm.layers import ConventionBatchNorm
from bnstudy.errors import UserError

BatchNorm = nn.modules.batchnorm._BatchNorm
_KNOWN = (BatchNorm.forward, nn.SyncBatchNorm.forward, ConventionBatchNorm.forward)
"""Forward functions that are known to take each batch's own statistics where there are no running ones."""


@dataclass(frozen=True, eq=False)
class NormLayer:
    """A BatchNorm layer of a model.

    Args:
        names: every path at which the model holds it, the first one first.
        module: the layer itself.
        convention: how it normalises and what it stores; torch's layers are `paper`.
        buffers: names of its running mean and variance.
        axis: the dimension of its input that holds the channels.
        own: whether its forward is its own, or its class is none of torch's; see `bnstudy.diagnosis.own_forward`.
        fixed: whether it normalises by stored statistics in training mode too, as torchvision's FrozenBatchNorm2d does.
        rate: the weight of a new batch that such a layer showed; None where it has none of its own.
    """

    names: tuple[str, ...]
    module: nn.Module
    convention: Convention = CONVENTIONS["paper"]
    buffers: tuple[str, str] = ("running_mean", "running_var")
    axis: int = 1
    own: bool = False
    fixed: bool = False
    rate: float | None = None

    @property
    def name(self) -> str:
        """Its name in tables."""
        return self.names[0]

    @property
    def label(self) -> str:
        """Its name and class, for messages."""
        return f"{self.name!r} ({type(self.module).__name__})"

    @property
    def stored(self) -> tuple[Tensor, Tensor] | None:
        """Its running mean and variance, (channels,) each; None where it keeps none."""
        mean, var = (self.module._buffers.get(name) for name in self.buffers)
        return None if mean is None or var is None else (mean, var)

    @property
    def gain(self) -> Tensor | None:
        """γ, (channels,); None without."""
        weight = getattr(self.module, "weight", None)
        return weight.detach() if isinstance(weight, Tensor) else None

    @property
    def eps(self) -> float:
        """ε; NaN of a layer that does not tell."""
        value = getattr(self.module, "eps", None)
        return float(value) if isinstance(value, int | float) else float("nan")

    @property
    def momentum(self) -> float | None:
        """α, the weight of a new batch; None for a cumulative average, and for layers that never update."""
        value = getattr(self.module, "momentum", None)
        return self.rate if self.rate is not None else None if value is None else float(value)

    @property
    def updates(self) -> int | None:
        """Batches that the running statistics have seen; None where that is not counted."""
        count = self.module._buffers.get("num_batches_tracked")
        return None if count is None else int(count)


def norm_layers(model: nn.Module) -> list[NormLayer]:
    """The BatchNorm layers of a model in order of registration, each once.

    Args:
        model: any module. Found are instances of torch's BatchNorm classes, SyncBatchNorm and subclasses included, and,
            marked as `own`, whatever else keeps a running mean and variance of channels in its buffers.

    Raises:
        UserError: the model has none; one with eps = 0; layers that are still lazy, on the meta device, TorchScript, made in
            inference mode, or spread over several GPUs.
    """
    _check(model)
    names: dict[nn.Module, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        names.setdefault(module, []).append(name or type(module).__name__)
    layers = []
    for module, paths in names.items():
        if isinstance(module, BatchNorm):
            convention = module.convention if isinstance(module, ConventionBatchNorm) else CONVENTIONS["paper"]
            own = type(module).forward not in _KNOWN or "forward" in vars(module)
            layers.append(NormLayer(tuple(paths), module, convention, own=own))
            if not module.eps > 0:
                raise UserError(
                    f"model: layer {paths[0]!r} has eps = {module.eps:g}, with which torch runs no training mode to "
                    "compare with; set it to what the model was trained with"
                )
        elif (buffers := _statistics(module)) is not None:
            frozen = "FrozenBatchNorm" in type(module).__name__
            layers.append(NormLayer(tuple(paths), module, buffers=buffers, own=True, fixed=frozen))
    if not layers:
        others = [f"{paths[0]!r} ({type(module).__name__})" for module, paths in names.items() if _tracks(module)]
        has = f"; {others[0]} keeps running statistics of another kind" if others else ""
        raise UserError(
            f"model: {type(model).__name__} has no BatchNorm layer{has}; "
            "a model with BatchNorm1d, 2d, 3d or a subclass expected"
        )
    return layers


def _tracks(module: nn.Module) -> bool:
    """Whether a module is an InstanceNorm with running statistics: means over samples of each one's own variance."""
    return isinstance(module, nn.modules.instancenorm._InstanceNorm) and module.running_var is not None


def _statistics(module: nn.Module) -> tuple[str, str] | None:
    """The names of the buffers with a running mean and variance of channels; None where there is no such pair."""
    vectors = {
        name: buffer
        for name, buffer in module._buffers.items()
        if buffer is not None and buffer.dim() == 1 and buffer.is_floating_point()
    }
    means, variances = ([name for name in vectors if word in name.lower()] for word in ("mean", "var"))
    if len(means) != 1 or len(variances) != 1 or means == variances or isinstance(module, torch.jit.ScriptModule):
        return None
    if vectors[means[0]].shape != vectors[variances[0]].shape or _tracks(module):
        return None
    return means[0], variances[0]


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
