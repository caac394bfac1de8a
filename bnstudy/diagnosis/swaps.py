"""Which layer's stored statistics move the outputs most: the network on batch statistics, one layer at a time on its own."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import islice

from torch import Tensor, nn

from bnstudy.diagnosis import modes
from bnstudy.diagnosis.batches import Batch, Source, answer, apart
from bnstudy.diagnosis.normlayers import NormLayer
from bnstudy.diagnosis.scoring import Metric, score

Row = dict[str, float]


def swaps(
    model: nn.Module,
    layers: Sequence[NormLayer],
    chosen: Sequence[NormLayer],
    source: Source,
    batches: int,
    metrics: Mapping[str, Metric],
    step: Callable[[], None],
) -> dict[NormLayer, Row]:
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

    Source: bnstudy issue 7, part 1.
    """
    moved, scale = dict.fromkeys(chosen, 0.0), 0.0
    changed = {layer: dict.fromkeys(metrics, 0.0) for layer in chosen}
    samples = 0
    for batch in islice(iter(source), batches):

        def run(swapped: NormLayer | None, batch: Batch = batch) -> Tensor:
            on_batch = dict.fromkeys(layer for layer in layers if layer is not swapped)
            with modes.evaluation(model, on_batch):
                outputs = answer(model, batch, source.key)
            step()
            return outputs

        base = run(None)
        scores = {name: score(name, metric, base, batch.targets) for name, metric in metrics.items()}
        scale += float(base.double().square().sum())
        samples += batch.samples
        for layer in chosen:
            outputs = run(layer)
            moved[layer] += apart(outputs, base)
            for name, metric in metrics.items():
                change = score(name, metric, outputs, batch.targets) - scores[name]
                changed[layer][name] += change * batch.samples
    return {
        layer: {"swap_distance": _root(moved[layer], scale)}
        | {f"swap_{name}": total / samples for name, total in changed[layer].items()}
        for layer in chosen
    }


def _root(square: float, scale: float) -> float:
    if not math.isfinite(square):
        return math.inf
    return math.sqrt(square / scale) if scale > 0 else 0.0
