"""What two arms do to a network in place: the identity control rescales it, a port hands it to another convention."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import nn

from bnstudy.batchnorm.conventions import Convention, bessel
from bnstudy.batchnorm.mode import batchnorm_layers


@torch.no_grad()
def rescale(model: nn.Module, values: Mapping[str, int]) -> dict[str, float]:
    """Turn a fresh `consistent_biased` network into the function that `consistent_unbiased` computes, in place.

    With c = m/(m-1) of each layer, in training, and in inference as long as v = v_unbiased/c:

        γ·(x-μ)/√(c·s²_biased + ε) + β = γ'·(x-μ)/√(s²_biased + ε') + β        γ' = γ/√c,  ε' = ε/c

    v = v_unbiased/c holds for good where it holds at first: the running variance starts at 1/c, and m must be constant.
    Along a training the two stay the same function if the optimizer moves γ' as it would move γ (`build_optimizer`,
    `factors`), up to rounding, which training amplifies.

    The average of s²_unbiased starts at 1, c times those of the biased and the total variance, so that the gap's terms are
    those of `consistent_unbiased` too: what it computes with c·v in the place of v, this arm computes with v.

    Args:
        model: stacked replicas before the first step, their layers under `consistent_biased` and keeping all statistics.
        values: m by layer name, as `NetworkFacts.values_per_channel` gives them.

    Returns:
        c by layer name, which the optimizer needs.

    Raises:
        ValueError: m = 1.

    Source: docs/method.md, "The identity control".
    """
    factors = {name: bessel(values[name]) for name in batchnorm_layers(model)}
    for name, layer in batchnorm_layers(model).items():
        c = factors[name]
        layer.weight.div_(math.sqrt(c))
        layer.eps /= c
        for variance in (layer.running_var, layer.ema_var_biased, layer.ema_var_total):
            if variance is not None:
                variance.div_(c)
    return factors


@torch.no_grad()
def port(model: nn.Module, convention: Convention) -> None:
    """Let a network go on under another convention as frameworks let it: every tensor crosses as it is, in place.

    γ, β and the weights keep their values, and so do the running mean and the one running variance v that a checkpoint has.
    Whatever v is an average of, the new convention takes it for its own: the averages that a study keeps all start again
    at v.

    Args:
        model: with bnstudy's BatchNorm layers that keep all statistics; their running variance is that of the convention
            they were under.
        convention: of what follows.

    Source: docs/method.md, "Conventions".
    """
    for layer in batchnorm_layers(model).values():
        if layer.running_var is not None:
            for average in (layer.ema_var_biased, layer.ema_var_unbiased, layer.ema_var_total):
                average.copy_(layer.running_var)
        layer.set_convention(convention, layer.norm_batch_size)
