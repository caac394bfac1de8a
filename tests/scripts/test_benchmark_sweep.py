"""The sweep's benchmark: everybody trains the same network on the same batches, and only what should be timed is timed."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bnstudy.sweeps.config import Config
from bnstudy.training.data import Dataset
from bnstudy.training.loop import Training
from scripts.benchmark.overhead import job_overhead, planning_time
from scripts.benchmark.rivals import LightningFit, Stopwatch, lightning_fit, loader_loop, training_parts
from scripts.benchmark.sweep import benchmark_replicas, blocks, time_steps, whole_jobs
from tests.tiny import tiny


@pytest.fixture
def config() -> Config:
    return tiny(steps=5)


def weights(model: nn.Module) -> dict[str, Tensor]:
    """Everything learned and both running statistics."""
    return {name: value for name, value in model.state_dict().items() if "num_batches" not in name}


def test_a_stopped_clock_stands_still() -> None:
    now = [10.0]
    clock = Stopwatch(lambda: now[0])
    now[0] = 11.0
    clock.stop()
    now[0] = 15.0
    clock.stop()
    assert clock() == 11.0
    assert clock.go_on() == 4.0
    assert clock.go_on() == 0.0
    now[0] = 17.0
    assert clock() == 13.0


def test_lightning_and_the_loader_loop_train_the_same_network_to_the_bit(config: Config, digits: Dataset) -> None:
    pytest.importorskip("lightning")
    one, other = training_parts(config, digits, 3), training_parts(config, digits, 3)
    loader_loop(*one, config)
    assert lightning_fit(*other, config, Stopwatch()) > 0
    for name, value in weights(one[0]).items():
        assert torch.equal(value, weights(other[0])[name]), name


def test_rivals_and_the_harness_train_the_same_network_on_the_same_batches(config: Config, digits: Dataset) -> None:
    model, optimizer, loader = training_parts(config, digits, 3)
    loader_loop(model, optimizer, loader, config)
    ours = Training(config, digits, [3])
    ours.run_epoch()
    assert ours.step == 5
    for parameter, expected in zip(ours.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(parameter.reshape(expected.shape), expected, rtol=1e-4, atol=1e-6)


def test_lightnings_start_up_is_off_the_clock(config: Config, digits: Dataset) -> None:
    pytest.importorskip("lightning")
    ticks: list[float] = []

    def counting() -> float:  # every look at the clock is a second
        ticks.append(1.0)
        return float(len(ticks))

    clock, start_up = Stopwatch(counting), list[float]()
    work = LightningFit(config, digits, clock, start_up)()
    before = clock()
    work()
    assert clock() - before + sum(start_up) == len(ticks) - 1
    assert len(start_up) == 1


def test_a_unit_is_a_step_of_one_seed(config: Config, digits: Dataset) -> None:
    prepare, units = blocks(4, 2, config, digits)
    trained: list[Training] = prepare().args[0]  # type: ignore[attr-defined]
    assert [training.seeds for training in trained] == [[0, 1], [2, 3], [0, 1], [2, 3]]
    assert [training.config.variance.normalize for training in trained] == ["biased"] * 2 + ["unbiased"] * 2
    assert units == 5 * 4 * 2
    again: list[Training] = prepare().args[0]  # type: ignore[attr-defined]
    assert again[0].seeds == [4, 5]

    prepare, units = whole_jobs(2, replace(config, epochs=3), digits)
    assert units == 3 * 13 * 2
    jobs: list[Any] = [prepare().args[0] for _ in range(2)]  # type: ignore[attr-defined]
    assert [job.variance.normalize for job in jobs] == ["biased", "unbiased"]
    assert jobs[0].steps is None


def test_every_contender_is_timed_at_every_batch_size(config: Config, digits: Dataset) -> None:
    configs = {m: replace(config, batch_size=m) for m in (8, 26)}
    seconds = time_steps(configs, digits, {"one": partial(blocks, 1, 1), "two": partial(blocks, 2, 2)}, 2, Stopwatch())
    assert {m: {name: len(found) for name, found in by_name.items()} for m, by_name in seconds.items()} == {
        8: {"one": 2, "two": 2},
        26: {"one": 2, "two": 2},
    }


@pytest.mark.slow
def test_replicas_on_a_device_are_compared_with_both_rivals_there() -> None:
    pytest.importorskip("lightning")
    found = benchmark_replicas(1, "cpu", most=3, batch_sizes=(64,))
    assert [row.measured for row in found.rows] == [
        f"{rival} / R = {number}" for number in (1, 2) for rival in ("Lightning", "DataLoader loop")
    ]
    assert "wall time on the CPU" in found.method


@pytest.mark.slow
def test_a_fabricated_study_is_planned_as_all_done() -> None:
    assert len(planning_time(1, batch_sizes=(2, 4), rates=(0.1, 0.2))) == 1


@pytest.mark.slow
def test_overhead_is_counted_for_every_job_but_the_first() -> None:
    assert len(job_overhead(2)) == 2
