"""New running statistics for a model, from its batches or from the convention that trained it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial

import pandas as pd
import torch
from torch import Tensor, nn

from bnstudy.batchnorm.conventions import Convention
from bnstudy.diagnosis import modes
from bnstudy.diagnosis.batches import Batches, Source, answer
from bnstudy.diagnosis.conventions import best_hypothesis
from bnstudy.diagnosis.diagnose import Progress, counting, device_of
from bnstudy.diagnosis.evidence import evidence
from bnstudy.diagnosis.gains import Half, gains_table, harmful
from bnstudy.diagnosis.measure import reference, scored
from bnstudy.diagnosis.moments import Inputs
from bnstudy.diagnosis.normlayers import NormLayer, norm_layers
from bnstudy.diagnosis.own_forward import understood
from bnstudy.diagnosis.scoring import Metric, direction_of, metrics_of
from bnstudy.errors import UserError
from bnstudy.frameworks.translate import rules
from bnstudy.frameworks.translate.frameworks import framework

CHOICES = ("recalibrate", "translate", "keep")
"""What can be done to a layer's running statistics."""


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
        harmful: metrics that get worse; see `bnstudy.diagnosis.gains.harmful`.
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

    "recalibrate" stores μ and k·σ², the variance of all batches by the law of total variance, with k = m/(m-1) where the
    layer's convention normalises by the unbiased variance, else 1: evaluation then divides by what training divides by on
    average. "translate" multiplies the stored variance by what takes it from the convention that trained the model to the
    layer's own: m/(m-1), its inverse, or 1; the start value's share in the average is taken to be gone.

    The model itself is left as it was, and nothing is written; `load_state_dict(remedied.state, strict=False)` applies it.

    Args:
        model, batches, metric, higher_is_better, limit, seed, progress: as for `bnstudy.diagnose`.
        choice: "recalibrate", "translate", or these and "keep" by pattern of layer names, later patterns first. Default:
            "recalibrate".
        held_out: batches to measure the gain on. Default: half of `batches`, the others make the statistics.
        source: convention or framework to translate from. Default: the one that the stored statistics speak of.

    Returns:
        The new buffers and their gains.

    Raises:
        UserError: as `bnstudy.diagnose`; nothing to change; no convention found to translate from; no batch held out;
            statistics that a layer's buffers cannot hold.

    Source: Wu & Johnson 2021, section 3 (PreciseBN); docs/method.md, "Statistics".
    """
    layers = norm_layers(model)
    named = None if source is None else framework(source, "source").convention
    device, sums = device_of(model), list[float]()
    whole = Source(batches, "batches", device, limit)
    halves = [Half(batches, "batches", device, limit, side, sums) for side in (False, True)]
    calibrating, measuring = halves if held_out is None else (whole, Source(held_out, "held_out", device))
    with modes.untouched(model, seed):
        batch = next(iter(whole))
        given = _chosen(understood(model, layers, batch, whole.key), choice)
        with modes.evaluation(model, dict.fromkeys(given)):
            metrics = metrics_of(metric, answer(model, batch), batch.targets)
        inputs: dict[NormLayer, Inputs] = {}
        used = 0
        if "translate" in given.values():
            torch.manual_seed(seed)  # so that a shuffling loader deals the same batches in every sweep
            step = counting(progress, "remedy: the convention", whole.expected)
            seen = reference(model, list(given), whole, step, more=named is None)
            inputs, used = seen.inputs, seen.batches
            if named is None:
                found = best_hypothesis(evidence(seen, torch.Generator().manual_seed(seed)), seen)
                named = None if found is None else framework(found.name, "source").convention
        if "recalibrate" in given.values() and (held_out is None or not inputs):
            torch.manual_seed(seed)
            step = counting(progress, "remedy: population statistics", calibrating.expected)
            seen = reference(model, list(given), calibrating, step, more=False)
            inputs, used = inputs | seen.inputs, seen.batches
        ran = {layer: what for layer, what in given.items() if layer in inputs}
        new = _statistics(ran, inputs, named)
        torch.manual_seed(seed)
        step = counting(progress, "remedy: the gain on held-out batches", measuring.expected and 2 * measuring.expected)
        runs = {"before": partial(modes.evaluation, model, {}), "after": partial(modes.evaluation, model, new)}
        means = scored(model, measuring, metrics, runs, step)
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
        choices={layer.name: ran.get(layer, "keep") for layer in given},
        convention=named.name if named is not None and "translate" in ran.values() else None,
        harmful=harmful(means, directions),
        calibrating=used,
        measuring=measured,
        notes=tuple(notes),
    )


def _chosen(layers: Sequence[NormLayer], choice: str | Mapping[str, str]) -> dict[NormLayer, str]:
    """What to do with each layer that stores statistics; layers that fit no pattern are kept."""
    keeping = [layer for layer in layers if layer.stored is not None]
    if not keeping:
        raise UserError("model: none of its BatchNorm layers stores statistics, so there are none to write")
    result = dict.fromkeys(keeping, "keep")
    for pattern, what in ({"*": choice} if isinstance(choice, str) else choice).items():
        if what not in CHOICES:
            raise UserError(f"remedy: {what!r} for {pattern!r} is unknown; use {', '.join(CHOICES)}")
        fitting = [layer for layer in keeping if any(fnmatchcase(name, pattern) for name in layer.names)]
        if not fitting:
            raise UserError(
                f"remedy: {pattern!r} fits no layer with stored statistics; use patterns for names such as "
                f"{keeping[0].name!r}"
            )
        result |= dict.fromkeys(fitting, what)
    if set(result.values()) == {"keep"}:
        raise UserError("remedy: every layer is kept, so there is nothing to write; recalibrate or translate some")
    return result


def _statistics(
    ran: Mapping[NormLayer, str], inputs: Mapping[NormLayer, Inputs], source: Convention | None
) -> dict[NormLayer, tuple[Tensor, Tensor]]:
    """New means and variances of the layers that are not kept, in the dtype and on the device of their buffers."""
    moved = [layer for layer, what in ran.items() if what == "translate"]
    if moved and source is None:
        raise UserError(
            "translate: what the layers store speaks for no convention but their own, so there is none to translate from; "
            "name the one that trained the model (source), or recalibrate"
        )
    if moved and source is not None and all(source.accumulate == layer.convention.accumulate for layer in moved):
        raise UserError(
            f"translate: {source.name!r} stores the {source.accumulate} variance, as these layers do: there is nothing to "
            "rescale; recalibrate, or use `bnstudy translate --keep training` to carry γ and ε as well"
        )
    new = {}
    for layer, what in ran.items():
        if what == "keep" or layer.stored is None:
            continue
        mean, var = (part.detach() for part in layer.stored)
        seen, m = inputs[layer].population, inputs[layer].m
        if what == "recalibrate":
            factor, mean, variance = layer.convention.divisor(m), seen.mean.to(mean), seen.total
        else:
            assert source is not None
            factor, mean, variance = rules.accumulating_ratio(source, layer.convention, m), mean.clone(), var
        new[layer] = mean, rules.scaled(variance, factor).to(var)
        if not all(bool(part.isfinite().all()) for part in new[layer]) and bool(variance.isfinite().all()):
            kind = str(var.dtype).removeprefix("torch.")
            raise UserError(
                f"remedy: layer {layer.name!r} stores {kind}, which ends at {torch.finfo(var.dtype).max:.5g}, and the "
                f"variances of these batches go up to {float(variance.max()):.3g}; keep the layer in float32"
            )
    if not new:
        raise UserError("remedy: no layer to be changed runs on these batches; check the model's forward")
    return new


def _state(model: nn.Module, new: Mapping[NormLayer, tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """The new buffers by key, as far as the model's state_dict has them."""
    known = model.state_dict().keys()
    by_module = {layer.module: (layer.buffers, statistics) for layer, statistics in new.items()}
    state = {}
    for name, module in model.named_modules(remove_duplicate=False):
        for buffer, value in zip(*by_module.get(module, ((), ())), strict=True):
            key = f"{name}.{buffer}" if name else buffer
            if key in known:
                state[key] = value.clone()
    return state
