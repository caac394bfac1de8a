"""What models and data sets of the user's own have in common: arguments, names in tables, and their source's digest."""

from __future__ import annotations

import dataclasses
import json
from typing import TypeVar

from bnstudy.errors import UserError
from bnstudy.factories import source_digest
from bnstudy.training.config import DatasetConfig, ModelConfig, TrainingConfig

_Config = TypeVar("_Config", bound=TrainingConfig)
_Part = TypeVar("_Part", DatasetConfig, ModelConfig)


def refuse_fields(group: str, part: DatasetConfig | ModelConfig) -> None:
    """Refuse the fields of an import on a model or data set of the study's own, which would not read them.

    Args:
        group: "model" or "dataset".
        part: its configuration.

    Raises:
        UserError: one line.
    """
    for key, given in (("factory", part.factory), ("args", part.args)):
        if given:
            raise UserError(
                f"{group}.{key}: {given!r} is nothing to {group} {part.name!r}; use {group}=import with it, under a name of "
                "its own"
            )
    if isinstance(part, DatasetConfig) and not part.scale:
        raise UserError(f"dataset.scale: false is nothing to dataset {part.name!r}; use true, or dataset=import")


def check_fields(group: str, part: DatasetConfig | ModelConfig) -> None:
    """Refuse an import without a factory, or with arguments that are no plain values.

    Args:
        group: "model" or "dataset".
        part: its configuration.

    Raises:
        UserError: one line.
    """
    if part.factory is None:
        raise UserError(f"{group}.factory: null names no function; {group}=import needs {group}.factory=pkg.module:function")
    for name in part.args:
        if not (isinstance(name, str) and name.isidentifier()):
            raise UserError(f"{group}.args: {name!r} is no name of an argument; use {group}.args={{name:value}}")
    try:
        arguments_text(part)
    except (TypeError, ValueError) as error:
        raise UserError(
            f"{group}.args: {part.args!r} has a value that cannot be written down; use numbers, texts, true, false, null, "
            "and lists and mappings of them"
        ) from error


def arguments_text(part: DatasetConfig | ModelConfig) -> str:
    """The arguments of a factory as text, the same for equal ones."""
    return json.dumps(part.args, sort_keys=True)


def with_imports(config: _Config) -> _Config:
    """A configuration whose imports have their names for tables, and the digests of their sources.

    An import that nobody has named is called what its factory is. The digests make a changed source another job; the job's
    process compares them with what it has imported (`check_source`).

    Args:
        config: checked.

    Raises:
        UserError: a factory that is not there.
    """
    return dataclasses.replace(config, model=_resolved("model", config.model), dataset=_resolved("dataset", config.dataset))


def _resolved(group: str, part: _Part) -> _Part:
    if not part.imported or part.factory is None:
        return part
    name = part.factory if part.name == "import" else part.name
    return dataclasses.replace(part, name=name, source=source_digest(f"{group}.factory", part.factory))


def check_source(group: str, part: DatasetConfig | ModelConfig) -> None:
    """Refuse a factory whose source is no longer what the plan saw: its numbers would carry a false name.

    Raises:
        UserError: one line.
    """
    if part.source is not None and part.factory is not None:
        key = f"{group}.factory"
        if source_digest(key, part.factory) != part.source:
            raise UserError(f"{key}: the source of {part.factory!r} has changed since the study was planned; run it again")
