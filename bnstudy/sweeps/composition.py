"""From Hydra's configuration to ours: composed once per choice of groups, typed, with errors a user can act on."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Iterable, Sequence
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException, ValidationError

from bnstudy.errors import UserError
from bnstudy.sweeps.config import Config

_OPEN = ("engine.options", "study.family", "model.args", "dataset.args")  # what a schema cannot list


def register_resolvers() -> None:
    """Let YAML say `${scaled:16,64}`: the first where `scale` is standard, the second where it is full."""
    OmegaConf.register_new_resolver("scaled", _scaled, replace=True)


def _scaled(standard: Any, full: Any, *, _root_: DictConfig) -> Any:
    return full if _root_.get("scale") == "full" else standard


def typed(config: DictConfig) -> Config:
    """A composed configuration as a `Config`.

    Raises:
        UserError: an unknown key, or a value of the wrong type.
    """
    plain = OmegaConf.create({key: value for key, value in config.items_ex(resolve=False) if key != "hydra"})
    try:
        merged = OmegaConf.merge(OmegaConf.structured(Config), plain)
        result = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        raise explain(error) from error
    assert isinstance(result, Config)
    return result


def compose_cells(loader: ConfigLoader, config: DictConfig, cells: Sequence[Sequence[str]]) -> list[Config]:
    """One `Config` for each list of overrides.

    Composition is Hydra's and slow, so it happens once for each choice of groups; plain values are typed by
    the schema and set on a copy.

    Args:
        loader: Hydra's loader.
        config: the sweep's master configuration.
        cells: overrides of each cell; they name every axis.

    Raises:
        UserError: see `typed`.
    """
    parser = OverridesParser.create(config_loader=loader)
    scratch = OmegaConf.structured(Config)
    bases: dict[tuple[str, ...], Config] = {}
    parsed: dict[str, tuple[str, Any] | None] = {}  # key and typed value of a plain value, None for anything else
    groups: dict[str, bool] = {}
    result = []
    for overrides in cells:
        try:
            for text in overrides:
                if text not in parsed:
                    override = parser.parse_override(text)
                    parsed[text] = _typed_value(scratch, override) if _is_plain_value(loader, override, groups) else None
            key = tuple(text for text in overrides if parsed[text] is None)
            if key not in bases:
                bases[key] = typed(loader.load_sweep_config(config, list(key)))
        except (HydraException, OmegaConfBaseException) as error:
            raise explain(error) from error
        cell = bases[key]
        for text in overrides:
            if (setting := parsed[text]) is not None:
                cell = _replaced(cell, setting[0].split("."), setting[1])
        result.append(cell)
    return result


def refuse_repeated(arguments: Sequence[str]) -> None:
    """Refuse a key given twice, of which Hydra would silently take the last.

    Raises:
        UserError: naming the key.
    """
    seen: set[str] = set()
    for argument in arguments:
        key = argument.partition("=")[0].lstrip("+")
        if "=" in argument and not argument.startswith("-") and key in seen:
            raise UserError(f"{key}: given twice; use one, or a list such as {key}=a,b with --multirun")
        seen.add(key)


def with_open_mappings(arguments: Sequence[str]) -> list[str]:
    """Let the mappings that take any key be overridden without Hydra's `++`: engine.options={account:lab}."""
    return [f"++{argument}" if argument.startswith(_OPEN) and "=" in argument else argument for argument in arguments]


def _is_plain_value(loader: ConfigLoader, override: Override, groups: dict[str, bool]) -> bool:
    """Whether an override sets a value that nothing else depends on: no group, nothing added or deleted or interpolated."""
    key = override.key_or_group
    if key == "scale":
        return False
    if override.is_add() or override.is_delete() or override.is_force_add() or override.package is not None:
        return False
    if key not in groups:
        groups[key] = bool(loader.get_group_options(key))
    return not groups[key] and "${" not in (override.input_line or "")


def _typed_value(scratch: DictConfig, override: Override) -> tuple[str, Any]:
    """The key of an override, and its value as the schema types it."""
    key = override.key_or_group
    OmegaConf.update(scratch, key, override.value())
    value = OmegaConf.select(scratch, key)
    return key, OmegaConf.to_object(value) if OmegaConf.is_config(value) else value


def _replaced(node: Any, path: Sequence[str], value: Any) -> Any:
    """A copy of nested dataclasses with another value at a path."""
    if len(path) > 1:
        value = _replaced(getattr(node, path[0]), path[1:], value)
    return dataclasses.replace(node, **{path[0]: value})


def explain(error: BaseException) -> UserError:
    """A line or two for an error of Hydra or OmegaConf: which key, which value, what would be accepted."""
    text = str(error).strip()
    if isinstance(error, MissingConfigException) and (found := re.search(r"Could not find '(.+)/([^/']+)'", text)):
        listed = text.partition("Available options")[2].partition("Config search path")[0].splitlines()[1:]
        options = [line.strip() for line in listed if line.strip()]
        if options:
            return UserError(f"{found[1]}: {found[2]!r} is unknown; use {', '.join(options)}{_close(found[2], options)}")
        return UserError(f"{found[1]}: there is no such group; use a key of `bnstudy run --cfg job`")
    if found := re.search(r"Could not override '([^']+)'.*?Key '([^']+)' is not in struct", text, re.DOTALL):
        return _unknown(found[1])
    if "not in" in text and (found := re.search(r"full_key: (\S+)", text)):
        return _unknown(found[1])
    if found := re.search(r"Could not override '([^']+)'", text):
        return _unknown(found[1])
    if isinstance(error, ValidationError) and (found := re.search(r"full_key: (\S+)", text)):
        reason = text.splitlines()[0].replace("of type 'str' ", "")
        return UserError(f"{found[1]}: {reason[0].lower()}{reason[1:]}; {_accepted(found[1])}")
    if isinstance(error, OverrideParseException):
        return UserError(f"{error.override!r} is no override; use key=value, or key=value1,value2 with --multirun")
    if isinstance(error.__cause__, ValidationError):
        return explain(error.__cause__)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return UserError(" ".join(lines[:2]) or type(error).__name__)


def _unknown(key: str) -> UserError:
    keys = list(_keys())
    return UserError(f"{key}: unknown key{_close(key, keys) or '; `bnstudy run --cfg job` shows all keys'}")


def _close(word: str, choices: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, choices, 1)
    return f"; did you mean {near[0]}?" if near else ""


def _keys(prefix: str = "", node: Any = None) -> Iterable[str]:
    for key, value in vars(Config() if node is None else node).items():
        yield f"{prefix}{key}"
        if hasattr(value, "__dataclass_fields__"):
            yield from _keys(f"{prefix}{key}.", value)


def _accepted(key: str) -> str:
    node: Any = Config
    for part in key.split("."):
        kind = node.__dataclass_fields__[part]
        node = kind.default_factory if kind.default_factory is not kind.default else kind
    return f"it takes {kind.type}"
