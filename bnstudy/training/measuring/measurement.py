"""One block of seeds from the first step to the last number: train, and measure under every statistic."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from bnstudy.batchnorm.conventions import MATCHED_STATISTICS, STATISTICS, bessel
from bnstudy.batchnorm.mode import batchnorm_layers
from bnstudy.batchnorm.population import Population
from bnstudy.metric import metrics_for
from bnstudy.training.checkpoint import load_checkpoint, save_checkpoint
from bnstudy.training.config import TrainingConfig
from bnstudy.training.data.dataset import Dataset, Split
from bnstudy.training.loop import Progress, Training
from bnstudy.training.measuring.metrics import distances, measure
from bnstudy.training.measuring.predict import population_of, predict, predict_by_batch
from bnstudy.training.measuring.probes import probe_layers
from bnstudy.training.seeds import generator

HISTORY_STATISTICS = ("ema_biased", "ema_unbiased", "batch")
"""Each convention's own statistic and the batch's: what is measured at the end of every epoch."""
REFERENCE = "ema_unbiased"
"""What the predictions under the other stored statistics are compared with."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Checkpoint:
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
        metrics: rows (seed, epoch, split, statistic, n, one column a metric); see DESIGN.md, `metrics`.
        distances: rows (seed, split, statistic, reference, flip_rate, rms_distance, kl) of the last epoch.
        layers: rows of `bnstudy.training.measuring.probes.probe_layers`; none without BatchNorm or with `probe_batches` 0.
        diverged: seed → first step with a non-finite loss, for the seeds that diverged.
    """

    metrics: list[Row]
    distances: list[Row]
    layers: list[Row]
    diverged: dict[int, int]


def measure_block(
    config: TrainingConfig,
    dataset: Dataset,
    seeds: Sequence[int],
    progress: Progress = lambda step: None,
    checkpoint: Checkpoint | None = None,
) -> Measurements:
    """Train a block of seeds and measure it as DESIGN.md, section 2 says.

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

    Source: bnstudy issue 2, part 8.
    """
    training = Training(config, dataset, seeds)
    rows = [] if checkpoint is None else load_checkpoint(training, checkpoint.path)
    saved = time.monotonic()
    progress(training.step)
    while not training.finished:
        record = training.run_epoch(progress)
        rows += _rows(training, "train", "online", record.samples, record.metrics)
        if not training.finished:
            statistics = HISTORY_STATISTICS if batchnorm_layers(training.model) else ("none",)
            for _, split, statistic, outputs, targets in _predictions(training, statistics):
                rows += _rows(training, split, statistic, len(outputs), measure(dataset.task, outputs, targets))
        if checkpoint is not None and time.monotonic() - saved >= checkpoint.every:
            with contextlib.suppress(OSError):  # a full disk must not end a training that has not yet needed it
                save_checkpoint(training, rows, checkpoint.path)
            saved = time.monotonic()
    final, apart, layers = _final(training)
    for row in final:  # the last update of all can break a network whose losses were finite
        index = training.seeds.index(row["seed"])
        if training.diverged[index] is None and all(math.isnan(row[metric]) for metric in metrics_for(dataset.task)):
            training.diverged[index] = training.step
    diverged = {seed: step for seed, step in zip(training.seeds, training.diverged, strict=True) if step is not None}
    return Measurements(rows + final, apart, layers, diverged)


def _final(training: Training) -> tuple[list[Row], list[Row], list[Row]]:
    task = training.dataset.task
    rows: list[Row] = []
    apart: list[Row] = []
    layers = batchnorm_layers(training.model)
    if not layers:
        for _, split, statistic, outputs, targets in _predictions(training, ("none",)):
            rows += _rows(training, split, statistic, len(outputs), measure(task, outputs, targets))
        return rows, apart, []
    random = [generator(seed, "population") for seed in training.seeds]
    population = population_of(training.model, training.inputs, training.config.batch_size, random)
    reference: dict[str, Tensor] = {}
    statistics = [REFERENCE, *(name for name in STATISTICS if name != REFERENCE)]
    if matched_differ := training.config.variance.normalize == "unbiased":
        statistics += MATCHED_STATISTICS
    for name, split, statistic, outputs, targets in _predictions(training, statistics, population):
        metrics = measure(task, outputs, targets)
        rows += _rows(training, split, statistic, len(outputs), metrics)
        if statistic == REFERENCE:
            reference[split] = outputs
        elif name != "batch":
            measures = distances(task, outputs, reference[split])
            for index, seed in enumerate(training.seeds):
                row = {"seed": seed, "split": split, "statistic": statistic, "reference": REFERENCE}
                apart.append(row | {measure: values[index] for measure, values in measures.items()})
    if not matched_differ:  # k = 1: the same numbers under the other name
        plain = [name.removeprefix("matched_") for name in MATCHED_STATISTICS]
        rows += [row | {"statistic": f"matched_{row['statistic']}"} for row in rows if row["statistic"] in plain]
    probed: list[Row] = []
    if batches := training.config.probe_batches:
        inputs, size = training.inputs, training.config.batch_size
        probed = probe_layers(training.model, inputs, size, training.seeds, population, batches)
    return rows, apart, probed


def _predictions(
    training: Training, statistics: Sequence[str], population: Mapping[str, Population] | None = None
) -> Iterator[tuple[str, str, str, Tensor, Tensor]]:
    """Yield (plain statistic, split, statistic, outputs, targets) for both splits, weights frozen."""
    replicas = len(training.seeds)
    splits: dict[str, Split] = {"train": training.dataset.train, "test": training.dataset.test}
    for statistic in statistics:
        name = statistic.removeprefix("matched_")
        factors = None
        if name != statistic and population is not None:
            factors = {layer: bessel(seen.values) for layer, seen in population.items()}
        for split, data in splits.items():
            inputs = data.inputs.to(training.dtype)
            if name == "batch":
                random = [generator(seed, "batch_metrics") for seed in training.seeds]
                outputs, order = predict_by_batch(training.model, inputs, training.config.batch_size, random)
                targets = data.targets[order]
            else:
                # A model without BatchNorm layers has nothing to switch: any statistic's name will do.
                plain = REFERENCE if name == "none" else name
                outputs = predict(training.model, inputs, replicas, plain, population, factors)
                targets = data.targets.unsqueeze(1).expand(-1, replicas, *data.targets.shape[1:])
            yield name, split, statistic, outputs, targets


def _rows(training: Training, split: str, statistic: str, n: int, metrics: dict[str, list[float]]) -> list[Row]:
    return [
        {"seed": seed, "epoch": training.epoch, "split": split, "statistic": statistic, "n": n}
        | {metric: values[index] for metric, values in metrics.items()}
        for index, seed in enumerate(training.seeds)
    ]
