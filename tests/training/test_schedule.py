"""Steps against a loop over the samples, learning rates against their formulas."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from bnstudy.training.config import OptimizerConfig, ScheduleConfig, TrainingConfig
from bnstudy.training.schedule import batch_sizes, learning_rates, steps_per_epoch, total_steps


@given(st.integers(1, 500), st.integers(1, 500), st.booleans())
def test_steps_and_their_batches_are_those_of_a_loop_over_the_samples(samples: int, size: int, drop_last: bool) -> None:
    by_hand = [len(range(samples)[start : start + size]) for start in range(0, samples, size)]
    if drop_last and by_hand[-1] < size:
        by_hand.pop()
    assert batch_sizes(samples, size, drop_last) == by_hand
    assert steps_per_epoch(samples, size, drop_last) == len(by_hand)


def test_given_steps_end_a_training_within_or_beyond_its_epochs() -> None:
    config = TrainingConfig(batch_size=32, epochs=3)
    assert total_steps(config, 100) == 9
    assert [total_steps(replace(config, steps=steps), 100) for steps in (5, 20)] == [5, 20]


@pytest.mark.parametrize(
    ("scaling", "batch_size", "factor"),
    [("linear", 8, 0.25), ("linear", 64, 2.0), ("sqrt", 8, 0.5), ("sqrt", 128, 2.0), ("none", 2, 1.0)],
)
def test_the_rate_scales_with_the_batch_size(scaling: str, batch_size: int, factor: float) -> None:
    rates = learning_rates(OptimizerConfig(lr=0.3, scaling=scaling), ScheduleConfig(), batch_size, 5)
    assert rates == pytest.approx([0.3 * factor] * 5, rel=1e-15)


def test_a_warm_up_rises_linearly_to_the_peak_and_a_cosine_falls_from_it() -> None:
    optimizer = OptimizerConfig(lr=1.0, scaling="none")
    rates = learning_rates(optimizer, ScheduleConfig("cosine", 0.2), 32, 10)
    cosine = [(1 + math.cos(math.pi * t / 8)) / 2 for t in range(8)]
    assert rates == pytest.approx([0.5, 1.0, *cosine], rel=1e-12)
    constant = learning_rates(optimizer, ScheduleConfig("constant", 0.5), 32, 8)
    assert constant == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1, 1, 1])


def test_the_cosine_is_torchs_own() -> None:
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.7)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 37)
    expected = []
    for _ in range(37):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    rates = learning_rates(OptimizerConfig(lr=0.7, scaling="none"), ScheduleConfig("cosine"), 32, 37)
    assert rates == pytest.approx(expected, rel=1e-9)


@given(st.integers(1, 200), st.floats(0, 0.99), st.sampled_from(["constant", "cosine"]))
def test_every_step_has_a_rate_above_zero_and_not_above_the_peak(steps: int, warmup: float, name: str) -> None:
    rates = learning_rates(OptimizerConfig(lr=0.1, scaling="none"), ScheduleConfig(name, warmup), 4, steps)
    assert len(rates) == steps
    assert all(0 < rate <= 0.1 * (1 + 1e-12) for rate in rates)
