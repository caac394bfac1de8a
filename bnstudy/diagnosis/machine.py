"""A diagnosis as JSON, and back.

The keys of the object, always all of them and in this order:

- `format`: 1. A reader that does not know the number should not guess.
- `healthy`: whether nothing is wrong.
- `findings`: most important first. Each has `kind` and `title` (see `bnstudy.diagnosis.result.KINDS`), `summary`,
  `evidence` (a list of sentences), `remedy`, `layers` (names), `effect` with its standard error `error`, in the units of
  `metric`; these three are null where the finding has no number of its own.
- `levels`: a row a metric and condition: `metric`, `condition` (see `CONDITIONS`), `value`, `error`, `distance`.
- `terms`: a row a metric and term (see `PATH`): `metric`, `term`, `value`, `error`.
- `layers`: a row a BatchNorm layer in order of execution; columns as `bnstudy.diagnosis.tables.layers_table` has them.
- `setting`: what was asked and on what it ran.
- `columns`: by table, each column's type: "text", "integer", "number", "boolean" or "any".
- `not_finite`: numbers that JSON cannot write. They stand as null in their place; this list has a path and "nan", "inf" or
  "-inf" for each, but not for the NaN of a column of type "number", where every other null is one.

Numbers are written so that they are read back to the last bit. Accuracies are 0 to 1, losses in nats, as everywhere.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from bnstudy.diagnosis.measured import Effect
from bnstudy.diagnosis.result import KINDS, Diagnosis, Finding
from bnstudy.errors import UserError

FORMAT = 1
_TABLES = ("levels", "terms", "layers")
_DTYPES: dict[str, Any] = {"integer": "int64", "number": "float64", "boolean": "bool", "text": str, "any": object}
_SPELLED = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}
Lost = list[tuple[list[Any], str]]


def to_json(diagnosis: Diagnosis) -> str:
    """A diagnosis for machines; the same diagnosis gives the same text.

    Args:
        diagnosis: its setting holds plain values: None, texts, numbers, lists and mappings with text keys.

    Returns:
        ASCII JSON, without a newline at the end; keys as this module's description lists them.

    Raises:
        TypeError: something in the setting is not plain.
    """
    tables: dict[str, pd.DataFrame] = {name: getattr(diagnosis, name) for name in _TABLES}
    types = {name: {str(column): _type(table[column]) for column in table} for name, table in tables.items()}
    columns = {name: [table[column].tolist() for column in table] for name, table in tables.items()}
    rows = {
        name: [dict(zip(types[name], (values[at] for values in columns[name]), strict=True)) for at in range(len(table))]
        for name, table in tables.items()
    }
    content = {
        "format": FORMAT,
        "healthy": diagnosis.healthy,
        "findings": [_told(finding) for finding in diagnosis.findings],
        **rows,
        "setting": diagnosis.setting,
        "columns": types,
    }
    lost: Lost = []
    plain = {key: _plain(value, [key], lost) for key, value in content.items()}
    plain["not_finite"] = [
        (path, spelled)
        for path, spelled in lost
        if not (spelled == "nan" and path[0] in _TABLES and types[path[0]][path[-1]] == "number")
    ]
    return json.dumps(plain, indent=1, allow_nan=False)


def from_json(text: str) -> Diagnosis:
    """Read a diagnosis back: equal to the one that was written, to the last bit; sequences in its setting are lists.

    Args:
        text: as `to_json` writes it.

    Raises:
        UserError: no JSON, no diagnosis, or one of another format.
    """
    try:
        read = json.loads(text)
    except ValueError as error:
        raise UserError(f"diagnosis: no JSON ({error}); the text of a diagnosis.json expected") from error
    if not isinstance(read, dict) or "format" not in read:
        raise UserError("diagnosis: JSON without a key 'format'; the text of a diagnosis.json expected")
    if read["format"] != FORMAT:
        raise UserError(f"diagnosis: format {read['format']!r} is not known to this version of bnstudy; it reads {FORMAT}")
    try:
        for path, spelled in read["not_finite"]:
            place = read
            for key in path[:-1]:
                place = place[key]
            place[path[-1]] = _SPELLED[spelled]
        levels, terms, layers = (_table(read[name], read["columns"][name]) for name in _TABLES)
        findings = tuple(_finding(found) for found in read["findings"])
        return Diagnosis(findings, levels, terms, layers, dict(read["setting"]))
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise UserError(f"diagnosis: damaged ({type(error).__name__}: {error}); write it again with `to_json`") from error


def _told(finding: Finding) -> dict[str, Any]:
    effect = finding.effect
    plain = {"kind": finding.kind, "title": finding.title, "summary": finding.summary, "evidence": finding.evidence,
             "remedy": finding.remedy, "layers": finding.layers}  # fmt: skip
    numbers = (None, None, None) if effect is None else (effect.value, effect.error, effect.metric)
    return plain | dict(zip(("effect", "error", "metric"), numbers, strict=True))


def _finding(read: Mapping[str, Any]) -> Finding:
    if read["kind"] not in KINDS:
        raise ValueError(f"kind {read['kind']!r}")
    effect = None if read["metric"] is None else Effect(read["metric"], read["effect"], read["error"])
    return Finding(read["kind"], read["summary"], tuple(read["evidence"]), read["remedy"], tuple(read["layers"]), effect)


def _plain(value: Any, path: list[Any], lost: Lost) -> Any:
    """A value as JSON has it; what is not finite becomes null and is noted down."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        lost.append((path, "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"))
        return None
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"{'.'.join(map(str, path))}: key {key!r} is no text")
        return {key: _plain(part, [*path, key], lost) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part, [*path, index], lost) for index, part in enumerate(value)]
    return value


def _type(column: pd.Series[Any]) -> str:
    if pd.api.types.is_string_dtype(column.dtype) and not pd.api.types.is_object_dtype(column.dtype):
        return "text"
    return {"i": "integer", "u": "integer", "f": "number", "b": "boolean"}.get(column.dtype.kind, "any")


def _table(rows: list[dict[str, Any]], types: Mapping[str, str]) -> pd.DataFrame:
    columns = {}
    for column, kind in types.items():
        values = [row[column] for row in rows]
        if kind == "number":
            values = [math.nan if value is None else value for value in values]
        columns[column] = pd.Series(values, dtype=_DTYPES[kind])
    return pd.DataFrame(columns, index=pd.RangeIndex(len(rows)))
