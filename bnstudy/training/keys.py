"""The keys of a configuration: what kind of key each one is, declared at its field, and what it means, from the docstrings.

Everything that treats keys differently asks here: a job's identity, what jobs are told, what Weights & Biases is shown.
"""

from __future__ import annotations

import enum
import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_Node = TypeVar("_Node", bound="DataclassInstance")
Reads = Callable[[Any], bool]
"""Says of a configuration whether its training reads a field. Configurations are declared with it, so it knows none."""


class Role(enum.Enum):
    """What a key does; every key has one role.

    Source: docs/architecture.md, "Configuration keys".
    """

    NUMBERS = "changes the numbers of a training, so it belongs to the training's identity wherever it is read"
    SELECTION = "says which seeds and which convention are meant; the training they belong to is the same"
    PRESENTATION = "is about the study: what it asks, shows and keeps; no job sees it"
    PLACE = "says where a job runs and where its files are; the job needs it, its numbers do not depend on it"


def _always(config: Any) -> bool:
    return True


def numbers_where(reads: Reads) -> dict[str, Any]:
    """Metadata of a field that changes numbers only in configurations that read it.

    Args:
        reads: says of a configuration whether its training reads the field.
    """
    return {"role": Role.NUMBERS, "reads": reads}


NUMBERS: Mapping[str, Any] = numbers_where(_always)
SELECTION: Mapping[str, Any] = {"role": Role.SELECTION}
PRESENTATION: Mapping[str, Any] = {"role": Role.PRESENTATION}
PLACE: Mapping[str, Any] = {"role": Role.PLACE}
"""Metadata of `dataclasses.field`. Given to a group, it holds for all its keys that have none of their own."""


@dataclass(frozen=True)
class Key:
    """One key of a configuration.

    Args:
        name: with dots for the groups it is in.
        role: what it does.
        reads: whether a configuration's training reads it; of keys that change numbers.
        type: its type, as written.
        text: what it means, one sentence from its class's docstring.
    """

    name: str
    role: Role
    reads: Reads
    type: str
    text: str


@lru_cache
def keys(kind: type) -> tuple[Key, ...]:
    """All keys of a configuration's class, in its order, those of its groups included.

    Raises:
        TypeError: a field without a role.
    """
    return tuple(_keys(kind, "", {}))


def lookup(config: Any, name: str) -> Any:
    """The value at a dotted key of nested dataclasses."""
    for part in name.split("."):
        config = getattr(config, part)
    return config


def replaced(config: _Node, name: str, value: Any) -> _Node:
    """A copy of nested dataclasses with another value at a dotted key."""
    first, _, rest = name.partition(".")
    return replace(config, **{first: replaced(getattr(config, first), rest, value) if rest else value})


def _keys(kind: type, prefix: str, inherited: Mapping[str, Any]) -> Iterator[Key]:
    texts = _texts(kind)
    for field in fields(kind):
        name, metadata = f"{prefix}{field.name}", field.metadata or inherited
        if isinstance(group := field.default_factory, type) and is_dataclass(group):
            yield from _keys(group, f"{name}.", metadata)
        elif "role" not in metadata:
            raise TypeError(f"{kind.__name__}.{field.name}: no role is declared")
        else:
            yield Key(name, metadata["role"], metadata.get("reads", _always), str(field.type), texts.get(field.name, ""))


def _texts(kind: type) -> dict[str, str]:
    """What the docstrings of a class and its bases say of each field, under "Args:"."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        arguments = inspect.cleandoc(base.__doc__ or "").partition("Args:\n")[2].partition("\n\n")[0]
        for names, text in re.findall(r"^    (\w[\w, ]*): (.*(?:\n {8}.*)*)", arguments, re.MULTILINE):
            found |= dict.fromkeys(names.split(", "), re.sub(r"\s+", " ", text).strip())
    return found
