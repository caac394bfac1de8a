"""How far a framework's layer is from bnstudy's own, under the convention that was identified."""

from __future__ import annotations

import numpy as np
import torch

from bnstudy.batchnorm.layers import BatchNorm2d
from bnstudy.frameworks.audit.behaviour import Behaviour
from bnstudy.frameworks.audit.observations import Array, Observations


@torch.no_grad()
def largest_difference(seen: Observations, behaviour: Behaviour) -> float | None:
    """Feed bnstudy's layer the batches that the framework's layer was fed, and compare everything that came back.

    Args:
        seen: of the framework's layer: five updates at its default momentum, evaluated after each.
        behaviour: what `identify` made of them; convention, ε, weights and start are taken from it.

    Returns:
        The largest |difference| of training outputs, stored mean, stored variance and evaluation outputs, in float32; None
        for a layer that is none of the four.
    """
    if behaviour.convention == "unknown":
        return None
    run = seen.main
    layer = BatchNorm2d(run.gain.size, eps=behaviour.eps, convention=behaviour.convention)
    mean, variance = layer.get_buffer("running_mean"), layer.get_buffer("running_var")
    tensors = (mean, variance, layer.weight, layer.bias)
    for tensor, start in zip(tensors, (run.means[0], run.variances[0], run.gain, run.shift), strict=True):
        tensor.copy_(torch.from_numpy(np.array(start)))
    worst = 0.0
    for t, alpha in enumerate(_weights(behaviour)):
        layer.train().momentum = alpha
        worst = max(worst, _distance(layer(torch.from_numpy(run.inputs[t])), run.outputs[t]))
        worst = max(worst, _distance(mean, run.means[t + 1]), _distance(variance, run.variances[t + 1]))
        layer.eval()
        if behaviour.bias_correction == "at inference":
            remaining = 1 - (1 - behaviour.weight) ** (t + 1)
            layer.override = (mean / remaining, variance / remaining)
        worst = max(worst, _distance(layer(torch.from_numpy(run.probes[t])), run.evaluations[t]))
        layer.override = None
    return worst


def _weights(behaviour: Behaviour) -> list[float]:
    """The schedule's weights from its rounded parameter, so that fitting errors do not enter the comparison."""
    alpha = behaviour.weight
    steps = range(1, len(behaviour.weights) + 1)
    if behaviour.schedule == "bias-corrected":
        return [alpha / (1 - (1 - alpha) ** t) for t in steps]
    if behaviour.schedule == "cumulative":
        return [1 / t for t in steps]
    return [1.0 if behaviour.schedule != "constant" and t == 1 else alpha for t in steps]


def _distance(ours: torch.Tensor, theirs: Array) -> float:
    return float((ours.double() - torch.from_numpy(theirs.astype(np.float64))).abs().max())
