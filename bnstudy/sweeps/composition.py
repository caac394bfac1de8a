"""From overrides to typed cells: what Hydra composes for each of them, with its slow part done once a choice of groups."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import itertools
import re
from collections.abc import Iterator, Sequence
from typing import Any

from hydra import initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf, open_dict

from bnstudy.assets import config_folder
from bnstudy.sweeps.config import Config
from bnstudy.sweeps.explanation import explained, unknown_key
from bnstudy.sweeps.keys import keys

_BY_SCALE = re.compile(r"\$\{scaled:[^${}]*\}")
"""An interpolation that depends on `scale` alone."""
_LEAVES = frozenset(key.name for key in keys())


@contextlib.contextmanager
def hydra_loader() -> Iterator[ConfigLoader]:
    """Hydra's loader over conf/ and experiments/, which knows our schema and resolvers."""
    ConfigStore.instance().store(name="schema", node=Config)
    OmegaConf.register_new_resolver("scaled", _scaled, replace=True)
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        yield GlobalHydra.instance().config_loader()


def _scaled(standard: Any, full: Any, *, _root_: DictConfig) -> Any:
    """`${scaled:16,64}` in YAML: the first where `scale` is standard, the second where it is full."""
    return full if _root_.get("scale") == "full" else standard


def typed(config: DictConfig) -> Config:
    """A composed configuration as a `Config`, its interpolations resolved.

    Raises:
        UserError: an unknown key, or a value of the wrong type.
    """
    defaults = vars(Config())
    values = {}
    with explained():
        for key in map(str, config):
            if key != "hydra":
                values[key] = _plain(config[key])
    for key, value in values.items():
        if key not in defaults:
            raise unknown_key(key)
        _require_fields(key, value, defaults[key])
    return Config(**values)


def _plain(value: Any) -> Any:
    return OmegaConf.to_object(value) if OmegaConf.is_config(value) else value


def _require_fields(key: str, section: Any, default: Any) -> None:
    """Refuse a section that is none, or has a key that it should not: `+model.colour=red` would be an attribute of it."""
    if dataclasses.is_dataclass(default):
        if type(section) is not type(default):
            raise unknown_key(key)
        for name in vars(section):
            if name not in vars(default):
                raise unknown_key(f"{key}.{name}")


def compose_cells(loader: ConfigLoader, master: DictConfig, cells: Sequence[Sequence[str]]) -> list[Config]:
    """One `Config` for each list of overrides: the one that Hydra would compose for that list by itself.

    Hydra takes about 60 ms for a composition. Here it composes once for each choice of groups, and the result stays
    unresolved; the other overrides are Hydra's own operations on a copy (3 ms). Where nothing is left to resolve, plain
    values are set on a resolved cell instead (0.05 ms).

    Args:
        loader: Hydra's loader.
        master: the study's configuration without its axes; the cells share Hydra's own settings and cached values with it.
        cells: all overrides of each cell.

    Raises:
        UserError: see `typed`; and whatever Hydra refuses.

    Source: Hydra 1.3, `ConfigLoaderImpl`; docs/architecture.md, "Configuration keys".
    """
    composer = _Composer(loader, master)
    with explained():
        return [composer.cell(texts) for texts in cells]


class _Composer:
    """Composes the cells of one study, and keeps what several of them need."""

    def __init__(self, loader: ConfigLoader, master: DictConfig) -> None:
        self.loader, self.master = loader, master
        self.parser = OverridesParser.create(config_loader=loader)
        self.parsed: dict[str, Override] = {}
        self.groups: dict[str, bool] = {}
        self.plain: dict[str, bool] = {}
        self.values: dict[str, Any] = {}
        self.composed: dict[tuple[str, ...], DictConfig] = {}
        self.settled: dict[tuple[str, ...], Config | None] = {}
        self.schema = OmegaConf.structured(Config)
        OmegaConf.set_struct(self.schema, True)

    def cell(self, texts: Sequence[str]) -> Config:
        """The configuration for one list of overrides."""
        overrides = [self._parse(text) for text in texts]
        if _overlap([override.key_or_group for override in overrides if not self._is_structural(override)]):
            return self._compose(texts, overrides)  # their order counts
        special = [text for text in texts if not self.plain[text]]
        key = tuple(special)
        if key not in self.settled:
            config = self._unresolved(special, [self.parsed[text] for text in special])
            self.settled[key] = None if _is_open(config) else typed(config)
        cell = self.settled[key]
        if cell is None:
            return self._compose(texts, overrides)
        for text, override in zip(texts, overrides, strict=True):
            if self.plain[text]:
                cell = _replaced(cell, override.key_or_group.split("."), self._value(text, override))
        return cell

    def _parse(self, text: str) -> Override:
        if text not in self.parsed:
            (override,) = self.parser.parse_overrides([text])
            self.parsed[text] = override
            self.plain[text] = self._is_plain(override)
        return self.parsed[text]

    def _is_plain(self, override: Override) -> bool:
        """Whether an override gives a key of the schema another value, and no file, key or other value depends on it."""
        changes = not (override.is_add() or override.is_force_add() or override.is_delete())
        literal = "${" not in str(override.input_line) and not isinstance(override.value(), dict)
        key = override.key_or_group
        return changes and literal and key != "scale" and not self._is_structural(override) and key in _LEAVES

    def _is_structural(self, override: Override) -> bool:
        """Whether Hydra needs an override to decide which files it reads: `Overrides` in its `defaults_list`."""
        key = override.key_or_group
        if key not in self.groups:
            given = OmegaConf.to_container(self.master.hydra.overrides.hydra)  # a search path may be among them
            assert isinstance(given, list)
            options = self.loader.get_group_options(key, None, self.master.hydra.job.config_name, given)
            self.groups[key] = bool(options)
        group = self.groups[key] and not isinstance(override.value(), dict)
        return group or override.package is not None or override.is_hydra_override()

    def _value(self, text: str, override: Override) -> Any:
        """The value of a plain override, as the schema types it."""
        if text not in self.values:
            ConfigLoaderImpl._apply_overrides_to_config([override], self.schema)
            self.values[text] = _plain(OmegaConf.select(self.schema, override.key_or_group))
        return self.values[text]

    def _compose(self, texts: Sequence[str], overrides: Sequence[Override]) -> Config:
        config = self._unresolved(texts, overrides)
        if "hydra" in config:
            HydraConfig.instance().set_config(config)
        result = typed(config)
        OmegaConf.copy_cache(config, self.master)  # what is drawn once, such as ${now:…}, is the same in all cells
        return result

    def _unresolved(self, texts: Sequence[str], overrides: Sequence[Override]) -> DictConfig:
        """What Hydra composes, before interpolations are resolved; its node `hydra` only where something refers to it."""
        structural = tuple(str(override.input_line) for override in overrides if self._is_structural(override))
        if structural not in self.composed:
            self.composed[structural] = self._without_hydra(self.loader.load_sweep_config(self.master, list(structural)))
        base = self.composed[structural]
        if "hydra" in base or any("${hydra" in text for text in texts):
            return self.loader.load_sweep_config(self.master, list(texts))
        config = copy.deepcopy(base)
        OmegaConf.copy_cache(self.master, config)
        others = [override for override in overrides if not self._is_structural(override)]
        ConfigLoaderImpl._apply_overrides_to_config(others, config)
        return config

    def _without_hydra(self, config: DictConfig) -> DictConfig:
        """A composed configuration without the node `hydra`, which is the larger part of it, where nothing refers to it."""
        with open_dict(config):
            hydra = config.pop("hydra")
            if any("${hydra" in text for text in _interpolations(OmegaConf.to_container(config))):
                config.hydra = hydra
        return config


def _overlap(keys: Sequence[str]) -> bool:
    """Whether a key is given twice, or together with one inside it."""
    ordered = sorted(f"{key}." for key in keys)
    return any(second.startswith(first) for first, second in itertools.pairwise(ordered))


def _is_open(config: DictConfig) -> bool:
    """Whether a value depends on others that a cell may still change."""
    return any(not _BY_SCALE.fullmatch(text) for text in _interpolations(OmegaConf.to_container(config)))


def _interpolations(node: Any) -> Iterator[str]:
    if isinstance(node, dict | list):
        for value in node.values() if isinstance(node, dict) else node:
            yield from _interpolations(value)
    elif isinstance(node, str) and "${" in node:
        yield node


def _replaced(node: Any, path: Sequence[str], value: Any) -> Any:
    """A copy of nested dataclasses with another value at a path."""
    if len(path) > 1:
        value = _replaced(getattr(node, path[0]), path[1:], value)
    return dataclasses.replace(node, **{path[0]: value})
