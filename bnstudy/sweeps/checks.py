"""What a cell of a study must satisfy beside its training: seeds, engine, and the study's own keys."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from bnstudy.errors import UserError
from bnstudy.names import check_name
from bnstudy.sweeps.config import Config, EngineConfig
from bnstudy.sweeps.engines import ENGINES
from bnstudy.training.checks import check
from bnstudy.training.data import DatasetShape

_CHOICES = {
    "scale": ("standard", "full"),
    "tracking": ("offline", "online", "disabled"),
}


MOST_SEEDS = 10_000
"""Seeds of a cell; more are a slip of the keyboard, and would fill the memory before anything is checked."""


def check_cell(config: Config) -> DatasetShape:
    """Refuse a cell that cannot run; nothing is loaded or written.

    Returns:
        The data set's shape.

    Raises:
        UserError: one line with the key, its value and what would be accepted.
    """
    for key, choices in _CHOICES.items():
        if (value := getattr(config, key)) not in choices:
            raise UserError(f"{key}: {value!r} is unknown; use {' or '.join(map(repr, choices))}")
    check_name("name", config.name)
    for key in ("output_dir", "results_dir"):
        if not (value := getattr(config, key)).strip():
            raise UserError(f"{key}: {value!r} is no folder; use a path, or . for the current one")
    check_name("variance.name", config.variance.name)
    for group, part in (("model", config.model), ("dataset", config.dataset)):
        check_name(f"{group}.name", part.name, part.factory)
    check_engine(config.engine)
    seed_list(config.seeds)
    return check(config)


def check_engine(engine: EngineConfig) -> None:
    """Refuse an engine that there is not, or that could not take a job.

    Raises:
        UserError: one line with the key, its value and what would be accepted.
    """
    if engine.name not in ENGINES:
        raise UserError(f"engine.name: {engine.name!r} is unknown; use {' or '.join(map(repr, ENGINES))}")
    for key in ("threads", "time"):
        if (value := getattr(engine, key)) < 1:
            raise UserError(f"engine.{key}: {value} is not positive; use a number above 0")
    if engine.workers is not None and engine.workers < 1:
        raise UserError(f"engine.workers: {engine.workers} is below 1; use 1 or more, or null")
    if engine.memory is not None and not 0 < engine.memory < math.inf:
        raise UserError(f"engine.memory: {engine.memory} is not positive; use GB above 0, or null")
    if engine.gpus_per_job is not None and not 0 <= engine.gpus_per_job < math.inf:
        raise UserError(f"engine.gpus_per_job: {engine.gpus_per_job} is negative; use 0 or more, or null")
    if ENGINES[engine.name].whole_gpus and (engine.gpus_per_job or 0) % 1:
        raise UserError(
            f"engine.gpus_per_job: {engine.gpus_per_job} is no whole number; {engine.name} gives a job whole GPUs"
        )


def seed_list(seeds: Any) -> list[int]:
    """The seeds that `seeds` stands for: a number R gives 0…R-1, a list gives itself.

    Raises:
        UserError: not a positive number or a list of different numbers ≥ 0.
    """
    if isinstance(seeds, int) and seeds > MOST_SEEDS:
        raise UserError(f"seeds: {seeds} are more than the {MOST_SEEDS:,} that a cell may have; use fewer")
    if isinstance(seeds, int) and not isinstance(seeds, bool) and seeds >= 1:
        return list(range(seeds))
    if isinstance(seeds, Sequence) and not isinstance(seeds, str) and len(seeds) > 0:
        plain = all(isinstance(seed, int) and not isinstance(seed, bool) and 0 <= seed < 2**32 for seed in seeds)
        if plain and len(set(seeds)) == len(seeds):
            return list(seeds)
    raise UserError(f"seeds: {seeds!r} names no seeds; use a number R ≥ 1 for 0…R-1, or a list of different numbers ≥ 0")
