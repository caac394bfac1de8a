"""A silent port: a checkpoint trained under one convention, loaded and trained on under another."""

from __future__ import annotations

import torch
from torch import nn

from bnstudy.batchnorm.conventions import Convention
from bnstudy.batchnorm.mode import batchnorm_layers


@torch.no_grad()
def port(model: nn.Module, convention: Convention) -> None:
    """Let a network go on under another convention as frameworks let it: every tensor crosses as it is, in place.

    γ, β and the weights keep their values, and so do the running mean and the one running variance v that a checkpoint has.
    Whatever v is an average of, s²_biased or s²_unbiased, the new convention takes it for its own: the averages that a study
    keeps of both start again at v. The variance of the batch means, which `ema_pooled` needs and no checkpoint has, goes on.

    Args:
        model: with bnstudy's BatchNorm layers that keep all statistics; their running variance is that of the convention
            they were under.
        convention: of what follows.

    Source: bnstudy issue 4, part 5, `port`.
    """
    for layer in batchnorm_layers(model).values():
        if layer.running_var is not None:
            for average in (layer.ema_var_biased, layer.ema_var_unbiased):
                average.copy_(layer.running_var)
        layer.set_convention(convention, layer.norm_batch_size)
