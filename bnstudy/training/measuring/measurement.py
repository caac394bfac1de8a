"""One block of seeds from the first step to the last number: train, and measure under every statistic."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from bnstudy.atomic import DamagedError
from bnstudy.batchnorm.conventions import MATCHED_STATISTICS, STATISTICS
from bnstudy.batchnorm.mode import batchnorm_layers
from bnstudy.batchnorm.population import Population
from bnstudy.metric import metrics_for
from bnstudy.training.checkpoint import load_checkpoint, save_checkpoint
from bnstudy.training.config import TrainingConfig
from bnstudy.training.data.dataset import Dataset
from bnstudy.training.loop import Progress, Training
from bnstudy.training.measuring.metrics import distances, measure
from bnstudy.training.measuring.predict import population_of, predict, predict_by_batch
from bnstudy.training.measuring.probes import probe_layers
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


REFERENCE = Condition("ema_unbiased", "ema_unbiased")
"""What the predictions under the other stored statistics are compared with."""
HISTORY = tuple(Condition(name, name) for name in ("ema_biased", "ema_unbiased", "batch"))
"""Each convention's own statistic and the batch's: what is measured at the end of every epoch."""
FINAL = (REFERENCE, *(Condition(name, name) for name in STATISTICS if name != REFERENCE.name))
"""What is measured after the last epoch."""
MATCHED = tuple(
    Condition(name, statistic, matched=True)
    for name, statistic in zip(MATCHED_STATISTICS, ("ema_unbiased", "population_unbiased", "population_pooled"), strict=True)
)
"""What is measured besides where the unbiased variance normalises; elsewhere it is the same as without the factor."""
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
        distances: rows (seed, split, statistic, reference, flip_rate, rms_distance, kl) of the last epoch.
        layers: rows of `bnstudy.training.measuring.probes.probe_layers`; none without BatchNorm or with `probe_batches` 0.
        diverged: seed → first step with a non-finite loss, for the seeds that diverged.
        note: one line on a checkpoint that could not be used.
    """

    metrics: list[Row]
    distances: list[Row]
    layers: list[Row]
    diverged: dict[int, int]
    note: str = ""


def measure_block(
    config: TrainingConfig,
    dataset: Dataset,
    seeds: Sequence[int],
    progress: Progress = lambda step: None,
    checkpoint: Checkpointing | None = None,
) -> Measurements:
    """Train a block of seeds and measure it.

    After every epoch, with weights frozen: `batch`, `ema_biased` and `ema_unbiased` on both splits, beside the training
    batches' own metrics as they went by (`online`). After the last: every statistic, and the matched ones k·v whose variance
    fits the training divisor (k = c where the unbiased variance normalises, else 1); then the layer probes. A model without
    BatchNorm has one statistic, `none`.

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
            for predicted in _predictions(training, HISTORY if batchnorm_layers(training.model) else [WITHOUT_BATCHNORM]):
                rows += _metric_rows(training, predicted)
        if checkpoint is not None and time.monotonic() - saved >= checkpoint.every:
            with contextlib.suppress(OSError):  # a full disk must not end a training that has not yet needed it
                save_checkpoint(training, rows, checkpoint.path)
            saved = time.monotonic()
    final, distance_rows, layers = _final(training)
    for row in final:  # the last update of all can break a network whose losses were finite
        index = training.seeds.index(row["seed"])
        if training.diverged[index] is None and all(math.isnan(row[metric]) for metric in metrics_for(dataset.task)):
            training.diverged[index] = training.step
    diverged = {seed: step for seed, step in zip(training.seeds, training.diverged, strict=True) if step is not None}
    return Measurements(rows + final, distance_rows, layers, diverged, note)


def _final(training: Training) -> tuple[list[Row], list[Row], list[Row]]:
    """Rows of metrics, of distances and of layers, once the last step is made."""
    if not batchnorm_layers(training.model):
        predictions = _predictions(training, [WITHOUT_BATCHNORM])
        return [row for predicted in predictions for row in _metric_rows(training, predicted)], [], []
    random = [generator(seed, "population") for seed in training.seeds]
    population = population_of(training.model, training.inputs, training.config.batch_size, random)
    matched_differ = training.convention.normalize == "unbiased"
    rows: list[Row] = []
    distance_rows: list[Row] = []
    reference: dict[str, Tensor] = {}
    for predicted in _predictions(training, (*FINAL, *MATCHED) if matched_differ else FINAL, population):
        rows += _metric_rows(training, predicted)
        if predicted.condition == REFERENCE:
            reference[predicted.split] = predicted.outputs
        elif predicted.condition.statistic != "batch":
            distance_rows += _distance_rows(training, predicted, reference[predicted.split])
    if not matched_differ:
        names = {condition.statistic: condition.name for condition in MATCHED}
        rows += [row | {"statistic": names[row["statistic"]]} for row in rows if row["statistic"] in names]
    layers: list[Row] = []
    if batches := training.config.probe_batches:
        inputs, size = training.inputs, training.config.batch_size
        layers = probe_layers(training.model, inputs, size, training.seeds, population, batches)
    return rows, distance_rows, layers


class _Predicted(NamedTuple):
    """Outputs on a split, (n, replicas, K), and the targets of the same samples, (n, replicas) or (n, replicas, K)."""

    condition: Condition
    split: str
    outputs: Tensor
    targets: Tensor


def _predictions(
    training: Training, conditions: Sequence[Condition], population: Mapping[str, Population] | None = None
) -> Iterator[_Predicted]:
    """Predict both splits under every condition, weights frozen."""
    replicas, size = len(training.seeds), training.config.batch_size
    for condition in conditions:
        factors = None
        if condition.matched and population is not None:
            factors = {layer: training.convention.divisor(seen.values) for layer, seen in population.items()}
        for split, samples in (("train", training.dataset.train), ("test", training.dataset.test)):
            inputs = samples.inputs.to(training.dtype)
            if condition.statistic == "batch":
                random = [generator(seed, "batch_metrics") for seed in training.seeds]
                outputs, order = predict_by_batch(training.model, inputs, size, random)
                targets = samples.targets[order]
            else:
                outputs = predict(training.model, inputs, replicas, condition.statistic, population, factors)
                targets = samples.targets.unsqueeze(1).expand(-1, replicas, *samples.targets.shape[1:])
            yield _Predicted(condition, split, outputs, targets)


def _metric_rows(training: Training, predicted: _Predicted) -> list[Row]:
    metrics = measure(training.dataset.task, predicted.outputs, predicted.targets)
    return _rows(training, predicted.split, predicted.condition.name, len(predicted.outputs), metrics)


def _distance_rows(training: Training, predicted: _Predicted, reference: Tensor) -> list[Row]:
    measures = distances(training.dataset.task, predicted.outputs, reference)
    place = {"split": predicted.split, "statistic": predicted.condition.name, "reference": REFERENCE.name}
    return [
        {"seed": seed} | place | {measure: values[index] for measure, values in measures.items()}
        for index, seed in enumerate(training.seeds)
    ]


def _rows(training: Training, split: str, statistic: str, n: int, metrics: dict[str, list[float]]) -> list[Row]:
    return [
        {"seed": seed, "epoch": training.epoch, "split": split, "statistic": statistic, "n": n}
        | {metric: values[index] for metric, values in metrics.items()}
        for index, seed in enumerate(training.seeds)
    ]
