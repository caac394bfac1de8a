"""Faults that happen while a model trains: a setting, a slip in the code, the data's order."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from bnstudy.batchnorm.convert import convert
from scripts.gallery.case import Case, chance, recipe, some
from scripts.gallery.networks import NormEval, SharedMLP, batchnorms, feeding, share_within_blocks
from scripts.gallery.sampling import alternating, enlarged, frames, mild, zoomed
from scripts.gallery.subjects import cut, fit, network, samples, stream, trained

INVERTED = 1.03
"""Added to the negative of standardised pixels: what black for white, 16 - pixel, makes of them."""


def healthy(kind: str, seed: int) -> Case:
    """Nothing is wrong; every other draw is given held-out digits to evaluate on as well."""
    draw = chance("healthy", kind, seed)
    optimizer, sampler = draw.choice(("sgd", "adamw")), draw.choice((None, mild))
    rates = {"learning_rate": 3e-3, "weight_decay": 0.01} if optimizer == "adamw" else {}
    size, epochs = draw.choice((32, 48, 64)), 15.0 if kind == "mlp" else 6.0
    width = draw.randint(32, 128) if kind == "mlp" else draw.choice((8, 12, 16, 24))
    subject = recipe(kind, seed, width=width, batch_size=size, optimizer=optimizer, sampler=sampler, epochs=epochs, **rates)
    planted = f"{optimizer}, width {width}, batch {size}, {'mild' if sampler else 'no'} augmentation"
    return Case(trained(subject), subject.given(), planted, cut(samples("test"), 36) if seed % 2 else None)


def flax_convention(kind: str, seed: int) -> Case:
    """Trained where the biased variance is stored, loaded into torch's layers."""
    return _ported(kind, seed, "flax")


def karpathy_convention(kind: str, seed: int) -> Case:
    """Trained where the unbiased variance normalises as well, loaded into torch's layers."""
    return _ported(kind, seed, "karpathy")


def small_momentum(kind: str, seed: int) -> Case:
    """A momentum meant for a hundred times as many steps."""
    momentum = 10 ** chance("slow", kind, seed).uniform(-3.3, -2.6)
    subject = recipe(kind, seed, momentum=momentum)
    return Case(trained(subject), subject.given(), f"momentum {momentum:.2g} for {(5 * 44)} steps")


def large_momentum(kind: str, seed: int) -> Case:
    """The last batch or two decide."""
    draw = chance("noisy", kind, seed)
    momentum, size = draw.choice((1.0, draw.uniform(0.9, 1.0))), draw.choice((8, 12))
    subject = recipe(kind, seed, momentum=momentum, batch_size=size, epochs=3.0)
    return Case(trained(subject), subject.given(), f"momentum {momentum:.2f} at {size} samples a batch")


def tiny_batches(kind: str, seed: int) -> Case:
    """Two to four values a channel; in the ResNet three or four where one position is left: with two it learns nothing."""
    size = chance("tiny", kind, seed).choice((2, 3, 4) if kind == "mlp" else (3, 4))
    subject = recipe(kind, seed, batch_size=size, stride=2, epochs=3.0 if kind == "mlp" else 2.0)
    return Case(trained(subject), subject.given(), f"{size} samples a batch")


def dependent_samples(kind: str, seed: int) -> Case:
    """Frames of few scenes in an MLP's batch; two large images in a ResNet's."""
    if kind == "resnet":
        subject = recipe(kind, seed, batch_size=2, stride=2, sampler=enlarged, epochs=3.0, learning_rate=0.15)
        return Case(trained(subject), subject.given(), "two images of 32x32 a batch")
    clips = chance("clips", kind, seed).choice((2, 3, 4))
    subject = recipe(kind, seed, sampler=frames(clips), epochs=4.0)
    return Case(fit(network(subject), subject), subject.given(), f"32 frames of {clips} scenes a batch")


def single_samples(kind: str, seed: int) -> Case:
    """One large image a batch, each in its own light."""
    subject = recipe(kind, seed, batch_size=1, stride=2, sampler=enlarged, epochs=3.0, learning_rate=0.02)
    return Case(trained(subject), subject.given(), "one image of 32x32 a batch")


def domains_by_turns(kind: str, seed: int) -> Case:
    """Two domains, a batch of each by turns."""
    return _domains(kind, seed, in_order=True)


def domains_at_random(kind: str, seed: int) -> Case:
    """Two domains, each batch of one of them, in random order."""
    return _domains(kind, seed, in_order=False)


def frozen_layers(kind: str, seed: int) -> Case:
    """BatchNorm put in evaluation mode after a third of the steps, the weights trained on."""
    subject = recipe(kind, seed, learning_rate=0.08, epochs=8.0, sampler=zoomed)
    model = network(subject)
    fit(model, subject, _freezing(model))
    return Case(model, subject.given(), "layers in evaluation mode after a third of the steps")


def frozen_by_train(kind: str, seed: int) -> Case:
    """The same by a `train()` of the model's own, which leaves BatchNorm in evaluation mode ever after."""
    subject = recipe(kind, seed, learning_rate=0.08, epochs=8.0, sampler=zoomed)
    body = network(subject)
    fit(body, subject, _freezing(body))
    return Case(NormEval(body), subject.given(), "train() keeps the layers in evaluation mode after a third of the steps")


def shared_layer(kind: str, seed: int) -> Case:
    """One layer at several depths."""
    draw = chance("shared", kind, seed)
    subject = recipe(kind, seed)
    if kind == "resnet":
        model = share_within_blocks(network(subject))
        planted = "bn1 serves both convolutions of every block"
    else:
        scales = (1.0, draw.uniform(2, 5)) if subject.depth == 2 else (1.0, draw.uniform(2, 5), draw.uniform(0.3, 3))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stream(seed, "weights").initial_seed())
            model = SharedMLP(subject.width, scales)
        planted = f"one layer at {len(scales)} depths"
    return Case(fit(model, subject), subject.given(), planted)


def dead_channels(kind: str, seed: int) -> Case:
    """Channels whose weights are zero from the first step on: the layer sees a constant there."""
    draw = chance("dead", kind, seed)
    subject = recipe(kind, seed)
    model = network(subject)
    name = draw.choice(list(batchnorms(model)))
    before = feeding(model, name)
    channels = some(draw, before.weight.size(0), 0.1, 0.4)

    def kill(step: int = 0, steps: int = 0) -> None:
        before.weight.data[channels] = 0

    fit(model, subject, kill)
    kill()
    return Case(model, subject.given(), f"{len(channels)} of {before.weight.size(0)} channels of {name} constant")


def zero_gain_channels(kind: str, seed: int) -> Case:
    """γ of some channels held at zero through the training, as pruning does."""
    draw = chance("zero gain channels", kind, seed)
    subject = recipe(kind, seed)
    model = network(subject)
    name = draw.choice(list(batchnorms(model)))
    layer = batchnorms(model)[name]
    channels = some(draw, layer.num_features, 0.1, 0.5)

    def prune(step: int = 0, steps: int = 0) -> None:
        layer.weight.data[channels] = 0

    fit(model, subject, prune)
    prune()
    return Case(model, subject.given(), f"γ of {len(channels)} of {layer.num_features} channels of {name} at 0")


def dropout(kind: str, seed: int) -> Case:
    """Dropout in front of the head, behind all BatchNorm."""
    rate = chance("dropout", kind, seed).uniform(0.5, 0.7)
    subject = recipe(kind, seed, drop_rate=rate, epochs=3.0)
    return Case(trained(subject), subject.given(), f"dropout {rate:.2f} in front of the head")


def dropout_between(kind: str, seed: int) -> Case:
    """Dropout or stochastic depth in front of further BatchNorm layers, whose statistics were taken with it at work."""
    if kind == "mlp":
        subject = recipe(kind, seed, drop_rate=0.5, drop_between=0.5, depth=3)
        return Case(trained(subject), subject.given(), "dropout 0.5 behind every ReLU")
    rate = chance("stochastic depth", kind, seed).uniform(0.3, 0.5)
    subject = recipe(kind, seed, drop_path=rate)
    return Case(trained(subject), subject.given(), f"stochastic depth {rate:.2f} in every block")


def _ported(kind: str, seed: int, convention: str) -> Case:
    size = chance(convention, kind, seed).choice((4, 5, 6, 8))
    subject = recipe(kind, seed, batch_size=size, stride=2, epochs=3.0 if kind == "mlp" else 2.0)
    elsewhere = fit(convert(network(subject), convention), subject)
    model = network(subject)
    model.load_state_dict(elsewhere.state_dict())
    return Case(model.requires_grad_(False), subject.given(), f"trained under `{convention}` at {size} samples a batch")


def _domains(kind: str, seed: int, in_order: bool) -> Case:
    draw = chance("domains", kind, seed)
    contrast, brightness = draw.choice(
        ((-1.0, INVERTED), (-2.0, 0.0), (0.3, draw.uniform(-1, 1)), (3.0, draw.uniform(-1, 1)))
    )
    sampler = alternating(contrast, brightness, in_order)
    subject = recipe(kind, seed, sampler=sampler, epochs=8.0)
    planted = f"every other batch at {contrast:g} times the contrast and {brightness:+.2f}, "
    return Case(fit(network(subject), subject), subject.given(), planted + ("by turns" if in_order else "in random order"))


def _freezing(model: nn.Module) -> Callable[[int, int], None]:
    def freeze(step: int, steps: int) -> None:
        if step == steps // 3:
            for layer in batchnorms(model).values():
                layer.eval()

    return freeze
