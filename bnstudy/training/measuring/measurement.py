"""One block of seeds from the first step to the last number: train, and measure under every statistic."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bnstudy.atomic import DamagedError
from bnstudy.batchnorm.conventions import EMA_STATISTICS, MATCHED_TOTAL, STATISTICS
from bnstudy.batchnorm.mode import batchnorm_layers
from bnstudy.batchnorm.population import Population
from bnstudy.metric import metrics_for
from bnstudy.training.checkpoint import load_checkpoint, save_checkpoint
from bnstudy.training.config import TrainingConfig
from bnstudy.training.data.dataset import Dataset
from bnstudy.training.loop import Progress, Training
from bnstudy.training.measuring.batch_mode import observe, predict_by_batch
from bnstudy.training.measuring.metrics import by_fold, measure
from bnstudy.training.measuring.predict import Parts, predict
from bnstudy.training.measuring.probes import Stack, in_batch_mode, probe_rows
from bnstudy.training.measuring.stability import growth_of, scales, unstable
from bnstudy.training.seeds import generator


class Condition(NamedTuple):
    """What the layers of a network normalise by while it is measured.

    Args:
        name: in tables.
        statistic: the stored statistic, or "batch" for the batch's own.
        matched: whether the stored variance is multiplied by `Convention.divisor`, so that it fits what training divides by.
    """

    name: str
    statistic: str
    matched: bool = False


HISTORY = tuple(Condition(name, name) for name in (*EMA_STATISTICS, "batch"))
"""What each convention stores, and the batch's own: measured at the end of every epoch."""
FINAL = tuple(Condition(name, name) for name in STATISTICS)
"""What is measured after the last epoch."""
MATCHED = Condition(MATCHED_TOTAL, "population_total", matched=True)
"""What is measured besides where the unbiased variance normalises; elsewhere it is `population_total` itself."""
HISTORY_SAMPLES = 2000
"""Samples of a split that are measured at the end of an epoch: its first ones, all of a smaller split. The last epoch's
numbers, which tables and verdicts are about, are of whole splits."""
WITHOUT_BATCHNORM = Condition("none", "ema_unbiased")
"""Of a network that has no statistic to choose, so that any will do."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Checkpointing:
    """Where a long training is kept between epochs.

    Args:
        path: a safetensors file.
        every: seconds between two of them, at least.
    """

    path: Path
    every: float = 120.0


@dataclass(frozen=True)
class Measurements:
    """What a block gives.

    Args:
        metrics: rows (seed, epoch, split, statistic, n, one column a metric); one a replica.
        folds: rows (statistic, fold, one column a metric) of the test split after the last epoch: means over the seeds and
            over the samples of each fold; see `by_fold`.
        layers: see `probe_rows`; none without BatchNorm or with `probe_batches` 0.
        diverged: seed → first step with a non-finite loss, for the seeds that diverged.
        unstable: seeds whose activations grew out of bounds; see `stability`.
        note: one line on a checkpoint that could not be used.
    """

    metrics: list[Row]
    folds: list[Row]
    layers: list[Row]
    diverged: dict[int, int]
    unstable: list[int]
    note: str = ""


def measure_block(
    config: TrainingConfig,
    dataset: Dataset,
    seeds: Sequence[int],
    progress: Progress = lambda step: None,
    checkpoint: Checkpointing | None = None,
) -> Measurements:
    """Train a block of seeds and measure it.

    After every epoch, with weights frozen: `batch` and the three averages `ema_`… on the first `HISTORY_SAMPLES` of both
        splits,
    beside the training batches' own metrics as they went by (`online`). After the last, on whole splits: every statistic,
    and `matched_population_total`, whose variance k·population_total fits the training divisor (k = c where the unbiased
    variance normalises, else 1); and the layer probes. A model without BatchNorm has one statistic, `none`.

    Args:
        config: a checked configuration.
        dataset: its data, on the device.
        seeds: which seeds.
        progress: called after every step.
        checkpoint: where an interrupted training left off and this one may. Default: none.

    Returns:
        The rows, whose cells (data set, model, …) the caller adds.

    Source: docs/method.md, "Statistics" and "The gap and its terms".
    """
    training = Training(config, dataset, seeds)
    normalised = bool(batchnorm_layers(training.model))
    initial = (
        scales(training.model, training.inputs, config.batch_size, _generators(training, "scales")) if normalised else {}
    )
    rows: list[Row] = []
    note = ""
    try:
        rows = [] if checkpoint is None else load_checkpoint(training, checkpoint.path)
    except DamagedError as error:
        note = f"its checkpoint {error}, so it was trained from the beginning"
    saved = time.monotonic()
    progress(training.step)
    while not training.finished:
        record = training.run_epoch(progress)
        rows += _rows(training, "train", "online", record.samples, record.metrics)
        if not training.finished:
            for predicted in _predictions(training, HISTORY if normalised else [WITHOUT_BATCHNORM], most=HISTORY_SAMPLES):
                rows += _metric_rows(training, predicted)
        if checkpoint is not None and time.monotonic() - saved >= checkpoint.every:
            with contextlib.suppress(OSError):  # a full disk must not end a training that has not yet needed it
                save_checkpoint(training, rows, checkpoint.path)
            saved = time.monotonic()
    measured = _final(training, initial)
    for row in measured.metrics:  # the last update of all can break a network whose losses were finite
        index = training.seeds.index(row["seed"])
        if training.diverged[index] is None and all(math.isnan(row[metric]) for metric in metrics_for(dataset.task)):
            training.diverged[index] = training.step
    diverged = {seed: step for seed, step in zip(training.seeds, training.diverged, strict=True) if step is not None}
    return replace(
        measured,
        metrics=rows + measured.metrics,
        note=note,
        diverged=diverged,
        unstable=[seed for seed in measured.unstable if seed not in diverged],
    )


def _final(training: Training, initial: Mapping[str, Tensor]) -> Measurements:
    """What is measured once the last step is made; `initial` is the scale of each layer's inputs before the first."""
    layers = batchnorm_layers(training.model)
    rows: list[Row] = []
    folds: list[Row] = []
    if not layers:
        for predicted in _predictions(training, [WITHOUT_BATCHNORM]):
            rows += _metric_rows(training, predicted)
            folds += _fold_rows(training, predicted)
        return Measurements(rows, folds, [], {}, [])
    config = training.config
    population, seen = observe(
        training.model, training.inputs, config.batch_size, _generators(training, "population"), config.probe_batches
    )
    moments: dict[str, Parts] = {}
    matched = training.convention.normalize == "unbiased"
    for predicted in _predictions(training, (*FINAL, MATCHED) if matched else FINAL, population, moments=moments):
        rows += _metric_rows(training, predicted)
        folds += _fold_rows(training, predicted)
    if not matched:
        rows += [row | {"statistic": MATCHED.name} for row in rows if row["statistic"] == MATCHED.statistic]
        folds += [row | {"statistic": MATCHED.name} for row in folds if row["statistic"] == MATCHED.statistic]
    growth = growth_of(population, initial, len(training.seeds))
    probed: list[Row] = []
    if seen:
        trained = {name: in_batch_mode(layers[name], layer) for name, layer in seen.items()}
        moments = {name: parts for name, parts in moments.items() if name != MATCHED.name}
        probed = probe_rows(layers, trained, population, moments, training.seeds, _stack(config))
        for row in probed:
            row["growth"] = float(growth[row["layer"]][training.seeds.index(row["seed"])])
    return Measurements(rows, folds, probed, {}, unstable(training.seeds, growth, probed))


def _stack(config: TrainingConfig) -> Stack | None:
    """How the network's BatchNorm layers stand on each other, where theory follows them."""
    return "plain" if config.model.architecture == "mlp" else None


class _Predicted(NamedTuple):
    """Outputs on a split, (n, replicas, K), and the targets of the same samples, (n, replicas) or (n, replicas, K).

    `order` says which sample of the split each row is, (n, replicas); None for all of them in their order.
    """

    condition: Condition
    split: str
    outputs: Tensor
    targets: Tensor
    order: Tensor | None = None


def _predictions(
    training: Training,
    conditions: Sequence[Condition],
    population: Mapping[str, Population] | None = None,
    most: int | None = None,
    moments: dict[str, Parts] | None = None,
) -> Iterator[_Predicted]:
    """Predict the first `most` samples of both splits under every condition, weights frozen.

    `moments` takes what the layers make of the training split under each stored statistic, by condition.
    """
    replicas, size = len(training.seeds), training.config.batch_size
    for condition in conditions:
        factors = None
        if condition.matched and population is not None:
            factors = {layer: training.convention.divisor(seen.values) for layer, seen in population.items()}
        for split, samples in (("train", training.dataset.train), ("test", training.dataset.test)):
            inputs, targets = samples.inputs[:most].to(training.dtype), samples.targets[:most]
            if condition.statistic == "batch":
                outputs, order = predict_by_batch(training.model, inputs, size, _generators(training, "batch_metrics"))
                yield _Predicted(condition, split, outputs, targets[order], order)
                continue
            watched: Parts | None = None
            if moments is not None and split == "train":
                watched = moments.setdefault(condition.name, {})
            outputs = predict(training.model, inputs, replicas, condition.statistic, population, factors, watched)
            yield _Predicted(condition, split, outputs, targets.unsqueeze(1).expand(-1, replicas, *targets.shape[1:]))


def _generators(training: Training, stream: str) -> list[torch.Generator]:
    return [generator(seed, stream) for seed in training.seeds]


def _metric_rows(training: Training, predicted: _Predicted) -> list[Row]:
    metrics = measure(training.dataset.task, predicted.outputs, predicted.targets)
    return _rows(training, predicted.split, predicted.condition.name, len(predicted.outputs), metrics)


def _fold_rows(training: Training, predicted: _Predicted) -> list[Row]:
    """Rows of the test split, none of the other."""
    if predicted.split != "test":
        return []
    outputs, targets = predicted.outputs, predicted.targets
    if predicted.order is not None:  # back to the split's order; batches drop a remainder, so the split may be incomplete
        place = predicted.order.argsort(0)
        outputs = outputs.gather(0, place.unsqueeze(2).expand_as(outputs))
        targets = training.dataset.test.targets[predicted.order.gather(0, place)]
    columns = by_fold(training.dataset.task, outputs, targets)
    count = len(next(iter(columns.values())))
    return [
        {"statistic": predicted.condition.name, "fold": fold} | {metric: values[fold] for metric, values in columns.items()}
        for fold in range(count)
    ]


def _rows(training: Training, split: str, statistic: str, n: int, metrics: dict[str, list[float]]) -> list[Row]:
    return [
        {"seed": seed, "epoch": training.epoch, "split": split, "statistic": statistic, "n": n}
        | {metric: values[index] for metric, values in metrics.items()}
        for index, seed in enumerate(training.seeds)
    ]
