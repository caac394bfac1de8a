"""Weight decay where it belongs; the optimizers that torch has."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from bnstudy.training.config import ModelConfig, OptimizerConfig
from bnstudy.training.networks import build_model, replicate
from bnstudy.training.optimization import build_optimizer


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
