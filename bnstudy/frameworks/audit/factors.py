"""The factors that a batch variance may carry, and what counts as agreement with one."""

from __future__ import annotations

import math

import numpy as np

from bnstudy.frameworks.audit.fits import AXES
from bnstudy.frameworks.audit.observations import Array

TOLERANCE = 1e-4
"""Largest relative misfit of a law that is believed. Rounding in float32 gives 1e-6, the nearest wrong law 6e-2."""
SAME = 10 * TOLERANCE
"""Largest relative distance of a fitted number from the one it is taken for; the nearest wrong one is 6e-2 away."""
VISIBLE = 1e-13
"""An ε below this is lost beside the smallest variance of the experiment."""


def factors(shape: tuple[int, ...]) -> dict[str, float]:
    """Factors over the biased variance for batches of shape (N, C, H, W): "biased", "unbiased" (m), "samples" (N)."""
    n, m = shape[0], shape[0] * shape[2] * shape[3]
    return {"biased": 1.0, "unbiased": m / (m - 1), "samples": n / (n - 1)}


def name_factor(factor: float, shape: tuple[int, ...]) -> str:
    """The name of a measured factor, or "unknown"."""
    known = factors(shape)
    return next((name for name, value in known.items() if abs(factor / value - 1) < SAME), "unknown")


def runner_up(factor: float, shape: tuple[int, ...]) -> float:
    """Relative distance from a measured factor to the nearest known one that it is not."""
    return sorted(abs(factor / value - 1) for value in factors(shape).values())[1]


def batch_moments(inputs: Array) -> tuple[Array, Array]:
    """Means and biased variances of (T, N, C, H, W) batches, each (T, C), in float64."""
    wide = inputs.astype(np.float64)
    axes = tuple(axis + 1 for axis in AXES)
    return wide.mean(axes), wide.var(axes)


def shortest(value: float) -> float:
    """The decimal with the fewest digits within a relative 2e-5 of a measured value; the value itself if there is none."""
    if not math.isfinite(value) or value == 0:
        return value
    for digits in range(1, 6):
        rounded = float(f"{value:.{digits - 1}e}")
        if abs(rounded - value) <= TOLERANCE / 5 * abs(value):
            return rounded
    return value
