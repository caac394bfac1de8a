"""What a configuration must satisfy before anything is trained; every refusal is one line with key, value and remedy."""

from __future__ import annotations

import math

from bnstudy.batchnorm.conventions import CONVENTIONS, RESCALED, Convention
from bnstudy.errors import UserError
from bnstudy.training.config import TrainingConfig
from bnstudy.training.data.registry import DatasetShape
from bnstudy.training.data.shapes import describe
from bnstudy.training.keys import lookup
from bnstudy.training.schedule import steps_per_epoch, total_steps

_CHOICES = {
    "optimizer.name": ("sgd", "adamw"),
    "optimizer.scaling": ("linear", "sqrt", "none"),
    "schedule.name": ("constant", "cosine"),
    "device": ("auto", "cpu", "cuda"),
    "precision": ("float32", "bfloat16", "float64"),
}
_POSITIVE = (
    "batch_size",
    "epochs",
    "eps",
    "optimizer.lr",
    "optimizer.reference_batch_size",
)


LEAST_BATCHES = 4
"""Batches of a layer probe: two in each half, as one has no standard error."""


def check(config: TrainingConfig) -> DatasetShape:
    """Refuse a configuration that cannot be trained; nothing is loaded or written.

    Returns:
        The data set's shape.

    Raises:
        UserError: one line with the key, its value and what would be accepted.
    """
    for key, choices in _CHOICES.items():
        if (value := lookup(config, key)) not in choices:
            raise UserError(f"{key}: {value!r} is unknown; use {' or '.join(map(repr, choices))}")
    for key in _POSITIVE:
        value = lookup(config, key)
        if not (value > 0 and math.isfinite(value)):
            raise UserError(f"{key}: {value} is not positive; use a number above 0")
    for key in ("norm_batch_size", "steps"):
        value = lookup(config, key)
        if value is not None and value < 1:
            raise UserError(f"{key}: {value} is below 1; use 1 or more, or null")
    if config.probe_batches != 0 and config.probe_batches < LEAST_BATCHES:
        raise UserError(
            f"probe_batches: {config.probe_batches} leaves a half without a standard error; "
            f"use {LEAST_BATCHES} or more, or 0 for no probes"
        )
    if config.momentum is not None and not 0 < config.momentum <= 1:
        raise UserError(f"momentum: {config.momentum} is no weight of the new batch; use 0 < momentum ≤ 1, or null")
    for key in ("optimizer.momentum", "schedule.warmup"):
        if not 0 <= (value := lookup(config, key)) < 1:
            raise UserError(f"{key}: {value} is out of range; use 0 ≤ {key.split('.')[1]} < 1")
    if not 0 <= config.optimizer.weight_decay < math.inf:
        raise UserError(f"optimizer.weight_decay: {config.optimizer.weight_decay} is negative; use 0 or more")
    if config.optimizer.name == "adamw":
        betas = config.optimizer.betas
        if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
            raise UserError(f"optimizer.betas: {betas} is no pair of rates; use two numbers with 0 ≤ beta < 1")
        if not 0 <= config.optimizer.eps < math.inf:
            raise UserError(f"optimizer.eps: {config.optimizer.eps} is negative; use 0 or more")
    elif config.optimizer.nesterov and config.optimizer.momentum == 0:
        raise UserError("optimizer.nesterov: true needs momentum; use an optimizer.momentum above 0, or false")
    number = isinstance(config.replicas, int) and not isinstance(config.replicas, bool) and config.replicas >= 1
    if config.replicas != "auto" and not number:
        raise UserError(f"replicas: {config.replicas!r} is no number of replicas; use 'auto' or 1 or more")
    try:
        Convention(config.variance.normalize, config.variance.accumulate)
    except ValueError as error:
        raise UserError(str(error).replace("convention", "variance", 1)) from error
    shape = describe(config.dataset)
    if config.batch_size > shape.train_samples:
        raise UserError(
            f"batch_size: {config.batch_size} is more than the {shape.train_samples} training samples of "
            f"{config.dataset.name!r}; use {shape.train_samples} or less"
        )
    if config.model.norm == "batch" and (config.norm_batch_size or 0) > config.batch_size:
        raise UserError(
            f"norm_batch_size: {config.norm_batch_size} is more than batch_size {config.batch_size}; "
            f"use {config.batch_size} or less, or null for the whole batch"
        )
    if config.variance.rescaled:
        _check_rescaled(config, shape)
    if config.port.variance is not None:
        _check_port(config, shape)
    return shape


def _check_rescaled(config: TrainingConfig, shape: DatasetShape) -> None:
    """Refuse the identity control where it is no identity: it needs BatchNorm, `consistent_biased` and one m throughout."""
    control = f"the identity control {RESCALED!r} (variance.rescaled)"
    for key in ("variance.normalize", "variance.accumulate"):
        if (value := lookup(config, key)) != "biased":
            raise UserError(f"{key}: {value!r} is not for {control}; use 'biased'")
    if config.model.norm != "batch":
        raise UserError(f"model.norm: {config.model.norm!r} has no variance for {control} to rescale; use 'batch'")
    group = config.norm_batch_size or config.batch_size
    if config.batch_size % group:
        raise UserError(
            f"norm_batch_size: {group} leaves a smaller group of {config.batch_size % group} samples, and {control} needs "
            f"one m throughout; use one that divides batch_size {config.batch_size}, or null"
        )
    last = 0 if config.drop_last else shape.train_samples % config.batch_size
    if last % group:
        raise UserError(
            f"drop_last: false leaves a last batch of {last} samples, and {control} needs one m throughout; use true"
        )
    # A test split smaller than a batch is measured as one batch.
    if shape.test_samples < config.batch_size and shape.test_samples % group:
        raise UserError(
            f"dataset.test_size: {shape.test_samples} is measured as one smaller batch, and {control} needs one m "
            f"throughout; use {config.batch_size} or more"
        )


def _check_port(config: TrainingConfig, shape: DatasetShape) -> None:
    """Refuse a first phase under a convention that there is not, or that leaves nothing to fine-tune."""
    port = config.port
    try:
        Convention.parse(port.variance or "")
    except ValueError as error:
        raise UserError(f"port.variance: {port.variance!r} is unknown; use {', '.join(CONVENTIONS)}, or null") from error
    if config.variance.rescaled:
        raise UserError(f"port.variance: {port.variance!r} cannot go on as the identity control {RESCALED!r}; use null")
    if config.model.norm != "batch":
        raise UserError(f"port.variance: {port.variance!r} is nothing to model.norm {config.model.norm!r}; use null")
    if not 0 < port.lr_factor < math.inf:
        raise UserError(f"port.lr_factor: {port.lr_factor} is not positive; use a number above 0")
    if port.epochs < 1:
        raise UserError(f"port.epochs: {port.epochs} trains nothing under {port.variance!r}; use 1 or more")
    an_epoch = steps_per_epoch(shape.train_samples, config.batch_size, config.drop_last)
    steps = total_steps(config, shape.train_samples)
    if port.epochs * an_epoch >= steps:
        key, total = ("epochs", config.epochs) if config.steps is None else ("steps", f"{steps} (an epoch has {an_epoch})")
        most = (steps - 1) // an_epoch
        fitting = f"1 to {most}, or more {key}" if most else f"more {key}"
        raise UserError(f"port.epochs: {port.epochs} leaves nothing of {key}={total} for fine-tuning; use {fitting}")


def check_values_per_channel(config: TrainingConfig, shape: DatasetShape, positions: dict[str, int]) -> None:
    """Refuse a batch, a ghost batch, a last partial batch or a test split that leaves a layer one value per channel.

    Args:
        config: what is to be trained.
        shape: its data set's shape.
        positions: for every BatchNorm layer the values per channel of one sample (H·W; 1 for features).

    Raises:
        UserError: with the sizes that would do.

    Source: Ioffe & Szegedy 2015, section 3.2 (m' = m·p·q); docs/architecture.md, "The way of a batch size".
    """
    ones = [layer for layer, values in positions.items() if values == 1]
    if not ones:
        return
    where = f"one value per channel in layer '{ones[0]}' of model {config.model.name!r}"
    if config.batch_size == 1:
        raise UserError(f"batch_size: 1 gives BatchNorm {where}; use 2 or more, or a model with spatial layers")
    if config.norm_batch_size == 1:
        raise UserError(f"norm_batch_size: 1 gives BatchNorm {where}; use 2 or more, or null")
    group = config.norm_batch_size or config.batch_size
    if config.batch_size % group == 1:
        raise UserError(
            f"norm_batch_size: {group} leaves a group of 1 of {config.batch_size} samples, {where}; "
            f"use a norm_batch_size that divides batch_size {config.batch_size}"
        )
    last = 0 if config.drop_last else shape.train_samples % config.batch_size
    if last % group == 1:
        sizes = [*range(config.batch_size, 1, -1), *range(config.batch_size + 1, shape.train_samples)]
        fits = (
            size
            for size in sizes
            if all(rest % (config.norm_batch_size or size) != 1 for rest in (size, shape.train_samples % size))
        )
        fitting = next(fits, shape.train_samples)
        what = f"batch of {last}" if last == 1 else f"batch of {last} and in it a group of 1"
        raise UserError(
            f"drop_last: false leaves a last {what} of {shape.train_samples} samples at batch_size "
            f"{config.batch_size}, {where}; use drop_last=true or a batch_size such as {fitting}"
        )
    # A test split smaller than a batch is measured as one batch.
    if shape.test_samples < config.batch_size and shape.test_samples % group == 1:
        raise UserError(
            f"dataset.test_size: {shape.test_samples} leaves a batch or group of 1, {where}; use {config.batch_size} or more"
        )
