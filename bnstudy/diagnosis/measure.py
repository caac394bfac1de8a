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
from bnstudy.diagnosis.batches import Source, answer, apart, tensors
from bnstudy.diagnosis.measured import Measured
from bnstudy.diagnosis.moments import Inputs, watching
from bnstudy.diagnosis.normlayers import NormLayer
from bnstudy.diagnosis.own_forward import changing
from bnstudy.diagnosis.scoring import Means, Metric, score
from bnstudy.errors import UserError

Step = Callable[[], None]
"""Called after every batch of the first sweep and every forward pass of the second, for progress."""
Run = Callable[[], AbstractContextManager[None]]
"""Puts a model into a condition."""

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
        changing: what else gives something else in training mode, by name and class, where outputs differ.
        batches, samples, largest: how many there were, and the largest batch.
        passes: forward passes a batch.
    """

    inputs: dict[NormLayer, Inputs]
    other: dict[NormLayer, Population]
    training: dict[NormLayer, Inputs]
    active: list[NormLayer]
    changing: list[str]
    batches: int
    samples: int
    largest: int
    passes: int

    @property
    def in_training_only(self) -> list[NormLayer]:
        """Layers that run in training mode and not in evaluation mode, such as those of an auxiliary head."""
        return [layer for layer in self.training if layer not in self.inputs]


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
        UserError: no batches, unusable ones, or outputs that are not finite.
    """
    batches = samples = largest = 0
    telling = switching = False
    others: list[str] = []
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
                with modes.training(model):
                    trained = answer(model, batch, source.key)
                apart(trained, outputs)  # says so if they cannot be compared
                switching = not torch.allclose(trained.double(), outputs.double(), rtol=1e-4, atol=1e-6)
                others = changing(model, layers, batch, source.key) if switching else []
            if telling:
                with modes.other_divisor(model, active), second.on():
                    answer(model, batch, source.key)
            if switching:
                with modes.training(model), third.on():
                    answer(model, batch, source.key)
            for notes in (watch, second, third):
                notes.end_of_batch()
            batches, samples, largest = batches + 1, samples + batch.samples, max(largest, batch.samples)
            step()
    inputs = watch.results()
    if not inputs:
        raise UserError("model: none of its BatchNorm layers runs on these batches; check the model's forward")
    populations = {layer: seen.population for layer, seen in second.results().items()}
    passes = 1 + telling + switching
    return Reference(inputs, populations, third.results(), active, others, batches, samples, largest, passes)


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
    """
    with modes.training(model):
        found = [layer for layer in layers if not layer.fixed and layer.module.training]
    return found or [layer for layer in layers if not layer.fixed] or list(layers)


def statistics_of(seen: Mapping[NormLayer, Inputs], active: Sequence[NormLayer]) -> dict[str, modes.Statistics]:
    """The statistics of every condition for `modes.evaluation`, by condition, in the order of the gap's path.

    All are k·v: a layer that divides a training batch by the unbiased variance gets its stored one times c = m/(m-1).

    Source: docs/method.md, "The gap and its terms".
    """
    ran = {layer: inputs for layer, inputs in seen.items() if layer in active and not layer.fixed}
    factors = {layer: layer.convention.divisor(inputs.m) for layer, inputs in ran.items()}
    result: dict[str, modes.Statistics] = {"own": {}}
    if any(layer.convention.own_statistic == "ema_biased" or factors[layer] != 1 for layer in ran):
        stored = {layer: layer.stored for layer in ran if layer.stored is not None}
        result["ema_unbiased"] = {
            layer: (mean, var * factors[layer] * (bessel(ran[layer].m) if layer.convention.accumulate == "biased" else 1.0))
            for layer, (mean, var) in stored.items()
        }
    for name in ("population_unbiased", "population_total"):
        chosen = {layer: inputs.population.statistic(name) for layer, inputs in ran.items()}
        result[name] = {layer: (mean, var * factors[layer]) for layer, (mean, var) in chosen.items()}
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
    runs: dict[str, Run] = {name: partial(modes.evaluation, model, given) for name, given in conditions.items()}
    runs["train"] = partial(modes.training, model)
    moved, scale = dict.fromkeys(runs, 0.0), 0.0

    def compare(outputs: Mapping[str, Tensor], scores: Mapping[str, Mapping[str, float]]) -> None:
        nonlocal scale
        base = outputs["batch"]
        scale += float(base.double().square().sum())
        for name, given in outputs.items():
            moved[name] += apart(given, base)
        for name, values in scores.items():
            if math.isnan(values["batch"]):
                raise UserError(
                    f"metric: {name!r} is not finite for a batch of {source.key} on batch statistics, where the outputs "
                    "are; a function that returns a finite number for every batch expected"
                )

    means = scored(model, source, metrics, runs, step, compare)
    return Levels(means, {name: math.sqrt(total / scale) if scale else 0.0 for name, total in moved.items()}, len(runs))


def scored(
    model: nn.Module,
    source: Source,
    metrics: Mapping[str, Metric],
    runs: Mapping[str, Run],
    step: Step,
    check: Callable[[Mapping[str, Tensor], Mapping[str, Mapping[str, float]]], None] = lambda outputs, scores: None,
) -> dict[str, Means]:
    """Metrics under several conditions on the same batches.

    Args:
        model, source, metrics, step: as for `levels`.
        runs: by condition.
        check: looks at each batch's outputs by condition, and its scores by metric and condition.
    """
    means = {name: Means(list(runs)) for name in metrics}
    for batch in source:
        outputs = {}
        for condition, run in runs.items():
            with run():
                outputs[condition] = answer(model, batch, source.key)
            step()
        scores = {
            name: {condition: score(name, metric, given, batch.targets) for condition, given in outputs.items()}
            for name, metric in metrics.items()
        }
        check(outputs, scores)
        for name, values in scores.items():
            means[name].add(list(values.values()), batch.samples)
    return means


def depending_on_data_alone(model: nn.Module, layers: Sequence[NormLayer], source: Source) -> list[NormLayer]:
    """Layers whose inputs depend on no weight: what is constant in them is constant in the data.

    Asked of autograd on the first batch, which keeps nothing for a backward pass. It cannot tell behind a part of the model
    that runs without gradients and has weights: what comes after such a part counts as depending on them.

    Args:
        model: within `modes.untouched`.
        layers: its BatchNorm layers.
        source: the batches.
    """
    wanted = {layer.module: layer for layer in layers}
    weights = [weight for weight in model.parameters() if weight.is_floating_point() and weight.is_leaf]
    former = [weight.requires_grad for weight in weights]
    found: dict[NormLayer, bool] = {}
    severed = False

    def look(module: nn.Module, args: tuple[Tensor, ...], named: dict[str, Tensor]) -> None:
        found.setdefault(wanted[module], not next(iter((*args, *named.values()))).requires_grad and not severed)

    def note(module: nn.Module, _: object, outputs: object) -> None:
        nonlocal severed
        traced = any(tensor.requires_grad for tensor in tensors(outputs))
        severed = severed or (bool(module._parameters) and not traced)

    hooks = [module.register_forward_pre_hook(look, with_kwargs=True) for module in wanted]
    plain = [module for module in model.modules() if not isinstance(module, torch.jit.ScriptModule)]
    hooks += [module.register_forward_hook(note) for module in plain]
    try:
        batch = next(iter(source))
        for weight in weights:
            weight.requires_grad_(True)
        nothing = torch.autograd.graph.saved_tensors_hooks(lambda tensor: None, lambda tensor: torch.empty(0))
        with torch.enable_grad(), nothing, modes.evaluation(model, dict.fromkeys(layers)):
            answer(model, batch, source.key)
    except (UserError, RuntimeError):
        pass  # a model that cannot run with gradients: what was seen until then
    finally:
        for hook in hooks:
            hook.remove()
        for weight, needed in zip(weights, former, strict=True):
            weight.requires_grad_(needed)
    return [layer for layer, data in found.items() if data]
