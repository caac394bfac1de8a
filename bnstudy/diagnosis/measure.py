"""The two sweeps over the batches: what every layer sees, and what the metrics are under each condition."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from bnstudy.batchnorm.conventions import bessel
from bnstudy.batchnorm.population import Population
from bnstudy.diagnosis import modes
from bnstudy.diagnosis.batches import Source, answer, apart
from bnstudy.diagnosis.measured import Measured
from bnstudy.diagnosis.moments import Inputs, watching
from bnstudy.diagnosis.normlayers import NormLayer
from bnstudy.diagnosis.scoring import Means, Metric, score
from bnstudy.errors import UserError

Step = Callable[[], None]
"""Called after every batch of the first sweep and every forward pass of the second, for progress."""

MOST_TELLING = 256
"""Beyond this m the two divisors differ by less than 0.4 %, and no pass is spent on telling them apart."""


@dataclass(frozen=True)
class Reference:
    """What the first sweep gives.

    Args:
        inputs: by layer, in order of execution, the network on batch statistics.
        other: the population of each layer if every layer divided by the other variance; empty where nothing could tell.
        training: what layers see in training mode, dropout and all; empty where that is what they see anyway.
        active: the layers that go by batch statistics in training mode; see `moving`.
        batches, samples, largest: how many there were, and the largest batch.
        passes: forward passes a batch.
    """

    inputs: dict[NormLayer, Inputs]
    other: dict[NormLayer, Population]
    training: dict[NormLayer, Inputs]
    active: list[NormLayer]
    batches: int
    samples: int
    largest: int
    passes: int


def reference(model: nn.Module, layers: Sequence[NormLayer], source: Source, step: Step, more: bool = True) -> Reference:
    """The first sweep: the whole network on batch statistics, everything else in evaluation mode.

    Args:
        model: within `modes.untouched`.
        layers: its BatchNorm layers.
        source: the batches.
        step: called after every batch.
        more: also run with the other divisor, if a layer's m is small enough to tell, and in training mode as it is, if that
            gives other outputs.

    Raises:
        UserError: no batches, unusable ones, outputs that are not finite, or BatchNorm that is neither torch's nor frozen.
    """
    batches = samples = largest = 0
    telling = switching = False
    active = moving(model, layers)
    with watching(layers) as watch, watching(layers) as second, watching(layers) as third:
        for batch in source:
            with modes.evaluation(model, dict.fromkeys(active)), watch.on():
                outputs = answer(model, batch, source.key)
            if not bool(outputs.isfinite().all()):
                raise UserError(
                    f"model: its outputs for batch {batches + 1} of {source.key} are not finite even on batch statistics, "
                    "so weights or inputs are at fault, not what BatchNorm has stored; look for NaN in the parameters"
                )
            if batches == 0 and more:
                telling = watch.smallest < MOST_TELLING
                fixed = [(layer, layer.stored[0].clone()) for layer in layers if layer.fixed and layer.stored is not None]
                with modes.training(model):
                    trained = answer(model, batch, source.key)
                    for layer, mean in fixed:
                        if layer.stored is None or not torch.equal(layer.stored[0].nan_to_num(), mean.nan_to_num()):
                            raise UserError(
                                f"model: layer {layer.name!r} is a {type(layer.module).__name__} of its own make, and how "
                                "it normalises is not known; put a subclass of torch's BatchNorm in its place"
                            )
                apart(trained, outputs)  # says so if they cannot be compared
                switching = not torch.allclose(trained.double(), outputs.double(), rtol=1e-4, atol=1e-6)
            if telling:
                with modes.other_divisor(model, active), second.on():
                    answer(model, batch, source.key)
            if switching:
                with modes.training(model), third.on():
                    answer(model, batch, source.key)
            for each in (watch, second, third):
                each.end_of_batch()
            batches, samples, largest = batches + 1, samples + batch.samples, max(largest, batch.samples)
            step()
    inputs = watch.results()
    if not inputs:
        raise UserError("model: none of its BatchNorm layers runs on these batches; check the model's forward")
    others = {layer: seen.population for layer, seen in second.results().items()}
    return Reference(inputs, others, third.results(), active, batches, samples, largest, 1 + telling + switching)


@dataclass(frozen=True)
class Levels:
    """What the second sweep gives.

    Args:
        means: by metric, the means under every condition.
        distances: by condition, the RMS difference of the outputs from those on batch statistics over the RMS of those.
        passes: forward passes a batch.
    """

    means: dict[str, Means]
    distances: dict[str, float]
    passes: int

    def contrast(self, metric: str, **factors: float) -> Measured:
        """See `Means.contrast`."""
        return self.means[metric].contrast(**factors)


def moving(model: nn.Module, layers: Sequence[NormLayer]) -> list[NormLayer]:
    """The layers that training mode lets go by batch statistics: not those of a frozen class, nor those that the model's own
    train() keeps in evaluation mode. A model that has only such layers is measured as if it had none.

    Args:
        model: within `modes.untouched`.
        layers: its BatchNorm layers.
    """
    with modes.training(model):
        found = [layer for layer in layers if not layer.fixed and layer.module.training]
    return found or [layer for layer in layers if not layer.fixed] or list(layers)


def statistics_of(seen: Mapping[NormLayer, Inputs], active: Sequence[NormLayer]) -> dict[str, modes.Statistics]:
    """The statistics of every condition for `modes.evaluation`, by condition, in the order of the gap's path.

    k·v of DESIGN.md: a layer that divides a training batch by the unbiased variance gets its stored ones times c = m/(m-1).
    """
    ran = {layer: inputs for layer, inputs in seen.items() if layer in active and not layer.fixed}
    result: dict[str, modes.Statistics] = {"own": {}}
    if any(layer.convention.own_statistic == "ema_biased" or _factor(layer, seen) != 1 for layer in ran):
        result["ema_unbiased"] = {
            layer: _unbiased(layer, inputs, layer.stored) for layer, inputs in ran.items() if layer.stored is not None
        }
    for name in ("population_unbiased", "population_pooled"):
        chosen: dict[NormLayer, tuple[Tensor, Tensor] | None] = {}
        for layer, inputs in ran.items():
            mean, var = inputs.population.statistic(name)
            chosen[layer] = (mean, var * _factor(layer, seen))
        result[name] = chosen
    result["batch"] = dict.fromkeys(ran)
    return result


def levels(
    model: nn.Module, source: Source, metrics: Mapping[str, Metric], conditions: Mapping[str, modes.Statistics], step: Step
) -> Levels:
    """The second sweep: every condition on every batch, and training mode as it is, so that differences are paired.

    Args:
        model: within `modes.untouched`.
        source: the batches.
        metrics: by name.
        conditions: what `statistics_of` gives, `batch` among them.
        step: called after every pass.

    Raises:
        UserError: a metric fails.
    """
    runs: dict[str, Callable[[], AbstractContextManager[None]]] = {
        name: partial(modes.evaluation, model, given) for name, given in conditions.items()
    }
    runs["train"] = partial(modes.training, model)
    means = {name: Means(list(runs)) for name in metrics}
    moved, scale = dict.fromkeys(runs, 0.0), 0.0
    for batch in source:
        outputs = {}
        for name, run in runs.items():
            with run():
                outputs[name] = answer(model, batch, source.key)
            step()
        base = outputs["batch"]
        scale += float(base.double().square().sum())
        for name, given in outputs.items():
            moved[name] += apart(given, base)
        for name, metric in metrics.items():
            scores = {run: score(name, metric, given, batch.targets) for run, given in outputs.items()}
            if math.isnan(scores["batch"]):
                raise UserError(
                    f"metric: {name!r} is not finite for a batch of {source.key} on batch statistics, where the outputs "
                    "are; a function that returns a finite number for every batch expected"
                )
            means[name].add(list(scores.values()), batch.samples)
    return Levels(means, {name: math.sqrt(total / scale) if scale else 0.0 for name, total in moved.items()}, len(runs))


def _factor(layer: NormLayer, seen: Mapping[NormLayer, Inputs]) -> float:
    """k: c where the unbiased variance normalises, else 1."""
    return bessel(seen[layer].m) if layer.convention.normalize == "unbiased" else 1.0


def _unbiased(layer: NormLayer, inputs: Inputs, stored: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """K times the stored variance as if it had been accumulated unbiased, at the given batches' m."""
    mean, var = stored
    c = bessel(inputs.m)
    roles = (layer.convention.accumulate == "biased", layer.convention.normalize == "unbiased")
    return mean, var * c ** sum(roles)
