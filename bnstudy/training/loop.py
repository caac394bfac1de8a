"""Train a block of seeds as one module, an epoch at a time."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from bnstudy.batchnorm.conventions import Convention
from bnstudy.batchnorm.deferral import deferred_averages
from bnstudy.batchnorm.mode import batchnorm_layers
from bnstudy.errors import UserError
from bnstudy.training.config import TrainingConfig
from bnstudy.training.data.batches import chunks, crop_flip, draw_order, gather
from bnstudy.training.data.dataset import Dataset
from bnstudy.training.measuring.metrics import measure
from bnstudy.training.networks.arms import port, rescale
from bnstudy.training.networks.models import build_model, network_facts
from bnstudy.training.networks.replicas import replicate
from bnstudy.training.optimization import build_optimizer
from bnstudy.training.schedule import batch_sizes, learning_rates, steps_per_epoch, total_steps
from bnstudy.training.seeds import generator, own_random_numbers

Progress = Callable[[int], None]
"""Called with the number of steps done so far."""


_HARMLESS = 1e15
"""Outputs below it, in absolute value, have finite losses."""


@dataclass(frozen=True)
class EpochRecord:
    """What an epoch's training batches said as they went by.

    Args:
        metrics: for each metric one number a replica; averaged over the samples of the epoch.
        samples: how many those were.
    """

    metrics: dict[str, list[float]]
    samples: int


class Training:
    """One training of some seeds side by side, under the normalising variance of `config.variance`.

    All moving averages are kept, so the frozen weights can afterwards be evaluated under either accumulated variance: two
    trainings cover all four conventions. A seed fixes initial weights, data order and augmentation through separate
    generators. `variance.rescaled` is the identity control; see `rescale`.

    With `port.variance`, the first `port.epochs` epochs are under that convention. Then the network goes on under `variance`
    (see `port`), fine-tuned by a fresh optimizer at `port.lr_factor` times the rate, with a schedule of its own.

    Args:
        config: a checked configuration.
        dataset: its data, on the device to train on.
        seeds: the seeds of this block.

    Attributes:
        model: the stacked replicas.
        factors: Bessel's c by layer name where `variance.rescaled`; else empty.
        convention: of `variance`.
        port_epoch: epochs done when the convention changes to it; 0 where it never does.
        epoch, step: how far the training has come.
        diverged: for each replica the first step (from 1) whose loss was not finite, or None.

    Source: docs/method.md, "Replicas and pairing".
    """

    def __init__(self, config: TrainingConfig, dataset: Dataset, seeds: Sequence[int]) -> None:
        self.config, self.dataset, self.seeds = config, dataset, list(seeds)
        self.device = dataset.train.inputs.device
        self.convention = Convention(config.variance.normalize, config.variance.accumulate)
        if config.model.imported and len(self.seeds) > 1:
            reason = network_facts(config.model, dataset.input_shape, dataset.outputs).unstackable
            if reason is not None:
                raise UserError(f"replicas: {len(self.seeds)} networks cannot train as one module ({reason}); use 1")
        ported = config.port.variance is not None
        self.port_epoch = config.port.epochs if ported else 0
        models = [
            build_model(
                config.model,
                dataset.input_shape,
                dataset.outputs,
                seed=seed,
                convention=config.port.variance or self.convention,
                eps=config.eps,
                momentum=config.momentum,
                norm_batch_size=config.norm_batch_size,
            )
            for seed in self.seeds
        ]
        self.dtype = torch.float64 if config.precision == "float64" else torch.float32
        self.model = replicate(models).to(self.device, self.dtype)
        for layer in batchnorm_layers(self.model).values():
            layer.track_all_statistics()
        self.factors: dict[str, float] = {}
        if config.variance.rescaled:
            facts = network_facts(config.model, dataset.input_shape, dataset.outputs)
            self.factors = rescale(self.model, facts.values_per_channel(config.batch_size, config.norm_batch_size))
        if config.model.architecture == "resnet":
            # Small convolutions are faster with the channels last; the large ones of torchvision's networks are not.
            self.model.to(memory_format=torch.channels_last)
        self.inputs = dataset.train.inputs.to(self.dtype)
        classes = dataset.task == "classification"
        self.targets = dataset.train.targets if classes else dataset.train.targets.to(self.dtype)
        self.replica_count = torch.tensor(float(len(self.seeds)), dtype=self.dtype, device=self.device)
        self.optimizer = build_optimizer(config.optimizer, self.model, self.factors)
        self.order_generators = [generator(seed, "order") for seed in self.seeds]
        self.augmentation_generators = [generator(seed, "augmentation") for seed in self.seeds]
        self.steps = total_steps(config, len(dataset.train))
        before = self.port_epoch * steps_per_epoch(len(dataset.train), config.batch_size, config.drop_last)
        self.rates: list[float] = []
        for steps, factor in ((before, 1.0), (self.steps - before, config.port.lr_factor if ported else 1.0)):
            rates = learning_rates(config.optimizer, config.schedule, config.batch_size, steps)
            self.rates += [rate * factor for rate in rates]
        self.epoch = self.step = 0
        self.diverged: list[int | None] = [None] * len(self.seeds)

    @property
    def finished(self) -> bool:
        """Whether every step has been made."""
        return self.step >= self.steps

    def take_up(self, epoch: int, step: int, diverged: list[int | None]) -> None:
        """Stand where a training of the same configuration stood between two epochs, whose tensors were put in here."""
        self.epoch, self.step, self.diverged = epoch, step, diverged
        if epoch > self.port_epoch > 0:
            for layer in batchnorm_layers(self.model).values():
                layer.set_convention(self.convention, layer.norm_batch_size)

    def run_epoch(self, progress: Progress = lambda step: None) -> EpochRecord:
        """Train over the split once, or as far as `steps` allows, and say what the batches gave as they went by."""
        if self.epoch == self.port_epoch > 0:
            port(self.model, self.convention)
            self.optimizer = build_optimizer(self.config.optimizer, self.model)
        replicas, size = len(self.seeds), self.config.batch_size
        sizes = batch_sizes(len(self.inputs), size, self.config.drop_last)[: self.steps - self.step]
        order = draw_order(len(self.inputs), self.order_generators, self.device)[: sum(sizes)]
        first = self.step
        outputs: list[Tensor] = []
        self.model.train()
        with deferred_averages(self.model), self._random_numbers():
            for index in chunks(order, size):
                inputs = self._augmented(gather(self.inputs, index))
                targets = self.targets.index_select(0, index.flatten())
                for x, target in zip(inputs.split(size), targets.split(size * replicas), strict=True):
                    outputs.append(self._step(x, target))
                    progress(self.step)
        record = torch.cat(outputs).unflatten(1, (replicas, -1))
        targets = self.dataset.train.targets[order]
        self._note_divergence(record, targets, sizes, first)
        self.epoch += 1
        return EpochRecord(measure(self.dataset.task, record, targets), sum(sizes))

    def _random_numbers(self) -> AbstractContextManager[None]:
        """The study's own networks draw none; of the user's own, those that do train one seed at a time."""
        return (
            own_random_numbers(self.seeds[0], self.epoch, self.device)
            if self.config.model.imported
            else contextlib.nullcontext()
        )

    def _step(self, x: Tensor, target: Tensor) -> Tensor:
        """One optimizer step; x (N, R·C, *spatial), target of N·R samples. Returns the outputs, (N, R·K)."""
        rate = self.rates[self.step]
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group.get("lr_factor", 1.0)
        outputs = self._forward(x)
        # The mean over all N·R samples, R times: the sum of each replica's mean, so that their gradients are independent.
        by_sample = outputs.reshape(len(target), -1)
        loss = F.cross_entropy(by_sample, target) if self.dataset.task == "classification" else F.mse_loss(by_sample, target)
        loss.backward(self.replica_count)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        return outputs.detach()

    def _forward(self, x: Tensor) -> Tensor:
        if self.config.precision != "bfloat16":
            plain: Tensor = self.model(x)
            return plain
        with torch.autocast(x.device.type, torch.bfloat16):
            reduced: Tensor = self.model(x)
        return reduced.to(self.dtype)

    def _augmented(self, inputs: Tensor) -> Tensor:
        if self.config.dataset.augment == "none":
            return inputs
        by_replica = inputs.unflatten(1, (len(self.seeds), -1)).unbind(1)
        pairs = zip(by_replica, self.augmentation_generators, strict=True)
        return torch.cat([crop_flip(images, random) for images, random in pairs], 1)

    def _note_divergence(self, outputs: Tensor, targets: Tensor, sizes: list[int], first: int) -> None:
        """Find each replica's first step with a non-finite loss; looked for once an epoch, so that steps need not wait."""
        if float(outputs.abs().max()) < _HARMLESS:
            return
        if self.dataset.task == "classification":
            losses = F.cross_entropy(outputs.transpose(1, 2).to(self.dtype), targets, reduction="none")  # (n, R)
        else:
            losses = (outputs - targets).square().sum(2)
        if math.isfinite(float(losses.sum())):
            return
        broken = torch.stack([~part.isfinite().all(0) for part in losses.split(sizes)])  # (steps, R)
        for replica, steps in enumerate(broken.T):
            if self.diverged[replica] is None and bool(steps.any()):
                self.diverged[replica] = first + int(steps.int().argmax()) + 1
