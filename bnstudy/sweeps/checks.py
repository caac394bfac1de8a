"""What a cell of a study must satisfy beside its training: seeds, engine, and the study's own keys."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

from bnstudy.errors import UserError, shown
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

_CONTROL = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029]")
_OPTION = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,60}")


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
    for key in ("output_dir", "results_dir"):
        _check_text(key, getattr(config, key))
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
    _check_text("engine.partition", engine.partition)
    for option, value in engine.options.items():
        if not (isinstance(option, str) and _OPTION.fullmatch(option)):
            raise UserError(f"engine.options: {shown(option)} is no option; use long names of sbatch's, such as account")
        if not isinstance(value, str | int | float):
            raise UserError(f"engine.options.{option}: {shown(value)} is no plain value; use a text, a number or true")
        _check_text(f"engine.options.{option}", str(value))
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


def _check_text(key: str, text: str | None) -> None:
    """Refuse what would end a line of a script or of a page; `engine.setup` alone holds lines of shell.

    Raises:
        UserError: one line.
    """
    if text is not None and _CONTROL.search(text):
        raise UserError(f"{key}: {shown(text)} has a line's end or another control character in it; use one without")


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
