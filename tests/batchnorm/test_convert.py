"""Existing models: conversion in place, checkpoints both ways, and tools that must not change a convention silently."""

from __future__ import annotations

import copy

import pytest
import torch
import torchvision
from torch import nn

from bnstudy.batchnorm.conventions import CONVENTIONS
from bnstudy.batchnorm.convert import convert
from bnstudy.batchnorm.layers import BATCHNORM_LAYERS, BatchNorm1d, BatchNorm2d
from bnstudy.batchnorm.mode import batchnorm_layers


def small():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.LazyLinear(5), nn.BatchNorm1d(5))


def images(seed=0, n=4):
    return torch.randn(n, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_a_torchvision_checkpoint_loads_strictly_and_goes_back(convention):
    theirs = torchvision.models.resnet18(num_classes=10)
    ours = torchvision.models.resnet18(
        num_classes=10, norm_layer=lambda channels: BatchNorm2d(channels, convention=convention)
    )
    for name, module in theirs.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_var.uniform_(0.5, 2, generator=torch.Generator().manual_seed(len(name)))
    ours.load_state_dict(theirs.state_dict(), strict=True)
    assert len(batchnorm_layers(ours)) == 20
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(ours.eval()(x), theirs.eval()(x))
    ours.train()(x)
    back = torchvision.models.resnet18(num_classes=10)
    back.load_state_dict(ours.state_dict(), strict=True)
    assert torch.equal(back.eval()(x), ours.eval()(x))


def test_converted_to_paper_a_network_trains_as_torchs_to_the_bit():
    theirs = torchvision.models.resnet18(num_classes=10)
    ours = convert(copy.deepcopy(theirs), "paper")
    x = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for model in (theirs, ours):
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        for _ in range(2):
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()
    for (name, one), other in zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True):
        assert torch.equal(one, other), name


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_conversion_is_in_place_and_keeps_tensors_hooks_modes_and_sharing(convention):
    model = small()
    model(images())
    model[0].extra = model[1]  # one layer under two names
    model[1].eval()
    model[1].weight.requires_grad_(False)
    calls = []
    model[1].register_forward_hook(lambda *_: calls.append(1))
    before = {name: tensor.data_ptr() for name, tensor in (*model.named_parameters(), *model.named_buffers())}
    kept = model[1]
    assert convert(model, convention, 2) is model
    assert type(model[1]) is BatchNorm2d
    assert type(model[5]) is BatchNorm1d
    assert model[1] is kept is model[0].extra
    assert {name: tensor.data_ptr() for name, tensor in (*model.named_parameters(), *model.named_buffers())} == before
    assert (model[1].training, model[5].training, model[1].weight.requires_grad) == (False, True, False)
    assert {(layer.convention.name, layer.norm_batch_size) for layer in batchnorm_layers(model).values()} == {
        (convention, 2)
    }
    model.train()(images())
    assert calls


def test_a_converted_layer_behaves_as_one_that_was_built_so():
    for convention in CONVENTIONS:
        for affine in (True, False):
            built = BatchNorm2d(3, 1e-3, None, affine, convention=convention, norm_batch_size=2)
            converted = convert(nn.BatchNorm2d(3, 1e-3, None, affine), convention, 2)
            assert repr(converted) == repr(built)
            built.track_all_statistics()
            converted.track_all_statistics()
            assert torch.equal(built(images()), converted(images()))
            assert torch.equal(built.ema("ema_total")[1], converted.ema("ema_total")[1])
            assert isinstance(copy.deepcopy(converted), BatchNorm2d)


@pytest.mark.parametrize(
    ("stranger", "name"),
    [
        (nn.SyncBatchNorm(3), "SyncBatchNorm"),
        (nn.LazyBatchNorm2d(), "LazyBatchNorm2d"),
        (type("Mine", (nn.BatchNorm2d,), {})(3), "Mine"),
    ],
)
def test_a_layer_that_cannot_take_a_convention_is_refused_and_the_model_left_alone(stranger, name):
    model = nn.Sequential(nn.BatchNorm2d(3), stranger)
    with pytest.raises(ValueError, match=f"{name} layer cannot take one; use BatchNorm1d"):
        convert(model, "flax")
    assert type(model[0]) is nn.BatchNorm2d
    with pytest.raises(ValueError, match=name):
        convert(stranger, "flax")


@pytest.mark.parametrize(("convention", "size"), [("nobody", None), ("paper", 0)])
def test_a_refused_choice_leaves_the_model_alone(convention, size):
    model = nn.Sequential(nn.BatchNorm2d(3))
    with pytest.raises(ValueError):
        convert(model, convention, size)
    assert type(model[0]) is nn.BatchNorm2d


def test_a_model_without_batchnorm_is_returned_as_it_is():
    model = nn.Sequential(nn.Linear(2, 2), nn.InstanceNorm1d(2))
    assert convert(model, "inverted") is model
    assert type(model[1]) is nn.InstanceNorm1d


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("size", [None, 2])
@pytest.mark.parametrize("whole_model", [True, False])
def test_sync_batchnorm_conversion_never_turns_a_convention_into_another(convention, size, whole_model):
    layer = BatchNorm2d(4, convention=convention, norm_batch_size=size)
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sequential(layer)) if whole_model else layer
    if convention == "paper" and size is None:
        converted = nn.SyncBatchNorm.convert_sync_batchnorm(module)
        assert any(type(child) is nn.SyncBatchNorm for child in converted.modules())
        return
    with pytest.raises(TypeError, match=rf"convention: '{convention}' with norm_batch_size={size} .*SyncBatchNorm"):
        nn.SyncBatchNorm.convert_sync_batchnorm(module)
    if whole_model:
        assert module[1][0] is layer
    nn.SyncBatchNorm.convert_sync_batchnorm(convert(module, "paper"))


def test_a_paper_layer_takes_a_qconfig_as_torchs_does():
    layer = BatchNorm2d(3)
    assert not hasattr(layer, "qconfig")
    layer.qconfig = None
    assert copy.deepcopy(layer).qconfig is None
    assert all(isinstance(cls(3), nn.modules.batchnorm._BatchNorm) for cls in BATCHNORM_LAYERS)
