"""Faults that befall a healthy, trained model: its buffers, its γ, its inputs."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from scripts.gallery.case import Case, chance, recipe, some
from scripts.gallery.networks import batchnorms
from scripts.gallery.sampling import raw, zoomed
from scripts.gallery.subjects import Recipe, cut, samples, trained

HELD_OUT_BATCH = 36
"""Ten batches of the 360 digits held out."""


def never_updated(kind: str, seed: int) -> Case:
    """A checkpoint of parameters without buffers: every layer as it was made."""
    subject = recipe(kind, seed)
    model = trained(subject)
    for layer in batchnorms(model).values():
        layer.reset_running_stats()
    return Case(model, subject.given(), "parameters loaded into fresh layers, buffers left as they were made")


def never_updated_in_part(kind: str, seed: int) -> Case:
    """Some layers' buffers missing from the checkpoint, skipped by strict=False."""
    subject = recipe(kind, seed)
    model, names = _chosen(subject, "never updated")
    for name in names:
        batchnorms(model)[name].reset_running_stats()
    return Case(model, subject.given(), f"buffers of {', '.join(names)} left as they were made")


def reset(kind: str, seed: int) -> Case:
    """Statistics filled with 0 and 1 after training, counters kept."""
    subject = recipe(kind, seed)
    model = trained(subject)
    for layer in batchnorms(model).values():
        _forget(layer)
    return Case(model, subject.given(), "every layer's statistics set back to 0 and 1, counters kept")


def reset_in_part(kind: str, seed: int) -> Case:
    """The same in some layers."""
    subject = recipe(kind, seed)
    model, names = _chosen(subject, "reset")
    for name in names:
        _forget(batchnorms(model)[name])
    return Case(model, subject.given(), f"statistics of {', '.join(names)} set back to 0 and 1, counters kept")


def few_updates(kind: str, seed: int) -> Case:
    """Statistics reset for another data set, then a handful of batches at the usual momentum."""
    draw = chance("few updates", kind, seed)
    subject = recipe(kind, seed)
    model, given, updates = trained(subject), subject.given(), draw.randint(3, 12)
    for layer in batchnorms(model).values():
        layer.reset_running_stats()
    _pass(model, [inputs for inputs, _ in given[:updates]])
    return Case(model, given, f"statistics reset after training, then {updates} updates at momentum 0.1")


def invalid_nan(kind: str, seed: int) -> Case:
    """A NaN in some channels of one layer."""
    return _spoilt(kind, seed, ["running_mean", "running_var"][seed % 2], math.nan)


def invalid_negative(kind: str, seed: int) -> Case:
    """Negative variances, as averages of checkpoints with weights beyond 0 to 1, or rounding, leave them."""
    return _spoilt(kind, seed, "running_var", -(10 ** chance("negative", kind, seed).uniform(-2, 0)))


def invalid_inf(kind: str, seed: int) -> Case:
    """Infinite variances, as an overflow in half precision leaves them."""
    return _spoilt(kind, seed, "running_var", math.inf)


def zero_gain_layer(kind: str, seed: int) -> Case:
    """γ of a whole layer at zero, statistics brought up to date by five epochs with the weights at rest."""
    draw = chance("zero gain", kind, seed)
    subject = recipe(kind, seed)
    model, given = trained(subject), subject.given()
    name = draw.choice(list(batchnorms(model)))
    batchnorms(model)[name].weight.data.zero_()
    _pass(model, [inputs for inputs, _ in given * 5])
    return Case(model, given, f"γ of all channels of {name} at 0")


def no_statistics(kind: str, seed: int) -> Case:
    """Layers made with track_running_stats=False."""
    subject = recipe(kind, seed)
    model = trained(subject)
    for layer in batchnorms(model).values():
        layer.track_running_stats = False
        layer.running_mean = layer.running_var = layer.num_batches_tracked = None
    return Case(model, subject.given(), "every layer made with track_running_stats=False")


def unnormalised(kind: str, seed: int) -> Case:
    """Evaluation on pixels that nobody standardised."""
    subject = recipe(kind, seed)
    scale = chance("pixels", kind, seed).choice((1.0, 16.0))
    inputs, targets = samples("test")
    batches = cut((raw(inputs) * scale / 16, targets), HELD_OUT_BATCH)
    return Case(trained(subject), subject.given(), f"evaluated on pixels from 0 to {scale:g}, not standardised", batches)


def other_contrast(kind: str, seed: int) -> Case:
    """Evaluation under another light."""
    draw = chance("contrast", kind, seed)
    subject = recipe(kind, seed)
    contrast, brightness = (
        draw.choice((draw.uniform(0.2, 0.5), draw.uniform(2, 4))),
        draw.choice((-1, 1)) * draw.uniform(0.5, 1.5),
    )
    inputs, targets = samples("test")
    batches = cut((contrast * inputs + brightness, targets), HELD_OUT_BATCH)
    planted = f"evaluated at {contrast:.2f} times the contrast and {brightness:+.2f} standard deviations of brightness"
    return Case(trained(subject), subject.given(), planted, batches)


def without_augmentation(kind: str, seed: int) -> Case:
    """Trained on random crops, evaluated on whole images."""
    subject = recipe(kind, seed, sampler=zoomed, epochs=8.0)
    return Case(
        trained(subject),
        subject.given(),
        "trained on random crops enlarged by a third, evaluated on whole images",
        cut(samples("test"), HELD_OUT_BATCH),
    )


def repeated_batch(kind: str, seed: int) -> Case:
    """pytorch/pytorch#100048: one batch, 2,048 times, through a chain of 20 layers."""
    generator = torch.Generator().manual_seed(seed)
    # The thread has eps=0, which torch has come to refuse in training.
    layers = [nn.BatchNorm1d(2, eps=1e-12, momentum=0.01, affine=False) for _ in range(20)]
    model = nn.Sequential(*layers)
    x = torch.randn(64, 2, generator=generator) * 2 - 1
    _pass(model, [x] * 2048)
    return Case(model, [x] * 20, "2,048 times the same 64 samples through a chain of 20 layers (pytorch/pytorch#100048)")


def _chosen(subject: Recipe, what: str) -> tuple[nn.Module, list[str]]:
    """A trained model, and the names of half of its layers or so."""
    model = trained(subject)
    names = list(batchnorms(model))
    return model, [names[index] for index in some(chance(what, subject.kind, subject.seed), len(names), 0.3, 0.7)]


def _forget(layer: nn.modules.batchnorm._BatchNorm) -> None:
    """Mean 0 and variance 1, the counter as it is."""
    _tensor(layer.running_mean).zero_()
    _tensor(layer.running_var).fill_(1)


def _spoilt(kind: str, seed: int, buffer: str, value: float) -> Case:
    draw = chance(f"{buffer} {value}", kind, seed)
    subject = recipe(kind, seed)
    model = trained(subject)
    name = draw.choice(list(batchnorms(model)))
    tensor = _tensor(getattr(batchnorms(model)[name], buffer))
    channels = draw.sample(range(len(tensor)), draw.randint(1, 4))
    tensor[channels] = value
    return Case(model, subject.given(), f"{buffer} of {name} is {value:.2g} in {len(channels)} of {len(tensor)} channels")


def _pass(model: nn.Module, inputs: list[Tensor]) -> None:
    """Training mode over some batches, weights at rest: the statistics move."""
    model.train()
    with torch.no_grad():
        for batch in inputs:
            model(batch)


def _tensor(buffer: Tensor | None) -> Tensor:
    if buffer is None:
        raise TypeError("buffer: the layer keeps no statistics")
    return buffer
