"""The experiment: which batches a black-box layer is fed, so that hypotheses differ by far more than rounding.

Channel i has a standard deviation σ_i of its own, log-spaced so that σ² runs from 10⁻⁹ to 4: small ones show ε, large ones
the variance. Every batch is standardised exactly before it is scaled, so that its mean and variance are chosen, not drawn,
and a kernel that computes E[x²]-E[x]² loses nothing: |μ_B| stays below σ_i. m is 8 and 4, where Bessel's factor is 1.14 and
1.33; N is 4 and 2, so that a factor N/(N-1) cannot be taken for m/(m-1).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from bnstudy.errors import one_line
from bnstudy.frameworks.audit.observations import Array, Observations, Run, Single, Written

CHANNELS = 24
SCALES = np.sqrt(np.logspace(-9, np.log10(4.0), CHANNELS))
MAIN_SHAPE, OTHER_SHAPE = (4, CHANNELS, 2, 1), (2, CHANNELS, 1, 2)
MOMENTA = (0.25, 0.6)


@dataclass(frozen=True)
class Stored:
    """What a layer keeps, read as it stands: stored mean and variance, γ and β, each of shape (C,)."""

    mean: Array
    variance: Array
    gain: Array
    shift: Array


class Layer(Protocol):
    """A BatchNorm layer over NCHW float32 arrays, whatever the framework's own layout."""

    def train(self, x: Array) -> Array:
        """Output in training mode; updates what is stored."""

    def evaluate(self, x: Array) -> Array:
        """Output in evaluation mode."""

    def read(self) -> Stored:
        """What is stored now."""

    def write(self, mean: Array, variance: Array) -> None:
        """Overwrite the stored mean and variance."""


@dataclass(frozen=True)
class Kind:
    """A kind of layer to be measured.

    Args:
        build: makes a fresh layer of (channels, momentum argument); None means: leave the argument at its default.
        default: the momentum argument's default; None where it has none and the adapter chooses.
        has_momentum: whether there is such an argument at all.
    """

    build: Callable[[int, float | None], Layer]
    default: float | None
    has_momentum: bool = True


def default_of(layer: type, argument: str) -> float | None:
    """The default of a numeric argument of a layer's constructor; None where it has none."""
    value = inspect.signature(layer.__init__).parameters[argument].default  # type: ignore[misc]
    return None if value is inspect.Parameter.empty or value is None else float(value)


def given(argument: str, value: float | None) -> dict[str, Any]:
    """Keyword arguments that pass `value`, or nothing when it is None."""
    return {} if value is None else {argument: value}


def observe(kind: Kind, seed: int = 0) -> Observations:
    """Run the experiment on a kind of layer.

    Args:
        kind: how to build it.
        seed: of the inputs. Default: 0.

    Returns:
        What was seen; `identify` reads it.

    Source: docs/architecture.md, "The audit".
    """
    generator = np.random.default_rng(seed)
    main = _run(kind, None, MAIN_SHAPE, 5, generator)
    other = _run(kind, None, OTHER_SHAPE, 2, generator)
    momenta = tuple(_run(kind, value, MAIN_SHAPE, 3, generator) for value in MOMENTA) if kind.has_momentum else ()
    return Observations(main, other, momenta, kind.default, _written(kind, generator), _single(kind, generator))


def batch(shape: tuple[int, ...], scales: Array, generator: np.random.Generator) -> Array:
    """A float32 batch with chosen statistics: σ = scales·u, μ = ±σ·w per channel, with u in [½, 1] and w in [0.3, 0.9]."""
    z = generator.standard_normal(shape)
    z -= z.mean((0, 2, 3), keepdims=True)
    z /= z.std((0, 2, 3), keepdims=True)
    sigma = scales * generator.uniform(0.5, 1.0, scales.shape)
    mu = sigma * generator.uniform(0.3, 0.9, scales.shape) * generator.choice([-1.0, 1.0], scales.shape)
    return np.asarray(z * sigma[:, None, None] + mu[:, None, None], np.float32)


def _run(kind: Kind, argument: float | None, shape: tuple[int, ...], batches: int, generator: np.random.Generator) -> Run:
    layer = kind.build(shape[1], argument)
    start = layer.read()
    inputs, outputs, probes, evaluations, stored = [], [], [], [], [start]
    for _ in range(batches):
        inputs.append(batch(shape, SCALES, generator))
        outputs.append(_plain(layer.train(inputs[-1])))
        stored.append(layer.read())
        probes.append(_probe(shape, stored[-1], generator))
        evaluations.append(_plain(layer.evaluate(probes[-1])))
    return Run(
        argument,
        np.stack(inputs),
        np.stack(outputs),
        np.stack([_plain(one.mean) for one in stored]),
        np.stack([_plain(one.variance) for one in stored]),
        np.stack(probes),
        np.stack(evaluations),
        _plain(start.gain),
        _plain(start.shift),
    )


def _probe(shape: tuple[int, ...], stored: Stored, generator: np.random.Generator) -> Array:
    """An input for evaluation that is of the size of what is stored, so that the output is of order one."""
    variance = np.nan_to_num(_plain(stored.variance), nan=1.0, posinf=1.0, neginf=1.0)
    x = batch(shape, np.sqrt(np.abs(variance) + 1e-5), generator) + np.nan_to_num(_plain(stored.mean))[:, None, None]
    return np.asarray(x, np.float32)


def _written(kind: Kind, generator: np.random.Generator) -> Written | None:
    layer = kind.build(CHANNELS, None)
    variance = np.asarray(SCALES**2 * generator.uniform(0.5, 1.0, CHANNELS), np.float32)
    mean = np.asarray(SCALES * generator.uniform(0.3, 0.9, CHANNELS), np.float32)
    try:
        layer.write(mean, variance)
    except NotImplementedError:
        return None
    probe = batch(MAIN_SHAPE, np.sqrt(SCALES**2 + 1e-5), generator)
    evaluation = _plain(layer.evaluate(probe))
    return Written(mean, variance, probe, evaluation, _plain(layer.train(probe)))


def _single(kind: Kind, generator: np.random.Generator) -> Single:
    layer = kind.build(CHANNELS, None)
    before = _plain(layer.read().variance)
    x = np.asarray(generator.standard_normal((1, CHANNELS, 1, 1)), np.float32)
    try:
        output, after = _plain(layer.train(x)), _plain(layer.read().variance)
    except Exception as error:  # whatever a framework answers is what we want to know
        nothing = np.full(CHANNELS, np.nan)
        return Single(one_line(error), x, np.full(x.shape, np.nan), before, nothing)
    return Single(None, x, output, before, after)


def _plain(array: Array) -> Array:
    return np.array(array)  # a copy: some frameworks hand out a view of a buffer that they change later
