"""Seeds as a tensor dimension: several networks of one structure trained at once as one module."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor, nn

from bnstudy.errors import UserError

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Hardswish, nn.Softplus, nn.Sigmoid, nn.Tanh)
_MAX_POOLING = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d)
_MEAN_POOLING = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)
_CHANNELWISE = (*_ACTIVATIONS, *_MAX_POOLING, *_MEAN_POOLING, nn.Identity, nn.Flatten, nn.Sequential)
"""Layers without parameters that treat channels alike and apart, so that R·C channels need no change. A Dropout is not one
of them: all replicas would draw from one generator, and none could be trained alone with the same numbers."""


class ReplicaLinear(nn.Module):
    """R linear layers as one batched matrix product: y_r = x_r·W_r + b_r.

    `weight` has shape (R, in, out), the transpose of nn.Linear's: the gradient then leaves the product in the layout of the
    parameter, which spares a transposing copy of it in every step. Inputs and outputs stay (N, R·F), seen through strided
    views, since BatchNorm and the products themselves are slower with the samples last.

    Args:
        layers: R layers of one shape, with or without bias; their values are copied.

    Source: docs/method.md, "Replicas and pairing".
    """

    def __init__(self, layers: Sequence[nn.Linear]) -> None:
        super().__init__()
        self.replicas, self.in_features, self.out_features = len(layers), layers[0].in_features, layers[0].out_features
        self.weight = nn.Parameter(
            torch.stack([layer.weight.detach().T for layer in layers]), layers[0].weight.requires_grad
        )
        self.bias: nn.Parameter | None = None
        if layers[0].bias is not None:
            self.bias = nn.Parameter(torch.cat([layer.bias.detach() for layer in layers]), layers[0].bias.requires_grad)

    def extra_repr(self) -> str:
        bias = self.bias is not None
        return f"{self.replicas} x (in_features={self.in_features}, out_features={self.out_features}, bias={bias})"

    def forward(self, x: Tensor) -> Tensor:
        """(N, R·in) to (N, R·out)."""
        samples = x.size(0)
        by_replica = x.reshape(samples, self.replicas, self.in_features).transpose(0, 1)  # (R, N, in)
        if self.bias is None:
            y = torch.bmm(by_replica, self.weight)  # (R, N, out)
        else:
            y = torch.baddbmm(self.bias.view(self.replicas, 1, -1), by_replica, self.weight)
        return y.transpose(0, 1).reshape(samples, -1)


def replicate(models: Sequence[nn.Module]) -> nn.Module:
    """Turn R networks of one structure into one module that runs them side by side.

    Inputs are (N, R·C, H, W) or (N, R·F) with a replica's channels together, outputs (N, R·K) likewise. Every layer is
    swapped for one that does R times its work in one call, without a value crossing from a replica to another:

        Linear          ReplicaLinear, a batched matrix product
        Conv1d/2d/3d    the same class with R times the groups
        BatchNorm*      the same class, options and buffers over R·C channels
        GroupNorm       the same class with R times the groups
        elementwise, pooling, Flatten, Identity     as they are

    A module that holds others keeps its own `forward`, which must therefore treat channels alike and apart too: calls of
    layers, sums, activations and `torch.flatten(x, 1)` do; concatenation or indexing of channels does not.

    Args:
        models: R ≥ 1 networks that differ in values only; they are copied, not changed.

    Returns:
        The stacked module; for R = 1 a plain copy of the network, which is the same thing without the detour.

    Raises:
        UserError: a layer for which there is no such form (with R ≥ 2).
        ValueError: no model, models of different structure, or tensors shared between layers.

    Source: docs/method.md, "Replicas and pairing".
    """
    if not models:
        raise ValueError("models: none given; replicate() needs one or more")
    if len(models) == 1:
        return copy.deepcopy(models[0])
    _check_layers(models[0])
    _check_same_structure(models)
    # A copy that finds the stacked layers in the places of the single ones; a layer used twice stays one layer.
    swapped: dict[int, Any] = {}
    for path, layer in models[0].named_modules():
        if not _serves_as_it_is(layer):
            stacked = _stack([model.get_submodule(path) for model in models], path)
            swapped[id(layer)] = stacked.train(layer.training)
    result: nn.Module = copy.deepcopy(models[0], swapped)
    return result


def replica_state_dict(stacked: nn.Module, replica: int, replicas: int) -> dict[str, Tensor]:
    """The state_dict that one replica would have alone; `load_state_dict` of the single network takes it, strict.

    Args:
        stacked: what `replicate` returned, trained or not.
        replica: which one, 0…R-1.
        replicas: R.

    Returns:
        Copies by name, on the device of the stacked module.

    Raises:
        ValueError: no such replica, or another number of replicas than the module has.

    Source: docs/method.md, "Replicas and pairing".
    """
    if not 0 <= replica < replicas:
        raise ValueError(f"replica: {replica} is not among {replicas} replicas; use 0 to {replicas - 1}")
    linear = {path: layer for path, layer in stacked.named_modules() if isinstance(layer, ReplicaLinear)}
    for path, layer in linear.items():
        if layer.replicas != replicas:
            raise ValueError(f"replicas: {replicas} is not what layer '{path}' holds; use {layer.replicas}")
    state: dict[str, Tensor] = {}
    for key, tensor in stacked.state_dict().items():
        path, _, name = key.rpartition(".")
        if path in linear and name == "weight":
            part = tensor[replica].T
        elif tensor.dim() == 0:  # the count of batches, which replicas share
            part = tensor
        else:
            part = tensor.unflatten(0, (replicas, -1))[replica]
        state[key] = part.clone(memory_format=torch.contiguous_format)
    return state


def _serves_as_it_is(layer: nn.Module) -> bool:
    """Whether R·C channels need no other layer: it is channelwise, or holds other layers and nothing of its own."""
    return type(layer) in _CHANNELWISE or (_holds_others(layer) and not _tensors(layer))


def _holds_others(layer: nn.Module) -> bool:
    return next(layer.children(), None) is not None


def _check_layers(model: nn.Module) -> None:
    for path, layer in model.named_modules():
        is_batchnorm = isinstance(layer, nn.modules.batchnorm._BatchNorm) and not _holds_others(layer)
        # Exact types: a subclass may compute something else, and a reparametrised layer is one.
        if not (type(layer) in (nn.Linear, nn.GroupNorm, *_CONVOLUTIONS) or is_batchnorm or _serves_as_it_is(layer)):
            raise UserError(
                f"model: layer '{path}' ({type(layer).__name__}) has no replicated form; use replicas=1, or build the model "
                "of Linear, Conv, BatchNorm, GroupNorm, elementwise and pooling layers"
            )


def _stack(layers: Sequence[nn.Module], path: str) -> nn.Module:
    """The layer that does the work of all of `layers`."""
    first = layers[0]
    if isinstance(first, nn.Linear):
        return ReplicaLinear([layer for layer in layers if isinstance(layer, nn.Linear)])
    if isinstance(first, nn.GroupNorm):
        return _widen(layers, path, "num_groups", "num_channels")
    if isinstance(first, _CONVOLUTIONS):
        return _widen(layers, path, "in_channels", "out_channels", "groups")
    return _widen(layers, path, "num_features")


def _widen(layers: Sequence[nn.Module], path: str, *counts: str) -> nn.Module:
    """One layer of the same class and options whose counts are R times as large, tensors joined along channels."""
    wide = copy.deepcopy(layers[0])
    for count in counts:
        setattr(wide, count, getattr(wide, count) * len(layers))
    for name, tensor in _tensors(layers[0]).items():
        parts = [_tensors(layer)[name].detach() for layer in layers]
        if isinstance(tensor, nn.Parameter):
            wide.register_parameter(name, nn.Parameter(torch.cat(parts), tensor.requires_grad))
        elif tensor.dim() > 0:
            setattr(wide, name, torch.cat(parts))
        elif any(not torch.equal(part, tensor) for part in parts):
            raise ValueError(f"models: {name} of layer '{path}' differs between replicas, which must have it in common")
    return wide


def _tensors(layer: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers of the layer itself, those outside the state_dict included."""
    return {**dict(layer.named_parameters(recurse=False)), **dict(layer.named_buffers(recurse=False))}


def _check_same_structure(models: Sequence[nn.Module]) -> None:
    structure = _structure(models[0])
    for index, model in enumerate(models):
        for ours, theirs in zip_longest(structure, _structure(model)):
            if ours != theirs:
                path = (theirs or ours)[0]
                raise ValueError(f"models: number {index} differs from number 0 at layer '{path}'; replicas are alike")
    owners: dict[int, str] = {}
    for path, module in models[0].named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            owner = owners.setdefault(id(parameter), path)
            if owner != path:
                raise ValueError(f"models: '{path}' shares its {name} with '{owner}', which replicas cannot")


def _structure(model: nn.Module) -> list[tuple[str, type[nn.Module], str, list[tuple[str, torch.Size]]]]:
    return [
        (path, type(layer), layer.extra_repr(), [(name, tensor.shape) for name, tensor in _tensors(layer).items()])
        for path, layer in model.named_modules()
    ]
