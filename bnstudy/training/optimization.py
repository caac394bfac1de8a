"""Optimizers of torch, as the configuration states them; their learning rates are `schedule`'s."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from bnstudy.training.config import OptimizerConfig


def build_optimizer(
    config: OptimizerConfig, model: nn.Module, factors: Mapping[str, float] | None = None
) -> torch.optim.Optimizer:
    """Fused SGD or AdamW of torch.optim; γ, β and biases stand in a group without weight decay unless `decay_norm`.

    A group's learning rate is the step's times its `lr_factor`, 1 where it has none.

    Args:
        config: the configuration.
        model: whose parameters to optimise.
        factors: Bessel's c by layer name, for layers that hold γ/√c in the place of γ (`networks.arms`): their
            gains stand in a group for each c, which moves γ as if it were there itself. Default: no such layers.
    """
    factors = factors or {}
    gains: dict[float, list[nn.Parameter]] = {}
    decayed: list[nn.Parameter] = []
    spared: list[nn.Parameter] = []
    seen: set[nn.Parameter] = set()
    for path, module in model.named_modules():
        is_norm = isinstance(module, nn.modules.batchnorm._BatchNorm | nn.GroupNorm | nn.LayerNorm)
        for name, parameter in module.named_parameters(recurse=False):
            if parameter in seen:  # networks of the user's own may use one in two places
                continue
            seen.add(parameter)
            if path in factors and name == "weight":
                gains.setdefault(factors[path], []).append(parameter)
                continue
            free = (is_norm or name == "bias") and config.weight_decay > 0 and not config.decay_norm
            (spared if free else decayed).append(parameter)
    groups: list[dict[str, Any]] = [{"params": decayed, "weight_decay": config.weight_decay}]
    if spared:
        groups.append({"params": spared, "weight_decay": 0.0})
    groups += [_rescaled_gains(config, c, parameters) for c, parameters in gains.items()]
    if config.name == "adamw":
        betas = (config.betas[0], config.betas[1])
        return torch.optim.AdamW(groups, lr=config.lr, betas=betas, eps=config.eps, fused=True)
    return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=config.nesterov, fused=True)


def _rescaled_gains(config: OptimizerConfig, c: float, gains: list[nn.Parameter]) -> dict[str, Any]:
    """The parameter group that moves γ' = γ/√c as the given optimizer would move γ.

    Its gradient is √c·g, and its steps should be those of γ over √c. SGD's, momentum and Nesterov's look-ahead included, are
    linear in g + λγ: lr/c, λ·c. AdamW divides the gradient's size out, but for ε: lr/√c, ε·√c, and λ·√c for a decay lr·λ
    that stays as it is.
    """
    unit = math.sqrt(c) if config.name == "adamw" else c
    decay = config.weight_decay if config.decay_norm else 0.0
    group: dict[str, Any] = {"params": gains, "weight_decay": decay * unit, "lr_factor": 1 / unit}
    return group | ({"eps": config.eps * unit} if config.name == "adamw" else {})
