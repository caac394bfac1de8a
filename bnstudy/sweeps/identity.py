"""What makes a job the job it is: a hash of the declared fields that change its numbers, and of nothing else."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

from bnstudy.batchnorm.conventions import Convention
from bnstudy.training.config import TrainingConfig
from bnstudy.training.keys import Role, keys, lookup

NUMERICS = 3
"""Raised whenever the same configuration begins to give other numbers, so that old jobs are not taken for new ones."""


def training_fields(config: TrainingConfig) -> dict[str, Any]:
    """The fields of a configuration that change a training's numbers, by dotted key.

    They are the keys whose role is NUMBERS and that this training reads (`bnstudy.training.keys`). The accumulated variance
    is not among them (it never touches training, and both are kept), nor is the grouping of seeds. Of an import, they are
    factory, arguments and the digest of the source; what the source itself imports is not looked into.

    Args:
        config: with `device` resolved to "cpu" or "cuda", and what `with_imports` fills in.

    Source: docs/architecture.md, "Jobs and identity".
    """
    fields: dict[str, Any] = {"numerics": NUMERICS}
    for key in keys(TrainingConfig):
        if key.role is Role.NUMBERS and key.reads(config):
            value = lookup(config, key.name)
            fields |= dict(_leaves(key.name, value)) if isinstance(value, dict) else {key.name: value}
    if "port.variance" in fields:
        fields["port.variance"] = Convention.parse(fields["port.variance"]).name  # of an alias, the name
    return dict(sorted(fields.items()))


def _leaves(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    """A nested mapping by dotted keys; lists as text."""
    if isinstance(value, dict):
        for inner, inner_value in value.items():
            yield from _leaves(f"{key}.{inner}", inner_value)
    else:
        yield key, json.dumps(value, sort_keys=True) if isinstance(value, list | tuple) else value


def training_id(config: TrainingConfig) -> str:
    """Twelve hex digits that name a training, whatever its seeds."""
    text = json.dumps(training_fields(config), sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def job_id(training: str, seeds: Sequence[int]) -> str:
    """Name of a job: the training's, and its seeds, as a range where they are one."""
    seeds = sorted(seeds)
    if list(seeds) == list(range(seeds[0], seeds[-1] + 1)):
        return f"{training}-s{seeds[0]}-{seeds[-1]}"
    digest = hashlib.sha256(json.dumps(list(seeds)).encode()).hexdigest()[:8]
    return f"{training}-s{seeds[0]}-{seeds[-1]}-{digest}"
