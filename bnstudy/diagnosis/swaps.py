"""Which layer's stored statistics move the outputs most: the network on batch statistics, one layer at a time on its own."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import islice

from torch import nn

from bnstudy.diagnosis import modes
from bnstudy.diagnosis.batches import Source, answer, apart
from bnstudy.diagnosis.measure import Step
from bnstudy.diagnosis.normlayers import NormLayer
from bnstudy.diagnosis.scoring import Metric, score

Changes = dict[str, float]


def swaps(
    model: nn.Module,
    layers: Sequence[NormLayer],
    chosen: Sequence[NormLayer],
    source: Source,
    batches: int,
    metrics: Mapping[str, Metric],
    step: Step,
) -> dict[NormLayer, Changes]:
    """Swap the statistics of each layer alone, from the batch's own to what it stores.

    From this side rather than the other, so that a layer is judged by itself: with the others on stored statistics, a
    broken one in front would spoil every comparison. Costs (1 + layers) forward passes a batch.

    Args:
        model: within `modes.untouched`.
        layers: the BatchNorm layers that go by batch statistics in training mode.
        chosen: those to swap, with stored statistics.
        source: the batches, of which the first are used.
        batches: how many.
        metrics: by name.
        step: called after every pass.

    Returns:
        By layer: swap_distance, the RMS change of the outputs over their RMS, inf where outputs are not finite; and
        swap_METRIC, the change of each metric.
    """
    moved, scale, samples = dict.fromkeys(chosen, 0.0), 0.0, 0
    changed = {layer: dict.fromkeys(metrics, 0.0) for layer in chosen}
    for batch in islice(iter(source), batches):
        with modes.evaluation(model, dict.fromkeys(layers)):
            base = answer(model, batch, source.key)
        step()
        scores = {name: score(name, metric, base, batch.targets) for name, metric in metrics.items()}
        scale += float(base.double().square().sum())
        samples += batch.samples
        for swapped in chosen:
            with modes.evaluation(model, dict.fromkeys(layer for layer in layers if layer is not swapped)):
                outputs = answer(model, batch, source.key)
            step()
            moved[swapped] += apart(outputs, base)
            for name, metric in metrics.items():
                change = score(name, metric, outputs, batch.targets) - scores[name]
                changed[swapped][name] += change * batch.samples
    return {
        layer: {"swap_distance": relative(moved[layer], scale)}
        | {f"swap_{name}": total / samples for name, total in changed[layer].items()}
        for layer in chosen
    }


def relative(square: float, scale: float) -> float:
    """RMS from sums of squares; inf for what is not finite."""
    return math.inf if not math.isfinite(square) else math.sqrt(square / scale) if scale > 0 else 0.0
