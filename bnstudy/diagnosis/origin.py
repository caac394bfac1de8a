"""How a diagnosis was made, as pairs of a name and its texts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from bnstudy.analysis.figures.units import metric_of, plural
from bnstudy.diagnosis.account import Level, change_text, level_text

_TOLD = frozenset({
    "command", "model", "parameters", "metric", "direction", "batches", "samples", "batch_size", "evaluation_samples",
    "passes", "swap_passes", "seconds", "device", "threads", "seed", "versions", "remedies",
})  # fmt: skip


def origin(setting: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """What a reader needs to make the diagnosis again: command, model, data, cost, seed, machine, libraries.

    Args:
        setting: of a diagnosis; what it lacks is left out, and keys that are not known are shown as they are.
    """
    versions = setting.get("versions") or {}
    facts = [
        ("Command", [_text(setting, "command")]),
        ("Model", [_model(setting)]),
        ("Metric", [_metric(setting)]),
        ("Data", [_data(setting)]),
        ("Evaluation data", [_counted(setting, "evaluation_samples", "sample")]),
        ("Cost", [_cost(setting)]),
        ("Device", [_joined(_text(setting, "device"), _counted(setting, "threads", "thread"))]),
        ("Seed", [_text(setting, "seed")]),
        ("Libraries", [", ".join(f"{name} {number}" for name, number in versions.items())]),
        *((str(key).replace("_", " "), [str(value)]) for key, value in setting.items() if key not in _TOLD),
    ]
    return [(name, kept) for name, texts in facts if (kept := [text for text in texts if text])]


def remedies(setting: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """The remedies that were tried, each as its file and what it gained on held-out batches.

    Args:
        setting: of a diagnosis, with `remedies` as the command records them.
    """
    return [(str(made.get("file", "not written")), _remedy(made)) for made in setting.get("remedies") or []]


def _remedy(made: Mapping[str, Any]) -> list[str]:
    lines = ["written" if made.get("written") else "not written"]
    for row in made.get("gains") or []:
        name = str(row["metric"])
        before, after = (level_text(Level(float(row[side]), math.nan), name) for side in ("before", "after"))
        better = "change" if row.get("direction") is None else "gain"
        gain = change_text(Level(float(row["gain"]), float(row["error"])), name)
        lines.append(f"{metric_of(name).label}: {before} to {after}, {better} {gain}")
    return [*lines, *(str(note) for note in made.get("notes") or [])]


def _text(setting: Mapping[str, Any], key: str) -> str:
    value = setting.get(key)
    return "" if value is None else str(value)


def _counted(setting: Mapping[str, Any], key: str, noun: str) -> str:
    value = setting.get(key)
    return plural(value, noun) if isinstance(value, int) else ""


def _joined(*texts: str) -> str:
    return ", ".join(text for text in texts if text)


def _model(setting: Mapping[str, Any]) -> str:
    return _joined(_text(setting, "model"), _counted(setting, "parameters", "parameter"))


def _metric(setting: Mapping[str, Any]) -> str:
    name, direction = _text(setting, "metric"), setting.get("direction")
    better = f"{direction} is better" if direction else "which side is better was not said"
    return f"{metric_of(name).label}; {better}" if name else ""


def _data(setting: Mapping[str, Any]) -> str:
    size = setting.get("batch_size")
    return _joined(_counted(setting, "batches", "batch") + (f" of {size}" if size else ""),
                   _counted(setting, "samples", "sample"))  # fmt: skip


def _cost(setting: Mapping[str, Any]) -> str:
    passes = setting.get("passes")
    swaps, seconds = setting.get("swap_passes"), setting.get("seconds")
    said = [
        f"{passes} forward passes over the batches" if isinstance(passes, int) else "",
        f"{swaps} of single batches for the swaps" if swaps else "",
        f"{seconds:.1f} s" if isinstance(seconds, int | float) else "",
    ]
    return _joined(*said)
