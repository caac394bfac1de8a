"""Networks trained on real digits as networks are trained: fresh batches every epoch, a learning rate annealed or not."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bnstudy.training.config import DatasetConfig
from bnstudy.training.data import Dataset, load_dataset
from scripts.gallery.networks import DigitsResNet, batchnorms, mlp

Batch = tuple[Tensor, Tensor]
Images = tuple[Tensor, Tensor]
"""Inputs and targets of many samples."""


@dataclass(frozen=True)
class Recipe:
    """How a subject is trained; equal recipes give equal subjects.

    Args:
        kind: "mlp" or "resnet".
        seed: of initial weights, data order, augmentation and dropout, each with a stream of its own.
        epochs: passes over the 1,437 digits.
        annealed: whether the learning rate falls to zero over them along a cosine; else it stays.
        width: of the MLP's layers, or of the ResNet's first stage.
        depth: hidden layers of the MLP.
        stride: of the ResNet's first convolution.
        batch_size: of training, and of what the diagnosis is given.
        momentum: of the BatchNorm layers.
        optimizer: "sgd" (Nesterov, 0.9) or "adamw".
        learning_rate: at 32 samples a batch; scaled with the batch size for SGD, with its root for AdamW.
        weight_decay: of every parameter.
        drop_rate, drop_between, drop_path: see `networks`.
        sampler: cuts an epoch's batches.
    """

    kind: str
    seed: int
    epochs: float = 5.0
    annealed: bool = True
    width: int = 16
    depth: int = 3
    stride: int = 1
    batch_size: int = 32
    momentum: float | None = 0.1
    optimizer: str = "sgd"
    learning_rate: float = 0.05
    weight_decay: float = 5e-4
    drop_rate: float = 0.0
    drop_between: float = 0.0
    drop_path: float = 0.0
    sampler: Sampler | None = None

    def epoch(self, generator: torch.Generator) -> list[Batch]:
        """The batches of one epoch."""
        return (self.sampler or shuffled)(self, generator)

    def given(self) -> list[Batch]:
        """An epoch's batches as training made them, in an order that training did not see: what the diagnosis gets."""
        return self.epoch(stream(self.seed, "given"))


Sampler = Callable[[Recipe, torch.Generator], list[Batch]]
_STREAMS = ("weights", "order", "noise", "given", "evaluation", "plant")


def stream(seed: int, name: str) -> torch.Generator:
    """A generator for one stream of a seed; streams do not disturb each other."""
    state = np.random.SeedSequence([seed, 7, _STREAMS.index(name)]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))


@lru_cache(maxsize=1)
def digits() -> Dataset:
    """scikit-learn's digits, 1,437 for training and 360 held out, standardised."""
    return load_dataset(DatasetConfig(name="digits"))


def samples(split: str = "train") -> Images:
    """Inputs (n, 1, 8, 8) and targets (n,) of a split."""
    chosen = digits().train if split == "train" else digits().test
    return chosen.inputs, chosen.targets


def cut(images: Images, batch_size: int, generator: torch.Generator | None = None) -> list[Batch]:
    """Batches of a fixed size, shuffled where a generator is given; the remainder is dropped."""
    inputs, targets = images
    order = torch.arange(len(targets)) if generator is None else torch.randperm(len(targets), generator=generator)
    index = order[: len(order) // batch_size * batch_size].view(-1, batch_size)
    return [(inputs[rows], targets[rows]) for rows in index]


def shuffled(recipe: Recipe, generator: torch.Generator) -> list[Batch]:
    """All training digits in random order."""
    return cut(samples(), recipe.batch_size, generator)


def network(recipe: Recipe) -> nn.Module:
    """The untrained network."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream(recipe.seed, "weights").initial_seed())
        if recipe.kind == "mlp":
            model: nn.Module = mlp(recipe.width, recipe.depth, recipe.drop_rate, recipe.drop_between)
        else:
            model = DigitsResNet(recipe.width, recipe.stride, recipe.drop_rate, recipe.drop_path)
    for layer in batchnorms(model).values():
        layer.momentum = recipe.momentum
    return model


def fit(model: nn.Module, recipe: Recipe, before_step: Callable[[int, int], None] | None = None) -> nn.Module:
    """Train a network in place.

    Args:
        model: in any mode; `train()` is called once, in front of the first step.
        recipe: see there.
        before_step: called with the number of the step, from 0, and of all steps.

    Returns:
        The model itself.
    """
    order = stream(recipe.seed, "order")
    batches = recipe.epoch(order)
    steps = round(recipe.epochs * len(batches))
    optimizer = _optimizer(model, recipe)
    rate = optimizer.param_groups[0]["lr"]
    model.train()
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(stream(recipe.seed, "noise").initial_seed())
        for step in range(steps):
            if step and step % len(batches) == 0:
                batches = recipe.epoch(order)
            if before_step is not None:
                before_step(step, steps)
            if recipe.annealed:
                optimizer.param_groups[0]["lr"] = rate * (1 + math.cos(math.pi * step / steps)) / 2
            inputs, targets = batches[step % len(batches)]
            loss = F.cross_entropy(model(inputs), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.requires_grad_(False)


def _optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    relative = recipe.batch_size / 32
    if recipe.optimizer == "adamw":
        rate = recipe.learning_rate * math.sqrt(relative)
        return torch.optim.AdamW(model.parameters(), rate, weight_decay=recipe.weight_decay, foreach=True)
    rate = recipe.learning_rate * relative
    return torch.optim.SGD(
        model.parameters(), rate, momentum=0.9, nesterov=True, weight_decay=recipe.weight_decay, foreach=True
    )


@lru_cache(maxsize=64)
def _trained(recipe: Recipe) -> nn.Module:
    return fit(network(recipe), recipe)


def trained(recipe: Recipe) -> nn.Module:
    """A subject of a recipe, a copy of its own; faults that are planted after training share the training."""
    return copy.deepcopy(_trained(recipe))
