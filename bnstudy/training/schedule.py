"""The course of a training, step by step: how many samples a batch has, how many steps there are, and their learning rates.

Planning asks too, so nothing here imports torch.
"""

from __future__ import annotations

import math

from bnstudy.training.config import OptimizerConfig, ScheduleConfig, TrainingConfig

_SCALING = {"linear": 1.0, "sqrt": 0.5, "none": 0.0}


def steps_per_epoch(samples: int, batch_size: int, drop_last: bool) -> int:
    """Batches in one pass over the samples, a last partial one included unless dropped."""
    return samples // batch_size if drop_last else -(-samples // batch_size)


def batch_sizes(samples: int, batch_size: int, drop_last: bool) -> list[int]:
    """Samples in each batch of an epoch."""
    starts = range(0, steps_per_epoch(samples, batch_size, drop_last) * batch_size, batch_size)
    return [min(batch_size, samples - start) for start in starts]


def total_steps(config: TrainingConfig, train_samples: int) -> int:
    """Optimizer steps of a training: `steps` where given, else `epochs` passes over the training split."""
    if config.steps is not None:
        return config.steps
    return config.epochs * steps_per_epoch(train_samples, config.batch_size, config.drop_last)


def learning_rates(optimizer: OptimizerConfig, schedule: ScheduleConfig, batch_size: int, steps: int) -> list[float]:
    """The learning rate of every step.

    lr · (batch_size / reference_batch_size)^p with p = 1, ½, 0 for scaling "linear", "sqrt", "none"; a linear warm-up over
    the first share of the steps; then constant, or half a cosine down to 0 after the last step.

    Args:
        optimizer, schedule: the configuration.
        batch_size: samples a step.
        steps: how many steps there are.

    Returns:
        `steps` numbers.

    Source: Goyal et al. 2017 (linear scaling, warm-up); Loshchilov & Hutter 2017 (cosine).
    """
    peak = optimizer.lr * (batch_size / optimizer.reference_batch_size) ** _SCALING[optimizer.scaling]
    warm = round(schedule.warmup * steps)
    rates = []
    for step in range(steps):
        if step < warm:
            rates.append(peak * (step + 1) / warm)
        elif schedule.name == "cosine":
            rates.append(peak * 0.5 * (1 + math.cos(math.pi * (step - warm) / (steps - warm))))
        else:
            rates.append(peak)
    return rates
