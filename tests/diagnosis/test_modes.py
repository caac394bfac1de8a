"""Conditions of a model: they are what they say, and nothing of them is left behind."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

import bnstudy
from bnstudy.diagnosis import modes
from bnstudy.diagnosis.normlayers import norm_layers


class Network(nn.Module):
    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.conv, self.norm, self.drop = nn.Conv2d(2, 4, 3), norm, nn.Dropout(0.5)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.drop(self.norm(self.conv(x)).relu()).mean((2, 3)))


def trained(norm: nn.Module) -> Network:
    torch.manual_seed(0)
    model = Network(norm)
    for _ in range(5):
        model(torch.randn(8, 2, 6, 6) * 2 + 1)
    return model


NORMS = {
    "torch": lambda: nn.BatchNorm2d(4),
    "sync": lambda: nn.SyncBatchNorm(4),
    "cumulative": lambda: nn.BatchNorm2d(4, momentum=None),
    "bare": lambda: nn.BatchNorm2d(4, track_running_stats=False),
    "karpathy": lambda: bnstudy.BatchNorm2d(4, convention="karpathy"),
}


@pytest.mark.parametrize("name", NORMS)
def test_batch_mode_is_training_mode_without_dropout(name: str) -> None:
    model = trained(NORMS[name]()).eval()
    x = torch.randn(8, 2, 6, 6)
    expected = copy.deepcopy(model)
    expected.norm.train()
    with modes.untouched(model, 0), modes.evaluation(model, dict.fromkeys(norm_layers(model))):
        assert torch.equal(model(x), expected(x))


def test_a_frozen_layer_takes_batch_statistics_too() -> None:
    model = trained(FrozenBatchNorm2d(4))
    x = torch.randn(8, 2, 6, 6)
    inner = model.conv(x)
    expected = F.batch_norm(inner, None, None, model.norm.weight, model.norm.bias, True, 0.0, model.norm.eps)
    with modes.untouched(model, 0), modes.evaluation(model, dict.fromkeys(norm_layers(model))):
        outputs = model(x)
    torch.testing.assert_close(outputs, model.eval().head(expected.relu().mean((2, 3))))


def test_given_statistics_are_used() -> None:
    model = trained(nn.BatchNorm2d(4)).eval()
    (layer,) = norm_layers(model)
    x, mean, var = torch.randn(8, 2, 6, 6), torch.randn(4), torch.rand(4) + 0.5
    other = copy.deepcopy(model)
    other.norm.running_mean.copy_(mean)
    other.norm.running_var.copy_(var)
    with modes.untouched(model, 0), modes.evaluation(model, {layer: (mean, var)}):
        assert torch.equal(model(x), other(x))


@pytest.mark.parametrize("convention", ["paper", "karpathy"])
def test_the_other_divisor_is_the_other_conventions_training_mode(convention: str) -> None:
    model = trained(bnstudy.BatchNorm2d(4, convention=convention)).eval()
    other = copy.deepcopy(model)
    bnstudy.convert(other, "karpathy" if convention == "paper" else "paper")
    x = torch.randn(3, 2, 4, 4)
    with modes.untouched(other, 0), modes.evaluation(other, dict.fromkeys(norm_layers(other))):
        expected = other(x)
    with modes.untouched(model, 0), modes.other_divisor(model, norm_layers(model)):
        torch.testing.assert_close(model(x), expected)


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("fails", [False, True])
def test_the_model_and_the_generators_come_back_to_the_bit(name: str, fails: bool) -> None:
    model = trained(NORMS[name]())
    model.drop.eval()  # a mode that differs from the model's
    before, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    buffers = {key: id(value) for key, value in model.named_buffers()}
    modes_before = {key: module.training for key, module in model.named_modules()}
    layers = norm_layers(model)
    try:
        with modes.untouched(model, 7):
            for run in (
                lambda: modes.training(model),
                lambda: modes.evaluation(model, dict.fromkeys(layers)),
                lambda: modes.other_divisor(model, layers),
            ):
                with run():
                    model(torch.randn(8, 2, 6, 6))
                    if fails:
                        raise RuntimeError("interrupted")
    except RuntimeError:
        assert fails
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert {key: id(value) for key, value in model.named_buffers()} == buffers
    assert {key: module.training for key, module in model.named_modules()} == modes_before
    assert torch.equal(torch.get_rng_state(), random)
    assert not model.norm._forward_pre_hooks


def test_layers_are_found_once_with_all_their_names() -> None:
    norm = nn.BatchNorm1d(3)
    model = nn.ModuleDict({"a": norm, "b": nn.ModuleList([norm]), "c": nn.GroupNorm(1, 3), "d": FrozenBatchNorm2d(3)})
    found = norm_layers(model)
    assert [layer.names for layer in found] == [("a", "b.0"), ("d",)]
    assert [layer.fixed for layer in found] == [False, True]
