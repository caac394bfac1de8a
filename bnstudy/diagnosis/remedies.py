"""New running statistics for a model, from its batches or from the convention that trained it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor, nn

from bnstudy.batchnorm.conventions import Convention
from bnstudy.diagnosis import modes
from bnstudy.diagnosis.batches import Batches, Source, answer
from bnstudy.diagnosis.choices import chosen
from bnstudy.diagnosis.conventions import best_hypothesis
from bnstudy.diagnosis.diagnose import Progress, counting, device_of
from bnstudy.diagnosis.evidence import evidence
from bnstudy.diagnosis.gains import Half, gains_table, harmful, on_held_out
from bnstudy.diagnosis.measure import reference
from bnstudy.diagnosis.moments import Inputs
from bnstudy.diagnosis.normlayers import NormLayer, norm_layers
from bnstudy.diagnosis.scoring import Metric, direction_of, metrics_of
from bnstudy.errors import UserError
from bnstudy.frameworks.translate import rules
from bnstudy.frameworks.translate.frameworks import framework

Statistics = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Remedied:
    """New running statistics, not yet written anywhere.

    Args:
        state: new buffers by their key in the model's state_dict, under every name of a layer that has several.
        gains: a row a metric: metric, direction ("higher" or "lower" is better, or None), before, after (in evaluation mode
            on the held-out batches), gain (positive is better; after − before where no direction is known), error (its
            standard error, paired over batches; NaN from one batch).
        choices: what was done, by layer.
        convention: the one that the statistics were translated from; None without a translation.
        harmful: metrics that get worse by more than the smallest effect of interest (0.1 pp of accuracy, 0.005 nats, a
            hundredth of another metric), luck excluded at an error rate of 0.001.
        calibrating, measuring: batches that the statistics and the gains rest on.
        notes: what the user should know, a line each.
    """

    state: dict[str, Tensor]
    gains: pd.DataFrame
    choices: dict[str, str]
    convention: str | None
    harmful: tuple[str, ...]
    calibrating: int
    measuring: int
    notes: tuple[str, ...]


def recalibrated(layer: NormLayer, inputs: Inputs) -> Statistics:
    """Population statistics to store: μ and k·σ²_pooled.

    k = c = m/(m-1) where the layer's convention normalises by the unbiased variance, else 1, so that evaluation divides by
    what training divides by on average.

    Args:
        layer: with stored statistics.
        inputs: what it sees, the network on batch statistics.

    Returns:
        Mean and variance, (channels,) each, in the dtype and on the device of the layer's buffers.

    Source: Wu & Johnson 2021, section 3 (PreciseBN); DESIGN.md, section 2, for k.
    """
    mean, var = _stored(layer)
    k = layer.convention.divisor(inputs.m)
    return inputs.population.mean.to(mean), rules.scaled(inputs.population.pooled, k).to(var)


def translated(layer: NormLayer, inputs: Inputs, source: Convention) -> Statistics:
    """The stored statistics as the layer's own convention would have stored them: v times c, 1/c or 1.

    The start value's share in the average, which no convention rescales, is taken to be gone.

    Args:
        layer: with stored statistics.
        inputs: what it sees; its m is taken for that of training.
        source: the convention that stored them.

    Returns:
        Mean and variance, (channels,) each.

    Source: bnstudy issue 6, "as trained".
    """
    mean, var = _stored(layer)
    return mean.clone(), rules.scaled(var, rules.accumulating_ratio(source, layer.convention, inputs.m))


def remedy(
    model: nn.Module,
    batches: Batches,
    choice: str | Mapping[str, str] = "recalibrate",
    held_out: Batches | None = None,
    metric: str | Metric | Mapping[str, Metric] | None = None,
    *,
    higher_is_better: bool | None = None,
    source: str | None = None,
    limit: int | None = None,
    seed: int = 0,
    progress: Progress = lambda what, done, total: None,
) -> Remedied:
    """Make new running statistics, and measure on held-out batches what evaluation mode gains by them.

    The model itself is left as it was, and nothing is written; `load_state_dict(remedied.state, strict=False)` applies it.

    Args:
        model, batches, metric, higher_is_better, limit, seed, progress: as for `bnstudy.diagnose`.
        choice: "recalibrate" (population statistics of the batches), "translate" (from the convention that trained the
            model to the layers' own), or these and "keep" by pattern of layer names, later patterns first. Default:
            "recalibrate".
        held_out: batches to measure the gain on. Default: half of `batches`, the others make the statistics.
        source: convention or framework to translate from. Default: the one that the stored statistics speak of.

    Returns:
        The new buffers and their gains.

    Raises:
        UserError: as `bnstudy.diagnose`; nothing to change; no convention found to translate from; no batch held out.

    Source: bnstudy issue 7, part 3.
    """
    layers = norm_layers(model)
    given = chosen(layers, {"*": choice} if isinstance(choice, str) else choice)
    if "translate" not in given.values() and "recalibrate" not in given.values():
        raise UserError("remedy: every layer is kept, so there is nothing to write; recalibrate or translate some")
    named = None if source is None else framework(source, "source").convention
    device = device_of(model)
    whole = Source(batches, "batches", device, limit)
    sums: list[float] = []
    halves = [Half(batches, "batches", device, limit, side, sums) for side in (False, True)]
    calibrating, measuring = halves if held_out is None else (whole, Source(held_out, "held_out", device))
    with modes.untouched(model, seed):
        batch = next(iter(whole))
        with modes.evaluation(model, dict.fromkeys(layers)):
            metrics = metrics_of(metric, answer(model, batch), batch.targets)
        inputs: dict[NormLayer, Inputs] = {}
        used = 0
        if "translate" in given.values():
            torch.manual_seed(seed)  # so that a shuffling loader deals the same batches in every sweep
            step = counting(
                progress, "remedy: the convention", whole.expected if named else whole.expected and 2 * whole.expected
            )
            seen = reference(model, layers, whole, step, more=named is None)
            inputs, used = seen.inputs, seen.batches
            if named is None:
                found = best_hypothesis(evidence(seen, torch.Generator().manual_seed(seed)), seen)
                named = None if found is None else framework(found.name, "source").convention
        if "recalibrate" in given.values() and (held_out is None or not inputs):
            torch.manual_seed(seed)
            step = counting(progress, "remedy: population statistics", calibrating.expected)
            seen = reference(model, layers, calibrating, step, more=False)
            inputs, used = inputs | seen.inputs, seen.batches
        new, choices = _statistics(given, inputs, named)
        torch.manual_seed(seed)
        step = counting(progress, "remedy: the gain on held-out batches", measuring.expected and 2 * measuring.expected)
        means = on_held_out(model, new, measuring, metrics, step)
    notes = [f"{layer.name} does not run on these batches and is kept" for layer in given if layer not in inputs]
    if len(set(sums)) > 1:
        notes.append(
            "the batches differ from pass to pass, so held-out ones may hold samples that were calibrated on; give "
            "held-out batches of their own"
        )
    directions = {name: direction_of(name, higher_is_better) for name in metrics}
    measured = next(iter(means.values())).batches
    if measured == 1:
        notes.append("one held-out batch says nothing of the gain's error; give more")
    return Remedied(
        state=_state(model, new),
        gains=gains_table(means, directions),
        choices=choices,
        convention=named.name if named is not None and "translate" in choices.values() else None,
        harmful=tuple(name for name, values in means.items() if harmful(name, values, directions[name])),
        calibrating=used,
        measuring=measured,
        notes=tuple(notes),
    )


def _stored(layer: NormLayer) -> Statistics:
    if layer.stored is None:
        raise ValueError(f"layer: {layer.name!r} stores no statistics")
    mean, var = layer.stored
    return mean.detach(), var.detach()


def _statistics(
    given: Mapping[NormLayer, str], inputs: Mapping[NormLayer, Inputs], source: Convention | None
) -> tuple[dict[NormLayer, Statistics], dict[str, str]]:
    """New statistics of the layers that are not kept, and what was done by layer."""
    ran = {layer: what for layer, what in given.items() if layer in inputs}
    moved = [layer for layer, what in ran.items() if what == "translate"]
    if moved and source is None:
        raise UserError(
            "translate: what the layers store speaks for no convention but their own, so there is none to translate from; "
            "name the one that trained the model (source), or recalibrate"
        )
    new = {}
    for layer, what in ran.items():
        if what == "recalibrate":
            new[layer] = recalibrated(layer, inputs[layer])
        elif what == "translate" and source is not None:
            new[layer] = translated(layer, inputs[layer], source)
    if moved and source is not None and all(source.accumulate == layer.convention.accumulate for layer in moved):
        raise UserError(
            f"translate: {source.name!r} stores the {source.accumulate} variance, as these layers do: there is nothing to "
            "rescale; recalibrate, or use `bnstudy translate --keep training` to carry γ and ε as well"
        )
    if not new:
        raise UserError("remedy: no layer to be changed runs on these batches; check the model's forward")
    return new, {layer.name: ran.get(layer, "keep") for layer in given}


def _state(model: nn.Module, new: Mapping[NormLayer, Statistics]) -> dict[str, Tensor]:
    """The new buffers by key, as far as the model's state_dict has them."""
    known = model.state_dict().keys()
    by_module = {layer.module: statistics for layer, statistics in new.items()}
    state = {}
    for name, module in model.named_modules(remove_duplicate=False):
        for buffer, value in zip(("running_mean", "running_var"), by_module.get(module, ()), strict=False):
            key = f"{name}.{buffer}" if name else buffer
            if key in known:
                state[key] = value.clone()
    return state
