"""The networks of the study, written once as ordinary PyTorch for one seed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from bnstudy.batchnorm.conventions import Convention
from bnstudy.batchnorm.layers import BatchNorm1d, BatchNorm2d
from bnstudy.errors import UserError
from bnstudy.training.config import ModelConfig
from bnstudy.training.imported import refuse_fields
from bnstudy.training.networks.facts import NetworkFacts, Passes, watched
from bnstudy.training.networks.imported import build_imported, tried_out
from bnstudy.training.networks.resnet import Norm, ResNet

ARCHITECTURES = ("mlp", "resnet", "torchvision")
NORMS = ("batch", "group", "layer", "none")
TORCHVISION_MODELS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")

_MOST_GROUPS = 32
_LEAST_CHANNELS_A_GROUP = 4


def build_model(
    config: ModelConfig,
    input_shape: Sequence[int],
    outputs: int,
    *,
    seed: int,
    convention: Convention | str = "paper",
    eps: float = 1e-5,
    momentum: float | None = 0.1,
    norm_batch_size: int | None = None,
) -> nn.Module:
    """A freshly initialised network, in training mode on the CPU.

    `mlp` is [Linear, norm, ReLU] `depth` times and a Linear head. `resnet` is `bnstudy.training.networks.resnet.ResNet`.
    `torchvision` is torchvision's ResNet called `config.name`, with `conv1` made anew where images have not three channels;
    its five halvings leave one position a channel at the last stage for images up to 32x32, so that m = N there. Layers
    in front of a norm have no bias, the norm's β would absorb it; without norm they have one. `import` is a network of the
    user's own; see `build_imported`.

    The weights are a function of `seed` alone: whatever the convention, batch size or data order, they are what
    `torch.manual_seed(seed)` followed by the same constructor gives. The global generator is given back as it was.

    Args:
        config: architecture, depth, width and norm. `norm` "batch" is bnstudy's BatchNorm. "group" is GroupNorm with the
            largest divisor of the channels as number of groups that is at most 32 (Wu & He's default) and leaves at least 4
            channels a group, else 1 group: a group of one value would be normalised to a constant. "layer" is
            GroupNorm with one group: over channels and space of each sample, with γ and β per channel; on features the same
            as nn.LayerNorm(F). "none" leaves the norm out.
        input_shape: of one sample, (C, H, W) or (F,).
        outputs: size of the last layer.
        seed: of the initial weights; 0 is a seed like any other.
        convention: of the BatchNorm layers: a `Convention`, its name or an alias. Default: "paper".
        eps: ε of the norms. Default: 1e-5.
        momentum: α of the BatchNorm layers; None for the cumulative average. Default: 0.1.
        norm_batch_size: samples that share statistics in BatchNorm layers. Default: None, the whole batch.

    Returns:
        A module that takes (N, *input_shape) to (N, outputs).

    Raises:
        UserError: an unknown architecture, norm, convention or torchvision name; a depth or width that does not fit; a
            ResNet for inputs that are not images.

    Source: He et al. 2016; Wu & He 2018; Ba et al. 2016.
    """
    if config.imported:
        settings: dict[str, Any] = {"eps": eps, "momentum": momentum, "norm_batch_size": norm_batch_size}
        return build_imported(config, input_shape, outputs, seed=seed, convention=_parsed(convention), **settings)
    _check(config, input_shape)
    spatial = len(input_shape) == 3 and config.architecture != "mlp"
    norm = partial(_norm, config.norm, spatial, eps, momentum, _parsed(convention), norm_batch_size)
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed: it would also reseed accelerators, whose state is not given back here.
        torch.default_generator.manual_seed(seed)
        if config.architecture == "mlp":
            return _mlp(config, input_shape, outputs, norm)
        if config.architecture == "resnet":
            return ResNet(input_shape[0], outputs, config.depth, config.width, norm, bias=config.norm == "none")
        return _torchvision(config, input_shape[0], outputs, norm)


_facts: dict[tuple[object, ...], NetworkFacts] = {}


def network_facts(config: ModelConfig, input_shape: Sequence[int], outputs: int) -> NetworkFacts:
    """A network's sizes, found out once in a process.

    A network of the study's own is built without memory for its weights and run on two samples, so that one too large for
    this machine can be planned too; a network of the user's own is tried out (`imported.tried_out`).

    Args:
        config, input_shape, outputs: as for `build_model`.

    Returns:
        The facts.

    Raises:
        UserError: as `build_model`; and a network of the user's own that does not do what it should.

    Source: docs/architecture.md, "The way of a batch size".
    """
    key = (repr(config), tuple(input_shape), outputs)
    if config.imported and config.source is None:  # whatever stands behind the name may be another by now
        return tried_out(config, input_shape, outputs)
    if key not in _facts:
        _facts[key] = (tried_out if config.imported else _measured)(config, input_shape, outputs)
    return _facts[key]


@torch.no_grad()
def _measured(config: ModelConfig, input_shape: Sequence[int], outputs: int) -> NetworkFacts:
    passes = Passes()
    with torch.device("meta"):  # shapes only
        model = build_model(config, input_shape, outputs, seed=0).eval()
        x = torch.empty(2, *input_shape)
        with watched(model, passes):
            model(x)
    return passes.facts(model, x)


def _parsed(convention: Convention | str) -> Convention:
    try:
        return Convention.parse(convention)
    except ValueError as error:
        raise UserError(str(error)) from error


def _check(config: ModelConfig, input_shape: Sequence[int]) -> None:
    refuse_fields("model", config)
    if config.architecture not in ARCHITECTURES:
        raise UserError(f"model.architecture: {config.architecture!r} is unknown; use {_either((*ARCHITECTURES, 'import'))}")
    if config.norm not in NORMS:
        raise UserError(f"model.norm: {config.norm!r} is unknown; use {_either(NORMS)}")
    if config.architecture == "torchvision" and config.name not in TORCHVISION_MODELS:
        raise UserError(f"model.name: {config.name!r} is no torchvision model here; use {_either(TORCHVISION_MODELS)}")
    if config.architecture != "mlp" and len(input_shape) != 3:
        raise UserError(
            f"model.architecture: {config.architecture!r} needs images (C, H, W) and the data has inputs of shape "
            f"{tuple(input_shape)}; use mlp"
        )
    if config.architecture != "torchvision" and config.width < 1:
        raise UserError(f"model.width: {config.width} leaves no units; use 1 or more")
    if config.architecture == "mlp" and config.depth < 1:
        raise UserError(f"model.depth: {config.depth} leaves no hidden layer; use 1 or more")
    if config.architecture == "resnet" and (config.depth < 8 or config.depth % 6 != 2):
        raise UserError(f"model.depth: {config.depth} is not 6n+2; use 8, 14, 20, … 56, … for a resnet")


def _either(choices: Sequence[str]) -> str:
    return f"{', '.join(choices[:-1])} or {choices[-1]}"


def _norm(
    name: str,
    spatial: bool,
    eps: float,
    momentum: float | None,
    convention: Convention,
    norm_batch_size: int | None,
    channels: int,
) -> nn.Module:
    if name == "none":
        return nn.Identity()
    if name == "batch":
        layer = BatchNorm2d if spatial else BatchNorm1d
        return layer(channels, eps, momentum, convention=convention, norm_batch_size=norm_batch_size)
    return nn.GroupNorm(_groups(channels) if name == "group" else 1, channels, eps)


def _groups(channels: int) -> int:
    most = max(1, min(_MOST_GROUPS, channels // _LEAST_CHANNELS_A_GROUP))
    return next(groups for groups in range(most, 0, -1) if channels % groups == 0)


def _mlp(config: ModelConfig, input_shape: Sequence[int], outputs: int, norm: Norm) -> nn.Sequential:
    model = nn.Sequential()
    if len(input_shape) > 1:
        model.add_module("flatten", nn.Flatten())
    features = math.prod(input_shape)
    for index in range(1, config.depth + 1):
        model.add_module(f"linear{index}", nn.Linear(features, config.width, bias=config.norm == "none"))
        model.add_module(f"norm{index}", norm(config.width))
        model.add_module(f"relu{index}", nn.ReLU())
        features = config.width
    model.add_module("head", nn.Linear(features, outputs))
    return model


def _torchvision(config: ModelConfig, channels: int, outputs: int, norm: Norm) -> nn.Module:
    from torchvision.models import get_model  # slow to import, and the other architectures do without

    model: nn.Module = get_model(config.name, weights=None, num_classes=outputs, norm_layer=norm)
    if channels != 3:
        model.conv1 = nn.Conv2d(channels, 64, 7, 2, padding=3, bias=False)
        nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    if config.norm == "none":
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                module.bias = nn.Parameter(torch.zeros(module.out_channels))
    return model
