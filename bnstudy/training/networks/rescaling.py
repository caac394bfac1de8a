"""The identity control: biased normalisation with rescaled constants, the same function as unbiased normalisation."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import nn

from bnstudy.batchnorm.conventions import bessel
from bnstudy.batchnorm.mode import batchnorm_layers


@torch.no_grad()
def rescale(model: nn.Module, values: Mapping[str, int]) -> dict[str, float]:
    """Turn a fresh `consistent_biased` network into the function that `consistent_unbiased` computes, in place.

    With c = m/(m-1) of each layer, in training, and in inference as long as v = v_unbiased/c:

        γ·(x-μ)/√(c·s²_biased + ε) + β = γ'·(x-μ)/√(s²_biased + ε') + β        γ' = γ/√c,  ε' = ε/c

    v = v_unbiased/c holds for good where it holds at first: the running variance starts at 1/c, and m must be constant.
    Along a training the two stay the same function if the optimizer moves γ' as it would move γ (`build_optimizer`,
    `factors`), up to rounding, which training amplifies.

    The average of s²_unbiased starts at 1, c times that of s²_biased, so that the gap's four terms are those of
    `consistent_unbiased` too: what it computes with c·v in the place of v, this arm computes with v.

    Args:
        model: stacked replicas before the first step, their layers under `consistent_biased` and keeping all statistics.
        values: m by layer name, as `values_per_channel` gives them.

    Returns:
        c by layer name, which the optimizer needs.

    Raises:
        ValueError: m = 1.

    Source: DESIGN.md, section 2, "The identity"; bnstudy issue 4, part 4.
    """
    factors = {name: bessel(values[name]) for name in batchnorm_layers(model)}
    for name, layer in batchnorm_layers(model).items():
        c = factors[name]
        layer.weight.div_(math.sqrt(c))
        layer.eps /= c
        for variance in (layer.running_var, layer.ema_var_biased):
            if variance is not None:
                variance.div_(c)
    return factors
