"""What one run of the mirror holds, and its name."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

PROJECT = "bnstudy"
"""W&B project of the mirror; $WANDB_PROJECT names another when runs are sent."""
_LONGEST = 128
_LONGEST_ID = 82
"""W&B calls a run's table "run-ID-KEY", in 128 characters at most; of our keys the longest takes 41."""


@dataclass(frozen=True)
class MirroredRun:
    """One (cell, convention, seed) of a study as W&B shows it; everything in it comes from the store.

    Args:
        id: deterministic, from `run_id`.
        name: for people.
        group: the cell; conventions meet in it.
        job_type: the convention.
        tags: the study.
        config: flat and complete.
        history: a row an epoch, with `epoch` and `step`.
        summary: the last row, the decomposition of the gap and every statistic's metrics.
        tables: columns and rows by key, on one run of a training only.
        bars: title and [label, value] rows of bar charts by key, on that run only.
    """

    id: str
    name: str
    group: str
    job_type: str
    tags: tuple[str, ...]
    config: dict[str, Any]
    history: list[dict[str, Any]]
    summary: dict[str, Any]
    tables: dict[str, tuple[list[str], list[list[Any]]]] = field(default_factory=dict)
    bars: dict[str, tuple[str, list[list[Any]]]] = field(default_factory=dict)

    def digest(self) -> str:
        """Hash of all content: a run is written again where it differs from what was written before."""
        content = [vars(self)[name] for name in self.__dataclass_fields__]
        return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:16]


def run_id(study: str, training: str, convention: str, seed: int) -> str:
    """The W&B id of a run: the same whenever and wherever it is written, so that nothing is there twice."""
    return short(f"{study}-{training}-{convention}-s{seed}", _LONGEST_ID)


def short(text: str, longest: int = _LONGEST) -> str:
    """A text cut to what W&B takes as id, name or group, a hash telling apart what the cut makes equal."""
    if len(text) <= longest:
        return text
    return f"{text[: longest - 9]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
