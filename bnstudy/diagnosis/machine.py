"""A diagnosis as JSON, and back.

The keys of the object, always all of them and in this order:

- `format`: 1. A reader that does not know the number should not guess.
- `healthy`: whether nothing is wrong.
- `findings`: most important first. Each has `kind` and `title` (see `bnstudy.diagnosis.result.KINDS`), `summary`,
  `evidence` (a list of sentences), `remedy`, `layers` (names), `effect` with its standard error `error`, in the units of
  `metric`; these three are null where the finding has no number of its own.
- `levels`: a row a metric and condition: `metric`, `condition` (see `CONDITIONS`), `value`, `error`, `distance`.
- `terms`: a row a metric and term: `metric`, `term`, `value`, `error`; bessel, lag, pooling and noise sum to gap.
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

from bnstudy.diagnosis.result import KINDS, Diagnosis, Finding
from bnstudy.errors import UserError

FORMAT = 1
_TABLES = ("levels", "terms", "layers")
_TYPES = {"i": "integer", "u": "integer", "f": "number", "b": "boolean"}
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
    findings = [
        {"kind": one.kind, "title": one.title, "summary": one.summary, "evidence": one.evidence, "remedy": one.remedy,
         "layers": one.layers, "effect": one.effect, "error": one.error, "metric": one.metric}
        for one in diagnosis.findings
    ]  # fmt: skip
    tables = {name: getattr(diagnosis, name) for name in _TABLES}
    lost: Lost = []
    plain = {
        "findings": _plain(findings, ["findings"], lost),
        **{name: _rows(table, name, lost) for name, table in tables.items()},
        "setting": _plain(diagnosis.setting, ["setting"], lost),
        "columns": {name: {str(column): _type(table[column]) for column in table} for name, table in tables.items()},
        "not_finite": lost,
    }
    return json.dumps({"format": FORMAT, "healthy": diagnosis.healthy} | plain, indent=1, allow_nan=False)


def from_json(text: str) -> Diagnosis:
    """Read a diagnosis back: equal to the one that was written, to the last bit; sequences in its setting are lists.

    Args:
        text: as `to_json` writes it.

    Returns:
        The diagnosis.

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
            _put(read, path, _SPELLED[spelled])
        findings = tuple(_finding(one) for one in read["findings"])
        levels, terms, layers = (_table(read[name], read["columns"][name]) for name in _TABLES)
        setting = dict(read["setting"])
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise UserError(f"diagnosis: damaged ({type(error).__name__}: {error}); write it again with `to_json`") from error
    return Diagnosis(findings, levels, terms, layers, setting)


def _plain(value: Any, path: list[Any], lost: Lost) -> Any:
    """A value as JSON has it; what is not finite becomes null and is noted down."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        lost.append((path, "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"))
        return None
    if isinstance(value, Mapping):
        return {key: _plain(one, [*path, key], lost) for key, one in value.items() if _checked(key, path)}
    if isinstance(value, list | tuple):
        return [_plain(one, [*path, index], lost) for index, one in enumerate(value)]
    return value


def _checked(key: Any, path: list[Any]) -> bool:
    if not isinstance(key, str):
        raise TypeError(f"{'.'.join(map(str, path))}: key {key!r} is no text")
    return True


def _rows(table: pd.DataFrame, name: str, lost: Lost) -> list[dict[str, Any]]:
    columns = [(str(column), table[column].tolist(), _type(table[column])) for column in table]
    rows: list[dict[str, Any]] = []
    for index in range(len(table)):
        row = {}
        for column, values, kind in columns:
            missing: Lost = []
            row[column] = _plain(values[index], [name, index, column], missing)
            lost += [one for one in missing if not (kind == "number" and one[1] == "nan")]
        rows.append(row)
    return rows


def _type(column: pd.Series[Any]) -> str:
    if pd.api.types.is_string_dtype(column.dtype) and not pd.api.types.is_object_dtype(column.dtype):
        return "text"
    return _TYPES.get(column.dtype.kind, "any")


def _put(read: Any, path: list[Any], value: float) -> None:
    for key in path[:-1]:
        read = read[key]
    read[path[-1]] = value


def _finding(read: Mapping[str, Any]) -> Finding:
    if read["kind"] not in KINDS:
        raise ValueError(f"kind {read['kind']!r}")
    return Finding(
        read["kind"], read["summary"], tuple(read["evidence"]), read["remedy"], tuple(read["layers"]),
        read["effect"], read["error"], read["metric"],
    )  # fmt: skip


def _table(rows: list[dict[str, Any]], types: Mapping[str, str]) -> pd.DataFrame:
    columns = {}
    for column, kind in types.items():
        values = [row[column] for row in rows]
        if kind == "number":
            values = [math.nan if value is None else value for value in values]
        columns[column] = pd.Series(values, dtype=_DTYPES[kind])
    return pd.DataFrame(columns, index=pd.RangeIndex(len(rows)))
