"""Shapes, sizes, initial weights and refusals of the networks."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from bnstudy.batchnorm.conventions import CONVENTIONS
from bnstudy.batchnorm.mode import batchnorm_layers
from bnstudy.errors import UserError
from bnstudy.training.config import ModelConfig
from bnstudy.training.networks import build_model

MLP = ModelConfig()
RESNET8 = ModelConfig(name="resnet8", architecture="resnet", depth=8, width=16)
RESNET18 = ModelConfig(name="resnet18", architecture="torchvision")


def build(
    config: ModelConfig, shape: tuple[int, ...] = (1, 8, 8), outputs: int = 10, seed: int = 0, **options: Any
) -> nn.Module:
    return build_model(config, shape, outputs, seed=seed, **options)


def resnet(depth: int, width: int = 16, norm: str = "batch") -> ModelConfig:
    return ModelConfig(name=f"resnet{depth}", architecture="resnet", depth=depth, width=width, norm=norm)


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


# ---- shapes and sizes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["batch", "group", "layer", "none"])
@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32)])
@pytest.mark.parametrize("config", [MLP, resnet(8, width=4), resnet(20, width=4)], ids=lambda config: config.name)
def test_images_become_as_many_outputs_as_asked(config: ModelConfig, shape: tuple[int, ...], norm: str) -> None:
    model = build(ModelConfig(config.name, config.architecture, config.depth, config.width, norm), shape, outputs=7)
    assert model(torch.randn(5, *shape)).shape == (5, 7)


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32)])
def test_torchvisions_resnet_takes_small_images_of_any_channels(shape: tuple[int, ...]) -> None:
    assert build(RESNET18, shape, outputs=7)(torch.randn(3, *shape)).shape == (3, 7)


@pytest.mark.parametrize("outputs", [1, 10])
def test_mlp_takes_rows(outputs: int) -> None:
    assert build(MLP, (10,), outputs)(torch.randn(5, 10)).shape == (5, outputs)


@pytest.mark.parametrize("depth", [8, 20, 56])
def test_depth_counts_the_layers_that_learn_outside_shortcuts(depth: int) -> None:
    layers = {
        name for name, layer in build(resnet(depth, width=2)).named_modules() if isinstance(layer, nn.Conv2d | nn.Linear)
    }
    assert len([name for name in layers if "shortcut" not in name]) == depth
    assert len([name for name in layers if "shortcut" in name]) == 2


def test_stages_halve_space_and_double_channels() -> None:
    seen: list[tuple[int, ...]] = []
    model = build(resnet(8), (3, 32, 32))
    for name in ("relu", "stage1", "stage2", "stage3"):
        model.get_submodule(name).register_forward_hook(lambda _, __, output: seen.append(tuple(output.shape[1:])))
    model(torch.randn(2, 3, 32, 32))
    assert seen == [(16, 32, 32), (16, 32, 32), (32, 16, 16), (64, 8, 8)]


def test_sizes_are_those_counted_by_hand() -> None:
    # He et al.'s 269,722 for ResNet-20 on CIFAR-10, and two projections of 16·32 + 32·64 weights and 2·(32 + 64) γ and β.
    assert parameters(build(resnet(20), (3, 32, 32))) == 269_722 + 16 * 32 + 32 * 64 + 2 * (32 + 64)
    assert parameters(build(MLP)) == 64 * 128 + 128 * 128 + 2 * 2 * 128 + 128 * 10 + 10
    assert parameters(build(ModelConfig(depth=1, width=3, norm="none"), (5,), 2)) == 5 * 3 + 3 + 3 * 2 + 2


# ---- initial weights -------------------------------------------------------------------------------------------------


def test_mlp_starts_as_a_users_own_code_after_manual_seed() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        own = nn.Sequential(
            *(nn.Linear(64, 128, bias=False), nn.BatchNorm1d(128), nn.ReLU()),
            *(nn.Linear(128, 128, bias=False), nn.BatchNorm1d(128), nn.ReLU()),
            nn.Linear(128, 10),
        )
    built = build(MLP, seed=3).state_dict()
    assert all(torch.equal(a, b) for a, b in zip(own.state_dict().values(), built.values(), strict=True))


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_torchvisions_network_starts_as_torchvision_makes_it(name: str) -> None:
    torchvision = pytest.importorskip("torchvision")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        own = torchvision.models.get_model(name, num_classes=10)
    assert same(
        own.state_dict(), build(ModelConfig(name=name, architecture="torchvision"), (3, 32, 32), seed=3).state_dict()
    )


@pytest.mark.parametrize(
    ("config", "stem"), [(resnet(8, width=64), "stem"), (RESNET18, "conv1")], ids=["resnet", "torchvision"]
)
@pytest.mark.parametrize("channels", [1, 3])
def test_convolutions_start_with_variance_two_over_fan_out(config: ModelConfig, stem: str, channels: int) -> None:
    weight = build(config, (channels, 32, 32)).get_parameter(f"{stem}.weight").detach().double()
    expected = 2 / (weight.size(0) * weight[0, 0].numel())
    n = weight.numel()
    assert weight.square().mean().item() == pytest.approx(expected, rel=5 * math.sqrt(2 / n))  # five standard errors
    assert weight.mean().item() == pytest.approx(0, abs=5 * math.sqrt(expected / n))


@pytest.mark.parametrize("config", [MLP, RESNET8], ids=lambda config: config.name)
def test_a_seed_gives_every_convention_and_batch_size_the_same_network(config: ModelConfig) -> None:
    reference = build(config, seed=5).state_dict()
    for name in CONVENTIONS:
        assert same(reference, build(config, seed=5, convention=name, norm_batch_size=4, momentum=None).state_dict())
    assert not same(reference, build(config, seed=0).state_dict())


@pytest.mark.parametrize("config", [MLP, RESNET8, RESNET18], ids=lambda config: config.name)
def test_building_leaves_the_global_generator_alone(config: ModelConfig) -> None:
    before = torch.random.get_rng_state()
    build(config, seed=1)
    assert torch.equal(before, torch.random.get_rng_state())


# ---- norms -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [MLP, RESNET8, RESNET18], ids=lambda config: config.name)
def test_options_reach_every_batchnorm_layer(config: ModelConfig) -> None:
    model = build(config, convention="flax", eps=1e-3, momentum=None, norm_batch_size=4)
    layers = batchnorm_layers(model).values()
    assert len(layers) == sum(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules()) > 0
    for layer in layers:
        assert (layer.convention.name, layer.eps, layer.momentum, layer.norm_batch_size) == (
            "consistent_biased",
            1e-3,
            None,
            4,
        )


@pytest.mark.parametrize(
    ("channels", "groups"), [(1, 1), (3, 1), (7, 1), (8, 2), (10, 2), (16, 4), (64, 16), (100, 25), (128, 32), (512, 32)]
)
def test_groups_divide_the_channels_and_hold_four_or_more(channels: int, groups: int) -> None:
    layer = build(ModelConfig(depth=1, width=channels, norm="group")).get_submodule("norm1")
    assert isinstance(layer, nn.GroupNorm)
    assert layer.num_groups == groups


def test_layer_norm_of_features_is_torchs_layer_norm() -> None:
    layer = build(ModelConfig(depth=1, width=12, norm="layer"), eps=1e-3).get_submodule("norm1")
    x = torch.randn(5, 12)
    torch.testing.assert_close(layer(x), nn.functional.layer_norm(x, (12,), eps=1e-3))


def test_layer_norm_of_images_is_over_channels_and_space() -> None:
    layer = build(resnet(8, norm="layer")).get_submodule("norm")
    x = torch.randn(5, 16, 8, 8)
    torch.testing.assert_close(layer(x), nn.functional.layer_norm(x, (16, 8, 8)))


@pytest.mark.parametrize("config", [MLP, RESNET8, RESNET18], ids=lambda config: config.name)
def test_without_norm_every_layer_has_a_bias(config: ModelConfig) -> None:
    model = build(ModelConfig(config.name, config.architecture, config.depth, config.width, "none"))
    layers = [module for module in model.modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    assert all(layer.bias is not None for layer in layers)
    assert not any(isinstance(module, nn.modules.batchnorm._BatchNorm | nn.GroupNorm) for module in model.modules())


@pytest.mark.parametrize("config", [MLP, RESNET8, RESNET18], ids=lambda config: config.name)
def test_before_a_norm_no_layer_has_a_bias(config: ModelConfig) -> None:
    biased = [n for n, m in build(config).named_modules() if isinstance(m, nn.Linear | nn.Conv2d) and m.bias is not None]
    assert biased in (["head"], ["fc"])


# ---- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "shape", "message"),
    [
        (
            ModelConfig(architecture="vit"),
            (1, 8, 8),
            "model.architecture: 'vit' is unknown; use mlp, resnet, torchvision or import",
        ),
        (ModelConfig(norm="batchnorm"), (1, 8, 8), "model.norm: 'batchnorm' is unknown; use batch, group, layer or none"),
        (
            ModelConfig(name="vgg11", architecture="torchvision"),
            (3, 32, 32),
            "model.name: 'vgg11' is no torchvision model here; use resnet18, resnet34, resnet50, resnet101 or resnet152",
        ),
        (resnet(9), (1, 8, 8), "model.depth: 9 is not 6n+2; use 8, 14, 20, … 56, … for a resnet"),
        (resnet(2), (1, 8, 8), "model.depth: 2 is not 6n+2; use 8, 14, 20, … 56, … for a resnet"),
        (
            resnet(8),
            (10,),
            "model.architecture: 'resnet' needs images (C, H, W) and the data has inputs of shape (10,); use mlp",
        ),
        (
            RESNET18,
            (10,),
            "model.architecture: 'torchvision' needs images (C, H, W) and the data has inputs of shape (10,); use mlp",
        ),
        (ModelConfig(depth=0), (10,), "model.depth: 0 leaves no hidden layer; use 1 or more"),
        (ModelConfig(width=0), (10,), "model.width: 0 leaves no units; use 1 or more"),
    ],
)
def test_what_cannot_be_built_is_refused_with_what_can(config: ModelConfig, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(UserError) as error:
        build(config, shape)
    assert str(error.value) == message


def test_an_unknown_convention_is_the_users_error() -> None:
    with pytest.raises(UserError, match="'bessel' is unknown; use paper, consistent_unbiased"):
        build(MLP, convention="bessel")
