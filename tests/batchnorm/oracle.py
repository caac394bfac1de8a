"""BatchNorm in float64 NumPy, written from the definitions: what the layers are held against."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

PAIRS = {
    "paper": ("biased", "unbiased"),
    "consistent_unbiased": ("unbiased", "unbiased"),
    "consistent_biased": ("biased", "biased"),
    "inverted": ("unbiased", "biased"),
    "total": ("biased", "total"),
}


def per_channel(x):
    """(N, C, *spatial) -> (C, m)."""
    return np.moveaxis(x, 1, 0).reshape(x.shape[1], -1)


def across(vector, x):
    """(C,) broadcast against (N, C, *spatial)."""
    return np.reshape(vector, (1, -1) + (1,) * (x.ndim - 2))


def normalised(x, mean, var, gamma, beta, eps):
    return across(gamma, x) * (x - across(mean, x)) / np.sqrt(across(var, x) + eps) + across(beta, x)


def variances(x):
    values = per_channel(x)
    m = values.shape[1]
    squares = ((values - values.mean(1, keepdims=True)) ** 2).sum(1)
    return {"biased": squares / m, "unbiased": squares / (m - 1)}


def groups(x, size):
    return [x] if size is None else [x[start : start + size] for start in range(0, len(x), size)]


def backward(x, dy, gamma, eps, normalize):
    """Closed-form gradients (dx, dgamma, dbeta) of one group's training output."""
    values, grad = per_channel(x), per_channel(dy)
    m = values.shape[1]
    sigma = np.sqrt(variances(x)[normalize] + eps)[:, None]
    hat = (values - values.mean(1, keepdims=True)) / sigma
    divisor = m if normalize == "biased" else m - 1
    dx = gamma[:, None] / sigma * (grad - grad.mean(1, keepdims=True) - hat * (grad * hat).sum(1, keepdims=True) / divisor)
    dx = np.moveaxis(dx.reshape(x.shape[1], x.shape[0], *x.shape[2:]), 0, 1)
    return dx, (grad * hat).sum(1), grad.sum(1)


@dataclass
class Oracle:
    """One layer's state, updated batch by batch; a moving average is the weighted sum of its whole history."""

    channels: int
    convention: str = "paper"
    eps: float = 1e-5
    momentum: float | None = 0.1
    size: int | None = None
    steps: list = field(default_factory=list)

    def train(self, x, gamma, beta):
        normalize, _ = PAIRS[self.convention]
        parts = groups(x, self.size)
        self.steps.append([(len(part) / len(x), per_channel(part).mean(1), variances(part)) for part in parts])
        return np.concatenate(
            [normalised(p, per_channel(p).mean(1), variances(p)[normalize], gamma, beta, self.eps) for p in parts]
        )

    def weights(self):
        """(weight of the initial value, weight of every step)."""
        t = len(self.steps)
        if self.momentum is None:
            return (0.0 if t else 1.0), [1 / t] * t
        alpha = self.momentum
        return (1 - alpha) ** t, [alpha * (1 - alpha) ** (t - 1 - i) for i in range(t)]

    def average(self, initial, quantity):
        first, weights = self.weights()
        total = first * np.full(self.channels, float(initial))
        for weight, step in zip(weights, self.steps, strict=True):
            total = total + weight * sum(share * quantity(mean, var) for share, mean, var in step)
        return total

    def ema(self, name):
        mean = self.average(0, lambda mean, var: mean)
        if name != "ema_total":
            return mean, self.average(1, lambda mean, var: var[name.removeprefix("ema_")])
        before, total = np.zeros(self.channels), np.ones(self.channels)
        for t, step in enumerate(self.steps, 1):
            alpha = 1 / t if self.momentum is None else self.momentum
            # what the running mean gives to the steps before, as the sum of squared weights
            squares = alpha / (2 - alpha) if self.momentum is not None else 1 / (t - 1) if t > 1 else np.inf
            now = sum(share * mean for share, mean, _ in step)
            inside = sum(share * (var["biased"] + (mean - now) ** 2) for share, mean, var in step)
            twice = 2 if self.momentum is None and t == 2 else 1  # the first had nothing to be compared with
            total = (1 - alpha) * total + alpha * (inside + twice * (now - before) ** 2 / (1 + squares))
            before = (1 - alpha) * before + alpha * now
        return mean, total

    def evaluate(self, x, gamma, beta, statistic=None):
        mean, var = self.ema(statistic or f"ema_{PAIRS[self.convention][1]}")
        return normalised(x, mean, var, gamma, beta, self.eps)
