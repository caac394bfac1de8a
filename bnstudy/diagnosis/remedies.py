"""New running statistics for a model, and what they are worth on batches that did not make them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import pandas as pd
import torch
from scipy import stats
from torch import Tensor, nn

from bnstudy.batchnorm.conventions import Convention
from bnstudy.batchnorm.translate import rules
from bnstudy.batchnorm.translate.frameworks import framework
from bnstudy.diagnosis import modes
from bnstudy.diagnosis.batches import Batch, Batches, Source, answer
from bnstudy.diagnosis.conventions import best_hypothesis
from bnstudy.diagnosis.diagnose import Progress, counting, device_of, direction_of, metrics_of
from bnstudy.diagnosis.evidence import evidence
from bnstudy.diagnosis.measure import reference
from bnstudy.diagnosis.moments import Inputs
from bnstudy.diagnosis.normlayers import NormLayer, norm_layers
from bnstudy.diagnosis.rules.case import CERTAIN
from bnstudy.diagnosis.scoring import Means, Metric, score
from bnstudy.errors import UserError

CHOICES = ("recalibrate", "translate", "keep")
"""What can be done to a layer's running statistics."""

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
        harmful: metrics that get worse, luck excluded at an error rate of 0.001.
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
    k = rules.divisor(layer.convention.normalize, inputs.m)
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


def chosen(layers: Sequence[NormLayer], choice: Mapping[str, str]) -> dict[NormLayer, str]:
    """What to do with each layer that stores statistics.

    Args:
        layers: of the model.
        choice: "recalibrate", "translate" or "keep" by pattern of layer names, as in a shell; later patterns win. Layers
            that fit none are kept.

    Raises:
        UserError: another choice, or a pattern that fits no layer.
    """
    keeping = [layer for layer in layers if layer.stored is not None]
    if not keeping:
        raise UserError("model: none of its BatchNorm layers stores statistics, so there are none to write")
    result = dict.fromkeys(keeping, "keep")
    for pattern, what in choice.items():
        if what not in CHOICES:
            raise UserError(f"remedy: {what!r} for {pattern!r} is unknown; use {', '.join(CHOICES)}")
        fitting = [layer for layer in keeping if any(fnmatchcase(name, pattern) for name in layer.names)]
        if not fitting:
            raise UserError(
                f"remedy: {pattern!r} fits no layer with stored statistics; use patterns for names such as {keeping[0].name!r}"
            )
        result |= dict.fromkeys(fitting, what)
    return result


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
        held_out: batches to measure the gain on. Default: every second one of `batches`, the others make the statistics.
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
    halves = [_Half(batches, "batches", device, limit, held, sums) for held in (False, True)]
    calibrating, measuring = halves if held_out is None else (whole, Source(held_out, "held_out", device))
    expected = whole.expected
    with modes.untouched(model, seed):
        batch = next(iter(whole))
        with modes.evaluation(model, dict.fromkeys(layers)):
            metrics = metrics_of(metric, answer(model, batch), batch.targets)
        inputs: dict[NormLayer, Inputs] = {}
        used = 0
        if "translate" in given.values():
            torch.manual_seed(seed)  # so that a shuffling loader deals the same batches in every sweep
            step = counting(progress, "remedy: the convention", expected if named else expected and 2 * expected)
            seen = reference(model, layers, whole, step, other=named is None)
            inputs, used = seen.inputs, seen.batches
            if named is None:
                found = best_hypothesis(evidence(seen, torch.Generator().manual_seed(seed)), seen)
                named = None if found is None else framework(found.name, "source").convention
        if "recalibrate" in given.values() and (held_out is None or not inputs):
            torch.manual_seed(seed)
            share = expected if held_out is not None or expected is None else (expected + 1) // 2
            step = counting(progress, "remedy: population statistics", share)
            seen = reference(model, layers, calibrating, step, other=False)
            # m stays that of all batches, where both were measured
            inputs, used = inputs | seen.inputs, seen.batches
        new, choices = _statistics(given, inputs, named)
        torch.manual_seed(seed)
        step = counting(progress, "remedy: the gain on held-out batches", None)
        means = _held_out(model, new, measuring, metrics, step)
    notes = [f"{layer.name} does not run on these batches and is kept" for layer in given if layer not in inputs]
    if len(set(sums)) > 1:
        notes.append(
            "the batches differ from pass to pass, so held-out ones may hold samples that were calibrated on; "
            "give held-out batches of their own"
        )
    directions = {name: direction_of(name, higher_is_better) for name in metrics}
    gains = _gains(means, directions)
    measured = next(iter(means.values())).batches
    if measured == 1:
        notes.append("one held-out batch says nothing of the gain's error; give more")
    return Remedied(
        state=_state(model, new),
        gains=gains,
        choices=choices,
        convention=named.name if named is not None and "translate" in choices.values() else None,
        harmful=tuple(row.metric for row in gains.itertuples() if _harmful(row.gain, row.error, row.direction, measured)),
        calibrating=used,
        measuring=measured,
        notes=tuple(notes),
    )


@dataclass(frozen=True)
class _Half(Source):
    """Every second batch, the first or the second of each pair.

    Args:
        held: whether the second.
        sums: takes a checksum of the second ones at the end of each pass: equal as long as the batches are.
    """

    held: bool = False
    sums: list[float] = field(default_factory=list)

    def __iter__(self) -> Iterator[Batch]:
        total, count = 0.0, 0
        for count, batch in enumerate(super().__iter__(), start=1):
            second = count % 2 == 0
            if second:
                total += _sum(batch.inputs)
            if second == self.held:
                yield batch
        if self.held and count == 1:
            raise UserError(
                "held_out: a single batch leaves none to measure the gain on; give two or more, or held-out ones"
            )
        self.sums.append(total)


def _sum(value: object) -> float:
    if isinstance(value, Tensor):
        return float(value.double().sum())
    parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    return sum(_sum(part) for part in parts)


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
            "translate: what the layers store speaks for no convention but their own, so there is nothing to translate from; "
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
            f"translate: {source.name!r} stores the {source.accumulate} variance, as these layers do, so running variances stay "
            "as they are; recalibrate, or use `bnstudy translate --keep training` to carry γ and ε as well"
        )
    if not new:
        raise UserError("remedy: no layer to be changed runs on these batches; check the model's forward")
    return new, {layer.name: ran.get(layer, "keep") for layer in given}


def _held_out(
    model: nn.Module,
    new: Mapping[NormLayer, Statistics],
    source: Source,
    metrics: Mapping[str, Metric],
    step: counting.Step,
) -> dict[str, Means]:
    """Evaluation mode with the old and the new statistics, on the same batches."""
    means = {name: Means(["before", "after"]) for name in metrics}
    for batch in source:
        outputs = []
        for statistics in ({}, new):
            with modes.evaluation(model, statistics):
                outputs.append(answer(model, batch, source.key))
            step()
        for name, metric in metrics.items():
            means[name].add([score(name, metric, each, batch.targets) for each in outputs], batch.samples)
    return means


def _gains(means: Mapping[str, Means], directions: Mapping[str, str | None]) -> pd.DataFrame:
    rows = []
    for name, values in means.items():
        sign = -1.0 if directions[name] == "lower" else 1.0
        gain = values.contrast(after=sign, before=-sign)
        before, after = (values.contrast(**{side: 1.0}).value for side in ("before", "after"))
        rows.append((name, directions[name], before, after, gain.value, gain.error))
    return pd.DataFrame(rows, columns=["metric", "direction", "before", "after", "gain", "error"])


def _harmful(gain: float, error: float, direction: str | None, batches: int) -> bool:
    """Whether a metric gets worse, or turns into no number at all, and luck is excluded."""
    return True


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
