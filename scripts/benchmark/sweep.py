"""What a sweep costs: trainings per core-minute against Lightning, a DataLoader loop, and the harness one seed at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from bnstudy.sweeps.config import Config
from bnstudy.training.config import VarianceConfig
from bnstudy.training.data import Dataset, describe, load_dataset
from bnstudy.training.loop import Training
from bnstudy.training.measuring import measure_block
from bnstudy.training.networks import block_size, network_facts
from scripts.benchmark.overhead import job_overhead, planning_time
from scripts.benchmark.report import Benchmark, Row, Target
from scripts.benchmark.rivals import LightningFit, LoaderLoop, Stopwatch, wall_clock
from scripts.benchmark.timing import Clock, Prepare, Ratio, Spread, interleave, ratio, spread

BATCH_SIZES = (2, 4, 8, 16)
SIDES = ("biased", "unbiased")
"""What may normalise a training: two trainings serve the four conventions."""
EPOCHS, CAP = 10, 200
LIGHTNING, LOADER, ALONE = "Lightning", "DataLoader loop", "harness, replicas=1"
WIDE = "harness, 64 seeds, replicas=32"
TARGETS = {16: {LIGHTNING: 15.0, LOADER: 6.0}, 64: {LIGHTNING: 25.0, LOADER: 10.0}}
TIMING = "one thread, CPU time of the process"
METHOD = f"""\
Digits (1,437 images of 8×8), the study's MLP, SGD with momentum (fused), float32, {TIMING}. A turn makes the steps of \
one epoch, at most {CAP}, from fresh weights of new seeds; building models and data is off the clock. "{LIGHTNING}" is \
`Trainer.fit` without progress bar, logger, checkpoints, summary and validation; its start-up and end are off the \
clock too. "{LOADER}" is written by hand over the same loader, in this process. Both have torch's own `nn.BatchNorm1d` \
and the study's optimizer and batches, train one seed after another, and measure nothing. The harness is \
`Training.run_epoch` as a job calls it, half of a turn under each normalising variance, all moving averages kept and \
each batch's metrics worked out. Ratios are medians over interleaved rounds of the ratio within a round."""
SWEEP = f"""\
The sweep: m = 2, 4, 8, 16, four conventions, 16 or 64 seeds in the blocks of `replicas=auto` unless told otherwise. \
Its time is that of an epoch at every batch size: the epoch's steps times the seconds a step and seed. Per convention, \
two trainings of the harness serve four, a rival needs four. "whole jobs" are `measure_block`: {EPOCHS} epochs with \
every measurement of a study, on a quarter of the data, beside the rivals that measure nothing. A job's overhead is \
wall time between outcomes of a warm local worker less that of `measure_block`; planning is wall time of the command."""

Contender = Callable[[Config, Dataset], tuple[Prepare, int]]
"""From a configuration and its data to what is to be timed, and how many steps of one seed a turn of it makes."""
Seconds = Mapping[int, Mapping[str, Sequence[float]]]
"""Seconds a step and seed by batch size, contender and round."""


def benchmark_sweep(rounds: int) -> Benchmark:
    """Time trainings of the sweep by everybody, a job's overhead, and the planning of 1,000 cells that are all done.

    Args:
        rounds: interleaved rounds; a quarter of it for whole jobs.

    Returns:
        Ratios by number of seeds and rival, with their targets.

    Source: docs/architecture.md, "Engines".
    """
    dataset = load_dataset(Config().dataset)
    configs = {m: Config(batch_size=m, device="cpu") for m in BATCH_SIZES}
    clock, start_up = Stopwatch(), list[float]()
    compared: dict[str, Contender] = {**_rivals(clock, start_up), ALONE: partial(blocks, 1, 1)}
    for seeds in TARGETS:
        compared[f"harness, {seeds} seeds"] = partial(blocks, seeds, "auto")
    compared[WIDE] = partial(blocks, 64, 32)
    seconds = time_steps(configs, dataset, compared, rounds, clock)
    rows, times = _comparisons(seconds, dataset), _times(seconds)
    times[LIGHTNING] = {"start-up and end of a fit": spread(start_up[len(BATCH_SIZES) :])}

    quarter = replace(Config().dataset, train_size=len(dataset.train) // 4, test_size=len(dataset.test) // 4)
    smaller = {m: replace(config, dataset=quarter, epochs=EPOCHS) for m, config in configs.items()}
    jobs: dict[str, Contender] = {**_rivals(clock, []), "whole jobs, 16 seeds": partial(whole_jobs, 16)}
    seconds = time_steps(smaller, load_dataset(quarter), jobs, max(2, rounds // 4), clock)
    by_sweep = _sweep(seconds, dataset)
    for rival in (LIGHTNING, LOADER):
        rows.append(
            Row("sweep", f"{rival} / whole jobs, 16 seeds", ratio(by_sweep[rival], by_sweep["whole jobs, 16 seeds"]))
        )
    times |= _times(seconds, ", a quarter of the data")

    overhead, planning = job_overhead(2 * rounds), planning_time(max(1, rounds // 4))
    nothing = [1.0] * len(overhead)
    rows.append(
        Row("local engine", "seconds a job beyond its training", ratio(overhead, nothing), Target(0.3, at_most=True))
    )
    seconds_planned = ratio(planning, [1.0] * len(planning))
    rows.append(Row("1,000 cells, all done", "seconds of `bnstudy plan`", seconds_planned, Target(10.0, at_most=True)))
    return Benchmark("sweep", f"{METHOD}\n\n{SWEEP}", rows, times)


def benchmark_replicas(rounds: int, device: str, most: int = 512, batch_sizes: Sequence[int] = BATCH_SIZES) -> Benchmark:
    """Time 1, 2, 4, … replicas on a device against the rivals there.

    Args:
        rounds: interleaved rounds.
        device: "cuda" or "cpu".
        most: the largest number of replicas. Default: 512.
        batch_sizes: samples a step.

    Returns:
        Ratios by batch size, replicas and rival, without targets.

    Source: docs/method.md, "Replicas and pairing".
    """
    numbers = [1 << power for power in range(most.bit_length())]
    clock = Stopwatch(wall_clock(device))
    compared: dict[str, Contender] = dict(_rivals(clock, []))
    compared |= {f"R = {number}": partial(blocks, number, number) for number in numbers}
    configs = {m: Config(batch_size=m, device=device) for m in batch_sizes}
    dataset = load_dataset(Config().dataset)
    seconds = time_steps(configs, dataset, compared, rounds, clock)
    rows = [
        Row(f"digits MLP, m = {m}", f"{rival} / R = {number}", ratio(found[rival], found[f"R = {number}"]))
        for m, found in seconds.items()
        for number in numbers
        for rival in (LIGHTNING, LOADER)
    ]
    where = torch.cuda.get_device_name() if device == "cuda" else "the CPU"
    method = METHOD.replace(TIMING, f"wall time on {where} with all work done") + " R replicas train as one module."
    return Benchmark(f"replicas_{device}", method, rows, _times(seconds))


def time_steps(
    configs: Mapping[int, Config], dataset: Dataset, contenders: Mapping[str, Contender], rounds: int, clock: Clock
) -> dict[int, dict[str, list[float]]]:
    """Seconds a step and seed of every contender at every batch size; all of them in every round.

    Args:
        configs: by batch size.
        dataset: of all of them, on the CPU.
        contenders: by name.
        rounds: interleaved rounds.
        clock: that times the turns.
    """
    turns: dict[str, Prepare] = {}
    units: dict[str, int] = {}
    for m, config in configs.items():
        capped = replace(config, steps=min(CAP, len(dataset.train) // m))
        for name, contender in contenders.items():
            turns[f"{m} {name}"], units[f"{m} {name}"] = contender(capped, dataset)
    seconds = interleave(turns, rounds, clock)
    return {
        m: {name: [turn / units[f"{m} {name}"] for turn in seconds[f"{m} {name}"]] for name in contenders} for m in configs
    }


def _rivals(clock: Stopwatch, start_up: list[float]) -> dict[str, Contender]:
    def lightning(config: Config, dataset: Dataset) -> tuple[Prepare, int]:
        return LightningFit(config, dataset, clock, start_up), config.steps or 0

    return {LIGHTNING: lightning, LOADER: lambda config, dataset: (LoaderLoop(config, dataset), config.steps or 0)}


def blocks(seeds: int, replicas: int | str, config: Config, dataset: Dataset) -> tuple[Prepare, int]:
    """Train some seeds, block by block, under each normalising variance; each turn from the next seeds."""
    shape = describe(config.dataset)
    facts = network_facts(config.model, shape.input_shape, shape.outputs)
    size = min(seeds, block_size(replace(config, replicas=replicas), facts))
    there = dataset if config.device == "cpu" else load_dataset(config.dataset, config.device)
    sides = [_side(config, side) for side in SIDES]
    first = -seeds

    def prepare() -> Callable[[], None]:
        nonlocal first
        first += seeds
        starts = range(first, first + seeds, size)
        return partial(
            _run_epochs, [Training(side, there, range(start, start + size)) for side in sides for start in starts]
        )

    return prepare, (config.steps or 0) * seeds * len(SIDES)


def _run_epochs(trainings: Sequence[Training]) -> None:
    for training in trainings:
        training.run_epoch()


def whole_jobs(seeds: int, config: Config, dataset: Dataset) -> tuple[Prepare, int]:
    """Train and measure one block of seeds; the normalising variance changes from turn to turn."""
    turn = -1

    def prepare() -> Callable[[], object]:
        nonlocal turn
        turn += 1
        job = replace(_side(config, SIDES[turn % len(SIDES)]), steps=None)
        return partial(measure_block, job, dataset, range(turn * seeds, (turn + 1) * seeds))

    return prepare, config.epochs * (len(dataset.train) // config.batch_size) * seeds


def _side(config: Config, normalize: str) -> Config:
    return replace(config, variance=VarianceConfig(f"normalize_{normalize}", normalize, "unbiased"))


def _sweep(seconds: Seconds, dataset: Dataset) -> dict[str, list[float]]:
    """Seconds of one epoch at every batch size together, by contender and round."""
    names = next(iter(seconds.values()))
    return {
        name: sum(np.asarray(found[name]) * (len(dataset.train) // m) for m, found in seconds.items()).tolist()  # type: ignore
        for name in names
    }


def _comparisons(seconds: Seconds, dataset: Dataset) -> list[Row]:
    by_sweep = _sweep(seconds, dataset)
    minute = [60.0 * len(seconds) / EPOCHS] * len(by_sweep[LIGHTNING])
    rows = [
        Row("sweep", f"{name}: trainings of {EPOCHS} epochs per core-minute", ratio(minute, found))
        for name, found in by_sweep.items()
    ]
    for seeds, targets in TARGETS.items():
        ours = f"harness, {seeds} seeds"
        for rival, bound in targets.items():
            found = ratio(by_sweep[rival], by_sweep[ours])
            rows.append(Row("sweep", f"{rival} / {ours}, per training", found, Target(bound, at_most=False)))
            found = ratio([4 * turn for turn in by_sweep[rival]], [2 * turn for turn in by_sweep[ours]])
            rows.append(Row("sweep", f"{rival} / {ours}, per convention", found, Target(2 * bound, at_most=False)))
        rows.append(Row("sweep", f"{ALONE} / {ours}, per training", ratio(by_sweep[ALONE], by_sweep[ours])))
    for rival in TARGETS[64]:
        rows.append(Row("sweep", f"{rival} / {WIDE}, per training", ratio(by_sweep[rival], by_sweep[WIDE])))
    for m, by_name in seconds.items():
        for rival in TARGETS[16]:
            found = ratio(by_name[rival], by_name["harness, 16 seeds"])
            rows.append(Row(f"m = {m}", f"{rival} / harness, 16 seeds, per training", found))
    return rows


def _times(seconds: Seconds, more: str = "") -> dict[str, dict[str, Spread]]:
    return {
        f"a step of one seed, m = {m}{more}": {name: spread(found) for name, found in by_name.items()}
        for m, by_name in seconds.items()
    }


def _in_seconds(found: Sequence[float]) -> Ratio:
    return ratio(found, [1.0] * len(found))
