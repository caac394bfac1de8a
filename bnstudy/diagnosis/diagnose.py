"""Why a trained model's training mode and evaluation mode disagree."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from importlib.metadata import version
from typing import Any

import torch
from torch import nn

from bnstudy.analysis.wording import plural
from bnstudy.diagnosis import modes
from bnstudy.diagnosis.batches import Batches, Source, answer
from bnstudy.diagnosis.evidence import evidence
from bnstudy.diagnosis.measure import Step, depending_on_data_alone, levels, reference, statistics_of
from bnstudy.diagnosis.normlayers import NormLayer, norm_layers
from bnstudy.diagnosis.own_forward import understood
from bnstudy.diagnosis.result import Diagnosis
from bnstudy.diagnosis.rules.case import Case
from bnstudy.diagnosis.rules.verdict import findings
from bnstudy.diagnosis.scoring import Metric, direction_of, metrics_of
from bnstudy.diagnosis.swaps import Changes, swaps
from bnstudy.diagnosis.tables import layers_table, levels_table, terms_table
from bnstudy.errors import UserError

Progress = Callable[[str, int, int | None], None]
"""Called as work is done: what it is, passes so far, passes in all (None where not known)."""


def diagnose(
    model: nn.Module,
    batches: Batches,
    metric: str | Metric | Mapping[str, Metric] | None = None,
    *,
    evaluation_batches: Batches | None = None,
    higher_is_better: bool | Mapping[str, bool] | None = None,
    swap_batches: int = 2,
    swap_layers: Sequence[str] = ("*",),
    limit: int | None = None,
    seed: int = 0,
    progress: Progress = lambda what, done, total: None,
) -> Diagnosis:
    """Measure a model in training and in evaluation mode, split the gap into its causes, and say which it is.

    On frozen weights, all on the same batches: the metric in evaluation mode (`own`) and on batch statistics (`batch`), and
    on two statistics measured on the batches in between, so that own − batch = bessel + lag + pooling + noise as in
    docs/diagnose.md, with k from each layer's own convention. Dropout and whatever else changes with the mode stays in
    evaluation mode; what it does is a term of its own (`other`). Then, by rules whose thresholds come from the measured
    standard errors, findings. A layer's stored statistics are judged against moving averages redrawn from the very
    batches, with its own momentum: what luck alone would have stored.

    At most 9 forward passes over the batches (and two of the first one), and swap_batches · (1 + layers) passes of single
    ones. Memory does not grow with the number of batches. The model is left to the last bit as it was, and so are the
    random generators of torch, NumPy and Python (one that a loader brings along moves on, as in any reading). What
    torch.compile has compiled runs as it is written.

    Args:
        model: any module with BatchNorm layers, its weights loaded; on any device.
        batches: inputs (a tensor; several as a mapping by name), or pairs (inputs, targets), prepared as in training and
            of the training batch size: a list, a DataLoader, or a function that returns an iterator; twenty or more do.
        metric: "accuracy", "loss", "bce", "mse", "output_rms", a function of (outputs, targets) that returns a number or
            one a sample, or several by name. Default: accuracy and loss where targets are classes, mse where they are values
            shaped like the outputs, else output_rms: see `bnstudy.diagnosis.scoring.default_metrics`.
        evaluation_batches: a second set on which evaluation mode disappoints. Default: none.
        higher_is_better: of a function given as metric; of several, for all or by name. Default: None, unknown: any large
            difference counts as harm.
        swap_batches: batches on which each layer's statistics are swapped alone; 0 for no swaps. Default: 2.
        swap_layers: patterns of layer names, as in a shell, to swap. Default: all.
        limit: batches to use at most. Default: all.
        seed: of dropout, shuffling loaders and redrawn averages.
        progress: called after every batch of the first sweep and every forward pass of the rest.

    Returns:
        Findings, tables and what was asked.

    Raises:
        UserError: no BatchNorm layer, or a model that cannot be run with other statistics (see `norm_layers`) or changes
            its weights; no batch, a batch that leaves a layer one value per channel, inputs or batch-mode outputs that are
            not finite, a metric that fails, batches that can be read only once.

    Source: docs/architecture.md, "Diagnosis"; Ioffe & Szegedy 2015, Algorithm 2, and Wu & Johnson 2021, section 3, for the
    statistics.
    """
    started = time.monotonic()
    layers = norm_layers(model)
    device = device_of(model)
    source = Source(batches, "batches", device, limit)
    second = None if evaluation_batches is None else Source(evaluation_batches, "evaluation_batches", device, limit)
    random = torch.Generator().manual_seed(seed)
    swapped: dict[NormLayer, Changes] = {}
    with modes.untouched(model, seed):
        batch = next(iter(source))
        layers = understood(model, layers, batch, source.key)
        with modes.evaluation(model, dict.fromkeys(layers)):
            chosen = metrics_of(metric, answer(model, batch), batch.targets)
        if isinstance(higher_is_better, Mapping) and (unknown := sorted(higher_is_better.keys() - chosen.keys())):
            raise UserError(f"higher_is_better: {unknown[0]!r} is none of the metrics; use {', '.join(chosen)}")
        case = _case(model, layers, source, chosen, higher_is_better, random, progress, "batches")
        if second is not None:
            other = _case(model, layers, second, chosen, higher_is_better, random, progress, "evaluation batches")
            case = Case(**(vars(case) | {"evaluation": other}))
        if swap_batches:
            wanted = [
                one.layer
                for one in case.found
                if one.layer.stored is not None and any(fnmatchcase(one.layer.name, pattern) for pattern in swap_layers)
            ]
            if not wanted and tuple(swap_layers) != ("*",):
                raise UserError(
                    f"swap_layers: {', '.join(swap_layers)} fits no layer with stored statistics; use patterns for names "
                    f"such as {case.found[0].layer.name!r}"
                )
            least = min(swap_batches, case.seen.batches)
            what = f"swapping {plural(len(wanted), 'layer')} on {plural(least, 'batch')}"
            step = counting(progress, what, least * (1 + len(wanted)))
            swapped = {} if not wanted else swaps(model, case.seen.active, wanted, source, least, chosen, step)
        found = findings(case)
    table = layers_table(case.found, swapped)
    setting: dict[str, Any] = {
        "model": type(model).__name__,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "metric": case.metrics[0],
        "direction": case.directions[case.metrics[0]],
        "batches": case.seen.batches,
        "samples": case.seen.samples,
        "batch_size": case.seen.largest,
        "evaluation_samples": None if case.evaluation is None else case.evaluation.seen.samples,
        "passes": case.seen.passes + case.levels.passes,
        "swap_passes": min(swap_batches, case.seen.batches) * (1 + len(swapped)) if swapped else 0,
        "seconds": round(time.monotonic() - started, 3),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
        "threads": torch.get_num_threads(),
        "seed": seed,
        "versions": {"bnstudy": version("bnstudy"), "torch": torch.__version__, "python": platform.python_version()},
    }
    return Diagnosis(found, levels_table(case.levels), terms_table(case.levels), table, setting)


def _case(
    model: nn.Module,
    layers: list[NormLayer],
    source: Source,
    metrics: Mapping[str, Metric],
    higher: bool | Mapping[str, bool] | None,
    random: torch.Generator,
    progress: Progress,
    what: str,
) -> Case:
    """Both sweeps over one set of batches."""
    count = source.expected
    step = counting(progress, f"{what}: what the layers see", count)
    seen = reference(model, layers, source, step)
    conditions = statistics_of(seen.inputs, seen.active)
    found = evidence(seen, random)
    constant = any(not bool(one.alive.all()) for one in found)
    on_data = depending_on_data_alone(model, seen.active, source) if constant else []
    step = counting(progress, f"{what}: metrics in every mode", (1 + len(conditions)) * seen.batches)
    measured = levels(model, source, metrics, conditions, step)
    with modes.training(model):
        kept = [layer for layer in layers if not layer.fixed and not layer.module.training]
    directions = {name: direction_of(name, higher) for name in metrics}
    return Case(model, layers, seen, found, measured, directions, kept, on_data)


def device_of(model: nn.Module) -> torch.device:
    """Where a model is; the CPU for one without parameters and buffers."""
    return next((tensor.device for tensor in (*model.parameters(), *model.buffers())), torch.device("cpu"))


def counting(progress: Progress, what: str, total: int | None) -> Step:
    """A function that counts passes and reports each."""
    done = 0

    def step() -> None:
        nonlocal done
        done += 1
        progress(what, done, total)

    progress(what, 0, total)
    return step


def _processor() -> str:
    return f"CPU, {os.cpu_count()} cores"
