"""Take batches into the moving averages many at a time, where nobody reads them in between."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from bnstudy.batchnorm.mode import batchnorm_layers


@contextmanager
def deferred_averages(model: nn.Module) -> Iterator[None]:
    """Let training steps only note their batches' statistics; the averages are brought up to date on leaving.

    At small batches the averages' own small operations are a fifth of a step. They matter only when somebody reads them, so
    they are done for up to 64 batches at once. Layers that keep all statistics, with a fixed momentum and without ghost
    batches, are deferred; others go on as ever. Inside, the running buffers are behind: do not evaluate with them.

    Args:
        model: with bnstudy's BatchNorm layers.

    Source: docs/method.md, "Statistics", for the averages; results/benchmark for what it saves.
    """
    layers = list(batchnorm_layers(model).values())
    for layer in layers:
        layer.pending = []
    try:
        yield
    finally:
        for layer in layers:
            layer.take_pending()
            layer.pending = None
