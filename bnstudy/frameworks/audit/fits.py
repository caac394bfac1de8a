"""Least-squares fits behind the identification; float64 throughout, residuals relative."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from bnstudy.frameworks.audit.observations import Array

AXES = (0, 2, 3)


@dataclass(frozen=True)
class Line:
    """y = (x - centre)·slope + shift in each channel.

    Args:
        slope, centre: shape (C,).
        residual: largest |y - fit| over the channel's RMS output, shape (C,); large where the layer is not affine.
    """

    slope: Array
    centre: Array
    residual: Array


def line(x: Array, y: Array, shift: Array) -> Line:
    """Fit a line to each channel of (N, C, H, W) input and output; `shift` is β, shape (C,)."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    mean_x, mean_y = x.mean(AXES, keepdims=True), y.mean(AXES, keepdims=True)
    dx, dy = x - mean_x, y - mean_y
    with np.errstate(divide="ignore", invalid="ignore"):
        slope = (dx * dy).sum(AXES) / (dx * dx).sum(AXES)
        centre = mean_x.ravel() - (mean_y.ravel() - shift) / slope
        misfit = np.abs(dy - slope[:, None, None] * dx).max(AXES)
        residual = misfit / np.sqrt((dy * dy).mean(AXES))
    return Line(slope, centre, residual)


@dataclass(frozen=True)
class Law:
    """How a variance S and ε make the squared denominator r² of a layer, r = γ/slope.

    Args:
        place: "inside" r² = kS + ε, "outside" r = √(kS) + ε, "floor" r² = max(kS, ε).
        factor: k.
        eps: ε.
        residual: largest |fit/r² - 1|.
    """

    place: str
    factor: float
    eps: float
    residual: float

    def variance(self, squared: Array) -> Array:
        """The variance kS that belongs to r²."""
        if self.place == "inside":
            return squared - self.eps
        return squared if self.place == "floor" else (np.sqrt(squared) - self.eps) ** 2


def fit_law(variance: Array, squared: Array) -> Law:
    """The law that fits best, of the three.

    Args:
        variance: candidate S, any shape.
        squared: r², same shape.

    Returns:
        The best law; its residual is inf where S or r² is not finite or not positive, where S spans less than a factor 2,
        which shows neither k nor ε, and where a constant ε explains r² without S.
    """
    s, r2 = variance.astype(np.float64).ravel(), squared.astype(np.float64).ravel()
    if not (np.isfinite(s).all() and np.isfinite(r2).all() and (s > 0).all() and (r2 > 0).all()) or s.max() < 2 * s.min():
        return Law("inside", np.nan, np.nan, np.inf)
    factor, inside = _proportions(s, r2)
    root_factor, outside = _proportions(np.sqrt(s), np.sqrt(r2))
    order = np.argsort(s)
    quarter = max(1, s.size // 4)
    top, bottom = order[-quarter:], order[:quarter]
    high, low = float(np.median(r2[top] / s[top])), float(np.median(r2[bottom]))
    laws = (
        ("inside", factor, inside, factor * s + inside),
        ("outside", root_factor**2, outside, (root_factor * np.sqrt(s) + outside) ** 2),
        ("floor", high, low, np.maximum(high * s, low)),
    )
    found = [Law(place, k, eps, float(np.abs(fit / r2 - 1).max())) for place, k, eps, fit in laws]
    best = min(found, key=lambda law: law.residual)
    explained = best.factor * s.max() > 0.5 * r2.max()
    return best if explained else replace(best, residual=np.inf)


def _proportions(a: Array, total: Array) -> tuple[float, float]:
    """The k and ε of total = k·a + ε, least squares of the relative error."""
    design = np.stack([a, np.ones_like(a)], 1) / total[:, None]
    scale = np.sqrt((design**2).sum(0))
    k, eps = np.linalg.lstsq(design / scale, np.ones_like(a), rcond=None)[0] / scale
    return float(k), float(eps)


@dataclass(frozen=True)
class Weights:
    """Bₜ = oldₜ·Bₜ₋₁ + newₜ·fₜ for a stored statistic B and the batches' f.

    Args:
        old: shape (T,); NaN at a step where B was zero, since nothing shows its weight.
        new: shape (T,).
        residual: largest |fit - Bₜ|, relative.
    """

    old: Array
    new: Array
    residual: float


def fit_weights(stored: Array, batches: Array, cancellation: float = 0.0) -> Weights:
    """The two weights of each step, by least squares over channels of the error relative to Bₜ.

    Args:
        stored: B, shape (T+1, C).
        batches: f, shape (T, C).
        cancellation: errors are relative to this share of |Bₜ₋₁| + |fₜ| where Bₜ is smaller, for signed quantities.
            Default: 0.
    """
    stored, batches = stored.astype(np.float64), batches.astype(np.float64)
    old, new, worst = [], [], 0.0
    for before, after, f in zip(stored[:-1], stored[1:], batches, strict=True):
        if not (np.isfinite(before).all() and np.isfinite(after).all()):
            return Weights(np.full(len(batches), np.nan), np.full(len(batches), np.nan), np.inf)
        size = np.maximum(np.abs(after), cancellation * (np.abs(before) + np.abs(f)) + 1e-30)
        design = np.stack([before, f], 1) / size[:, None]
        scale = np.sqrt((design**2).sum(0))
        blank = scale == 0
        scale[blank] = 1.0
        a, b = np.linalg.lstsq(design / scale, after / size, rcond=None)[0] / scale
        worst = max(worst, float((np.abs(a * before + b * f - after) / size).max()))
        old.append(np.nan if blank[0] else float(a))
        new.append(float(b))
    return Weights(np.array(old), np.array(new), worst)
