"""YAML and JSON that people write by hand: read as YAML 1.2 reads it, in bounded time and memory.

YAML 1.1, which PyYAML implements, takes `1e-5` for a text, `on` for a truth value and `010` for eight. A few short lines of
nested aliases stand for billions of values, so a text's size, its depth and what it expands to are bounded before anything
is made of it.

Source: YAML 1.2.2, section 10.3 (core schema).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from bnstudy.errors import UserError, shown

LARGEST, DEEPEST, MOST = 2**18, 32, 100_000
"""Bytes of a file, nested levels, and values, the last two with every alias written out."""


class _Loader(yaml.SafeLoader):
    """The core schema: numbers, booleans and null as JSON has them, everything else a text."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012


for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
     list("-+.0123456789")),
):  # fmt: skip
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"(?:{_pattern})\\Z"), _first)


def parse(text: str, place: str) -> Any:
    """The value of a YAML 1.2 text; keys of mappings are texts, as they are written.

    Args:
        text: one document; JSON is YAML.
        place: the file or option it came from, for messages.

    Raises:
        UserError: no YAML, a key twice, or more than the bounds allow.
    """
    if len(text) > LARGEST:
        raise UserError(f"{place}: it is longer than {LARGEST:,} characters; such a text has a few lines")
    if text.lstrip().startswith("{"):
        text = text.replace("\t", " ")  # JSON may be indented with tabs, which PyYAML refuses
    try:
        _check_depth(text, place)
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _check_size(node, place, {})
        return _value(loader, node, place)
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        mark = getattr(error, "problem_mark", None)
        where = "" if mark is None else f", line {mark.line + 1}"
        raise UserError(f"{place}: cannot be read as YAML ({type(error).__name__}{where})") from error


def read_mapping(path: Path) -> dict[str, Any]:
    """A YAML or JSON file that maps names to values.

    Raises:
        UserError: the file cannot be read, is beyond the bounds, or holds something else.
    """
    try:
        with path.open("rb") as file:
            text = file.read(LARGEST + 1).decode("utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as a text ({type(error).__name__})") from error
    content = parse(text, str(path))
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds no mapping from names to values but {shown(content)}")
    return content


def _check_depth(text: str, place: str) -> None:
    """Refuse deep nesting while the text is scanned, before a parser runs out of stack."""
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            raise UserError(f"{place}: it is nested deeper than {DEEPEST} levels; use plain names and values")


def _check_size(node: yaml.Node, place: str, known: dict[int, tuple[int, int] | None]) -> tuple[int, int]:
    """The number of values and of levels that a node stands for with its aliases written out; each node is visited once."""
    found = known.get(id(node), (0, 0))
    if found is None:
        raise UserError(f"{place}: an alias stands for itself; write the values out")
    if found != (0, 0):
        return found
    known[id(node)] = None
    children = [] if isinstance(node, yaml.ScalarNode) else node.value
    parts = [part for child in children for part in (child if isinstance(child, tuple) else (child,))]
    inside = [_check_size(part, place, known) for part in parts]
    size, levels = 1 + sum(size for size, _ in inside), 1 + max((levels for _, levels in inside), default=0)
    if size > MOST or levels > DEEPEST + 1:
        raise UserError(f"{place}: its aliases stand for over {MOST:,} values or {DEEPEST} levels; write the values out")
    known[id(node)] = size, levels
    return size, levels


def _value(loader: _Loader, node: yaml.Node, place: str) -> Any:
    if isinstance(node, yaml.ScalarNode):
        if node.tag == "tag:yaml.org,2002:int":
            return int(node.value, 0 if node.value[:2] in ("0o", "0x") else 10)
        return loader.construct_object(node)
    if node.tag not in (loader.DEFAULT_SEQUENCE_TAG, loader.DEFAULT_MAPPING_TAG):
        raise UserError(f"{place}: {shown(node.tag)} is a type of its own; use plain names and values")
    if isinstance(node, yaml.SequenceNode):
        return [_value(loader, item, place) for item in node.value]
    found: dict[str, Any] = {}
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise UserError(f"{place}: line {key.start_mark.line + 1} has a list or mapping for a key; use names")
        if key.value in found:
            raise UserError(f"{place}: {shown(key.value)} stands there twice; keep one")
        found[key.value] = _value(loader, value, place)
    return found
