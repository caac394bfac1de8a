"""The BatchNorm layers of any model: torch's, bnstudy's, subclasses such as timm's, torchvision's frozen ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

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
        UserError: the model has none, or one that is still lazy.

    Source: bnstudy issue 7, part 1.
    """
    found: dict[nn.Module, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        frozen = "BatchNorm" in type(module).__name__ and module._buffers.get("running_var") is not None
        if isinstance(module, BatchNorm) or frozen:
            found.setdefault(module, []).append(name or type(module).__name__)
    lazy = [names[0] for module, names in found.items() if isinstance(module, nn.modules.lazy.LazyModuleMixin)]
    if lazy:
        raise UserError(f"model: layer {lazy[0]!r} has not seen an input yet; run the model once, or load its weights")
    if not found:
        raise UserError(
            f"model: {type(model).__name__} has no BatchNorm layer; a model with BatchNorm1d, 2d, 3d or a subclass expected"
        )
    return [
        NormLayer(
            tuple(names), module, module.convention if isinstance(module, ConventionBatchNorm) else CONVENTIONS["paper"]
        )
        for module, names in found.items()
    ]
