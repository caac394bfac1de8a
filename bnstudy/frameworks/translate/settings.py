"""BatchNorm settings that no state_dict holds, in a small YAML file beside the weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor, nn

from bnstudy.batchnorm.layers import ConventionBatchNorm
from bnstudy.errors import UserError, shown
from bnstudy.frameworks.translate.values import measured_values
from bnstudy.yaml12 import read_mapping


@dataclass(frozen=True)
class Settings:
    """What a checkpoint's layers were built and trained with; None or absent where it is not known.

    Args:
        convention: name of a framework or convention.
        eps: ε, one number or one by layer name.
        momentum: α, the weight of the new batch; "cumulative" for the average over all batches.
        batch_size: N, or "varying" where it was not constant.
        steps: t, the number of batches.
        values: m by layer name.
    """

    convention: str | None = None
    eps: float | dict[str, float] | None = None
    momentum: float | str | None = None
    batch_size: int | str | None = None
    steps: int | None = None
    values: dict[str, int] | None = None


def settings_path(weights: Path) -> Path:
    """model.safetensors → model.batchnorm.yaml."""
    return weights.with_suffix(".batchnorm.yaml")


def settings_of(model: nn.Module, batch: Tensor | None = None) -> Settings:
    """Read the settings of a torch model, to be saved beside its weights.

    Args:
        model: with torch's or bnstudy's BatchNorm layers.
        batch: an input of the training batch size; with it, m is measured for every layer. Default: None.

    Raises:
        UserError: no BatchNorm layer, or layers that differ in convention or momentum.
    """
    found = {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)}
    if not found:
        raise UserError("model: it has no BatchNorm layers, and so no settings")
    conventions = {layer.convention.name if isinstance(layer, ConventionBatchNorm) else "torch" for layer in found.values()}
    momenta = {"cumulative" if layer.momentum is None else float(layer.momentum) for layer in found.values()}
    for key, values in (("convention", conventions), ("momentum", momenta)):
        if len(values) > 1:
            raise UserError(
                f"{key}: layers differ ({', '.join(sorted(map(str, values)))}); they must be equal to be translated"
            )
    measured = None if batch is None else measured_values(model, batch)
    size = None if batch is None else batch.size(0)
    eps = {name: float(layer.eps) for name, layer in found.items()}
    return Settings(conventions.pop(), _compact(eps), next(iter(momenta)), size, None, measured)


def read(path: Path) -> Settings:
    """Read a settings file; empty settings where there is none.

    Raises:
        UserError: no YAML mapping, an unknown key, or a value of the wrong kind.
    """
    if not path.exists():
        return Settings()
    content = read_mapping(path)
    for key, value in content.items():
        if key not in _KEYS:
            raise UserError(f"{path}: key {shown(key)} is unknown; use {', '.join(_KEYS)}")
        accepts, expected = _KEYS[key]
        if value is not None and not accepts(value):
            raise UserError(f"{path}: {key} {shown(value)} is no {expected}")
    settings = Settings(**content)
    if settings.momentum is not None:
        parse_momentum(settings.momentum, str(path))
    return settings


def parse_momentum(value: object, place: str) -> float | None:
    """α from a number, a numeral or "cumulative" (None).

    Raises:
        UserError: none of them, or not in (0, 1].
    """
    if value == "cumulative":
        return None
    try:
        alpha = float(str(value))
    except ValueError:
        alpha = math.nan
    if not 0 < alpha <= 1:
        raise UserError(
            f"{place}: momentum {shown(value)} is no weight of the new batch; use a number in (0, 1], or 'cumulative'"
        )
    return alpha


def dump(settings: Settings, title: str) -> str:
    """The text of a settings file.

    Args:
        settings: what is known; the rest is left out.
        title: the weights' file name, for the heading.
    """
    known = {key: getattr(settings, key) for key in _KEYS if getattr(settings, key) is not None}
    if isinstance(settings.eps, dict):
        known["eps"] = _compact(settings.eps)
    heading = (
        f"# BatchNorm settings of {title} that no state_dict holds.\n"
        "# momentum is the weight of the new batch; values are those per channel, m, in training.\n"
    )
    return heading + yaml.safe_dump(known, sort_keys=False)


def _compact(eps: Mapping[str, float]) -> float | dict[str, float]:
    values = set(eps.values())
    return values.pop() if len(values) == 1 else dict(eps)


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _epsilon(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < math.inf


_KEYS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "convention": (lambda value: isinstance(value, str), "name of a framework or convention"),
    "eps": (
        lambda value: all(map(_epsilon, value.values() if isinstance(value, dict) else [value])),
        "ε; use a number of 0 or more, or one for each layer",
    ),
    "momentum": (lambda value: not isinstance(value, (dict, list)), "weight of the new batch"),
    "batch_size": (lambda value: _whole(value) or value == "varying", "number of samples; use a whole number, or 'varying'"),
    "steps": (_whole, "number of batches; use a whole number of 0 or more"),
    "values": (lambda value: isinstance(value, dict), "mapping; give m for each layer"),
}
"""What each key of a settings file takes."""
