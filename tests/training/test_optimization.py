"""Learning rates against their formulas; weight decay where it belongs; the optimizers torch has."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from bnstudy.training.config import ModelConfig, OptimizerConfig, ScheduleConfig
from bnstudy.training.networks.models import build_model
from bnstudy.training.networks.replicas import replicate
from bnstudy.training.optimization import build_optimizer, learning_rates


@pytest.mark.parametrize(
    ("scaling", "batch_size", "factor"),
    [("linear", 8, 0.25), ("linear", 64, 2.0), ("sqrt", 8, 0.5), ("sqrt", 128, 2.0), ("none", 2, 1.0)],
)
def test_the_rate_scales_with_the_batch_size(scaling: str, batch_size: int, factor: float) -> None:
    rates = learning_rates(OptimizerConfig(lr=0.3, scaling=scaling), ScheduleConfig(), batch_size, 5)
    assert rates == pytest.approx([0.3 * factor] * 5, rel=1e-15)


def test_a_warm_up_rises_linearly_to_the_peak_and_a_cosine_falls_from_it() -> None:
    optimizer = OptimizerConfig(lr=1.0, scaling="none")
    rates = learning_rates(optimizer, ScheduleConfig("cosine", 0.2), 32, 10)
    cosine = [(1 + math.cos(math.pi * t / 8)) / 2 for t in range(8)]
    assert rates == pytest.approx([0.5, 1.0, *cosine], rel=1e-12)
    constant = learning_rates(optimizer, ScheduleConfig("constant", 0.5), 32, 8)
    assert constant == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1, 1, 1])


def test_the_cosine_is_torchs_own() -> None:
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.7)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 37)
    expected = []
    for _ in range(37):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    rates = learning_rates(OptimizerConfig(lr=0.7, scaling="none"), ScheduleConfig("cosine"), 32, 37)
    assert rates == pytest.approx(expected, rel=1e-9)


@given(st.integers(1, 200), st.floats(0, 0.99), st.sampled_from(["constant", "cosine"]))
def test_every_step_has_a_rate_above_zero_and_not_above_the_peak(steps: int, warmup: float, name: str) -> None:
    rates = learning_rates(OptimizerConfig(lr=0.1, scaling="none"), ScheduleConfig(name, warmup), 4, steps)
    assert len(rates) == steps
    assert all(0 < rate <= 0.1 * (1 + 1e-12) for rate in rates)


def groups(config: OptimizerConfig, model: nn.Module) -> dict[str, float]:
    optimizer = build_optimizer(config, model)
    decay = {id(parameter): group["weight_decay"] for group in optimizer.param_groups for parameter in group["params"]}
    names = dict(model.named_parameters())
    assert len(decay) == len(names)
    return {name: decay[id(parameter)] for name, parameter in names.items()}


@pytest.mark.parametrize("replicas", [1, 3])
@pytest.mark.parametrize("norm", ["batch", "group", "none"])
@pytest.mark.parametrize("architecture", ["mlp", "resnet"])
def test_weight_decay_spares_gains_shifts_and_biases(architecture: str, norm: str, replicas: int) -> None:
    model_config = ModelConfig("x", architecture, 8, 8, norm)
    model = replicate([build_model(model_config, (1, 8, 8), 10, seed=seed) for seed in range(replicas)])
    decay = groups(OptimizerConfig(weight_decay=0.1), model)
    dimensions = {name: parameter.dim() for name, parameter in model.named_parameters()}
    assert decay == {name: 0.1 if dimensions[name] > 1 else 0.0 for name in decay}
    everything = groups(OptimizerConfig(weight_decay=0.1, decay_norm=True), model)
    assert set(everything.values()) == {0.1}


def descend(optimizer: torch.optim.Optimizer, parameter: nn.Parameter, steps: int = 5) -> torch.Tensor:
    for _ in range(steps):
        (parameter.square() * torch.arange(1.0, 5.0, dtype=parameter.dtype)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return parameter.detach().clone()


def linear() -> nn.Linear:
    layer = nn.Linear(4, 1, bias=False).double()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, -2.0, 3.0, 0.5]]))
    return layer


@pytest.mark.parametrize(
    "config",
    [
        OptimizerConfig(lr=0.01),
        OptimizerConfig(lr=0.01, momentum=0.5, nesterov=True, weight_decay=0.2),
        OptimizerConfig(lr=0.01, momentum=0.0),
        OptimizerConfig("adamw", lr=0.01, betas=[0.8, 0.95], eps=1e-3, weight_decay=0.2),
        OptimizerConfig("adamw", lr=0.01),
    ],
)
def test_the_optimizer_follows_its_published_update(config: OptimizerConfig) -> None:
    layer = linear()
    got = descend(build_optimizer(config, layer), layer.weight)
    p, slope = linear().weight.detach().clone(), 2 * torch.arange(1.0, 5.0, dtype=torch.float64)
    velocity: Any = None
    first, second = torch.zeros_like(p), torch.zeros_like(p)
    for t in range(1, 6):
        gradient = slope * p
        if config.name == "sgd":
            gradient = gradient + config.weight_decay * p
            velocity = gradient if velocity is None else config.momentum * velocity + gradient
            p = p - config.lr * (gradient + config.momentum * velocity if config.nesterov else velocity)
        else:
            b1, b2 = config.betas
            p = p * (1 - config.lr * config.weight_decay)
            first, second = b1 * first + (1 - b1) * gradient, b2 * second + (1 - b2) * gradient**2
            p = p - config.lr * first / (1 - b1**t) / ((second / (1 - b2**t)).sqrt() + config.eps)
    torch.testing.assert_close(got, p, rtol=1e-12, atol=0)
