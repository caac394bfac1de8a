"""What makes a job the job it is: a hash of the declared fields that change its numbers, and of nothing else."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

from bnstudy.batchnorm.conventions import Convention
from bnstudy.sweeps.config import Config

NUMERICS = 2
"""Raised whenever the same configuration begins to give other numbers, so that old jobs are not taken for new ones."""

_NOT_NUMBERS = (
    "name",
    "scale",
    "seeds",
    "engine",
    "tracking",
    "output_dir",
    "results_dir",
    "retry_failed",
    "report",
    "replicas",
    "study",
)
_SYNTHETIC = {"gaussian": ("samples", "dimension", "noise"), "friedman1": ("samples", "noise")}
_UNUSED_BY = {"sgd": ("betas", "eps"), "adamw": ("momentum", "nesterov")}


def training_fields(config: Config) -> dict[str, Any]:
    """The fields of a configuration that change a training's numbers, by dotted key.

    The accumulated variance is not among them (it never touches training, and both are kept), nor the grouping of seeds, nor
    fields that the chosen data set, model or optimizer does not read. Of an import, factory, arguments and the digest of the
    source are; what the source itself imports is not looked into.

    Args:
        config: with `device` resolved to "cpu" or "cuda", and what `with_imports` fills in.
    """
    fields = {key: value for key, value in dataclasses.asdict(config).items() if key not in _NOT_NUMBERS}
    flat: dict[str, Any] = {"numerics": NUMERICS}
    for key, value in fields.items():
        if isinstance(value, dict):
            flat |= {f"{key}.{inner}": inner_value for inner, inner_value in value.items()}
        else:
            flat[key] = value
    unused = {"dataset.root", "dataset.download", "variance.name", "variance.accumulate"}
    unused |= _unused_of_imports(config)
    wanted = _SYNTHETIC.get(config.dataset.name, ())
    if not config.variance.rescaled:
        unused.add("variance.rescaled")  # younger than many a job: at its default it is not in their names
    if config.port.variance is None:
        unused |= {f"port.{field}" for field in ("variance", "epochs", "lr_factor")}
    else:
        flat["port.variance"] = Convention.parse(config.port.variance).name  # of an alias, the name
    unused |= {f"dataset.{field}" for field in ("samples", "dimension", "noise") if field not in wanted}
    unused |= {f"optimizer.{field}" for field in _UNUSED_BY[config.optimizer.name]}
    if config.optimizer.weight_decay == 0:
        unused.add("optimizer.decay_norm")
    if config.optimizer.scaling == "none":
        unused.add("optimizer.reference_batch_size")
    if config.model.architecture == "torchvision":
        unused |= {"model.depth", "model.width"}
    if config.model.norm != "batch":
        unused |= {"variance.normalize", "norm_batch_size", "momentum", "probe_batches"}
    if config.model.norm == "none":
        unused.add("eps")
    if config.steps is not None:
        unused.add("epochs")
    kept = {key: value for key, value in flat.items() if key not in unused}
    for key in ("dataset.args", "model.args"):
        if key in kept:
            kept |= dict(_leaves(key, kept.pop(key)))
    return dict(sorted(kept.items()))


def _unused_of_imports(config: Config) -> set[str]:
    """Fields that only imports read, where there is none, and fields that imports do not read."""
    unused: set[str] = set()
    if config.model.imported:
        unused |= {"model.depth", "model.width"}
    else:
        unused |= {"model.factory", "model.args", "model.source"}
    if not config.dataset.imported:
        unused |= {"dataset.factory", "dataset.args", "dataset.scale", "dataset.source"}
    return unused


def _leaves(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    """A nested mapping by dotted keys; lists as text."""
    if isinstance(value, dict):
        for inner, inner_value in value.items():
            yield from _leaves(f"{key}.{inner}", inner_value)
    else:
        yield key, json.dumps(value, sort_keys=True) if isinstance(value, list | tuple) else value


def training_id(config: Config) -> str:
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
