"""What a configuration can say: every key with its type, default and meaning, and the choices of every group."""

from __future__ import annotations

import dataclasses
import inspect
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from bnstudy.assets import config_folder
from bnstudy.sweeps.config import Config

_ENTRY = re.compile(r"^    (\w[\w, ]*): (.*)$")
_EXAMPLES = """\
bnstudy run +experiments=quick                                a study of experiments/
bnstudy run -m model=mlp,resnet8 batch_size=2,4 seeds=8       a cell for each combination
bnstudy run +experiments=quick seeds=16 scale=full            a study with other values
bnstudy run --config-dir mine +experiments=own                a study of your own, mine/experiments/own.yaml
bnstudy run model=resnet8 --cfg job                           what would be composed"""


@dataclass(frozen=True)
class Key:
    """One key of the configuration.

    Args:
        name: with dots, as it is overridden.
        kind: its type, as the schema declares it.
        default: its value where nothing else is said.
        meaning: what it does, from the docstring of its section.
    """

    name: str
    kind: str
    default: Any
    meaning: str


def keys(section: Any = None, prefix: str = "") -> Iterator[Key]:
    """Every key that holds a value, section after section; those of the top level come first."""
    section = Config() if section is None else section
    meanings = _meanings(type(section))
    fields = dataclasses.fields(section)
    for field in fields:
        value = getattr(section, field.name)
        if not dataclasses.is_dataclass(value):
            yield Key(f"{prefix}{field.name}", str(field.type), value, meanings.get(field.name, ""))
    for field in fields:
        if dataclasses.is_dataclass(value := getattr(section, field.name)):
            yield from keys(value, f"{prefix}{field.name}.")


def sections() -> list[str]:
    """Keys that hold other keys."""
    return [name for name, value in vars(Config()).items() if dataclasses.is_dataclass(value)]


def groups() -> dict[str, list[str]]:
    """Groups of conf/ and their choices."""
    folders = sorted(path for path in config_folder().iterdir() if path.is_dir())
    return {folder.name: sorted(file.stem for file in folder.glob("*.yaml")) for folder in folders}


def page(width: int) -> str:
    """Examples, groups and keys, for the help of `run` and `plan`.

    Args:
        width: columns of the terminal.
    """
    lines = ["Examples:", *(f"  {line}" for line in _EXAMPLES.splitlines()), ""]
    lines += ["Groups, each with its choices; `bnstudy run model=resnet8`:"]
    for name, choices in groups().items():
        plus = "+" if name == "experiments" else ""
        lines += _row(f"{plus}{name}=", ", ".join(choices), 16, width)
    lines += ["", "Keys, each with its default; `bnstudy run batch_size=8`:"]
    for key in keys():
        meaning = re.sub(r"\bNone\b", "null", key.meaning).rstrip(".")
        lines += _row(f"{key.name}={_written(key.default)}", meaning, 34, width)
    return "\n".join(lines) + "\n"


def completions(word: str) -> list[str]:
    """Overrides that begin with `word`: keys and groups with their `=`, or the values of one of them."""
    name, given, values = word.partition("=")
    choices = groups()
    if not given:
        words = [f"{key.name}=" for key in keys()] + [f"{group}=" for group in choices if group != "experiments"]
        return sorted(text for text in [*words, "+experiments="] if text.startswith(word))
    before, comma, last = values.rpartition(",")
    kinds = {key.name: key.kind for key in keys()}
    possible = choices.get(name.lstrip("+"), ["false", "true"] if kinds.get(name) == "bool" else [])
    return [f"{name}={before}{comma}{choice}" for choice in possible if choice.startswith(last)]


def _meanings(kind: type) -> dict[str, str]:
    """What the docstring of a section, and those of the classes it extends, say of each key."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__[:-1]):
        names: list[str] = []
        for line in (inspect.getdoc(base) or "").partition("Args:")[2].splitlines():
            if entry := _ENTRY.match(line):
                names = entry[1].split(", ")
                found |= dict.fromkeys(names, entry[2])
            elif line.strip():
                found |= {name: f"{found[name]} {line.strip()}" for name in names}
    return found


def _written(value: Any) -> str:
    """A default as it would be typed."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list):
        return f"[{','.join(map(_written, value))}]"
    return "{}" if value == {} else str(value)


def _row(left: str, right: str, column: int, width: int) -> list[str]:
    """Two columns, the right one wrapped; a long left one stands on a line of its own."""
    lines = textwrap.wrap(right, max(width - column - 4, 20)) or [""]
    first = (
        [f"  {left:<{column}}  {lines[0]}".rstrip()]
        if len(left) <= column
        else [f"  {left}", *_row("", lines[0], column, width)]
    )
    return [*first, *(f"{'':<{column + 4}}{line}" for line in lines[1:])]
