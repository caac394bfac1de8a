"""From a command's arguments to the cells of a study: what is an axis, what holds for all cells, what cannot be meant."""

from __future__ import annotations

import itertools
import math
import shlex
import warnings
from collections.abc import Sequence
from pathlib import Path

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from bnstudy.errors import UserError, first_line
from bnstudy.sweeps.composition import compose_cells, hydra_loader
from bnstudy.sweeps.config import Config, study_keys
from bnstudy.sweeps.explanation import explained, kind_of, no_choice, no_override, unknown_key

MOST_CELLS = 100_000
"""Cells of one study; more are a slip of the keyboard, and would fill the memory before any of them is checked."""
_OPEN = ("engine.options", "study.family", "model.args", "dataset.args", "hydra.sweeper.params")
"""Mappings whose keys a schema cannot list; overriding them needs no `++`."""
_HYDRA = ("hydra.mode", "hydra.sweeper.params", "hydra.searchpath")
"""What of Hydra's own settings means something to a study."""


def study_cells(arguments: Sequence[str], multirun: bool = False, folder: Path | None = None) -> list[Config]:
    """The cells of a study: every combination of the values of its axes, composed and typed.

    An experiment declares axes in `hydra.sweeper.params`; one given as an argument takes the place of the experiment's.

    Args:
        arguments: overrides in Hydra's grammar.
        multirun: whether a key with several values is an axis; an experiment says so itself by `hydra.mode: MULTIRUN`.
        folder: of the user's own configuration, searched after conf/.

    Raises:
        UserError: anything wrong with the arguments.
    """
    with hydra_loader() as loader:
        overrides = _parsed(loader, arguments, folder)
        master = _master(loader, overrides)
        if multirun or master.hydra.mode == RunMode.MULTIRUN:
            overrides = _with_declared_axes(loader, master, overrides)
        else:
            _refuse_axes(overrides)
        return compose_cells(loader, master, _product([item for item in overrides if not item.is_hydra_override()]))


def cell_yaml(arguments: Sequence[str], folder: Path | None = None, resolve: bool = False) -> str:
    """The configuration of one cell as YAML.

    Args:
        arguments, folder: see `study_cells`; every key has one value.
        resolve: whether interpolations are replaced by what they refer to.

    Raises:
        UserError: anything wrong with the arguments.
    """
    with hydra_loader() as loader:
        overrides = _parsed(loader, arguments, folder)
        _refuse_axes(overrides)
        master = _master(loader, overrides)
        if resolve:
            (cell,) = compose_cells(loader, master, _product([item for item in overrides if not item.is_hydra_override()]))
            return OmegaConf.to_yaml(OmegaConf.structured(cell))
        with open_dict(master):
            del master["hydra"]
        return OmegaConf.to_yaml(master)


def _parsed(loader: ConfigLoader, arguments: Sequence[str], folder: Path | None) -> list[Override]:
    """The arguments as Hydra's overrides, each key once."""
    parser = OverridesParser.create(config_loader=loader)
    experiments = loader.get_group_options("experiments")
    texts = [*arguments, *_search_path(folder)]
    overrides = []
    seen = set()
    for text in texts:
        if text in experiments:
            raise UserError(f"{text!r} is no override; use +experiments={text}")
        try:
            opened = text.startswith(_OPEN) and "=" in text
            (override,) = parser.parse_overrides([f"++{text}" if opened else text])
        except HydraException as error:
            raise no_override(text) from error
        key = override.key_or_group
        if not 0 < len(key) < 256:
            raise unknown_key(key) if key else UserError(f"{text!r} has no key; use key=value")
        if (key, override.package) in seen:
            raise UserError(f"{key}: given twice; use one, or an axis such as -m {shlex.quote(f'{key}=a,b')}")
        seen.add((key, override.package))
        _refuse_setting_of_hydra(override)
        named = override.is_sweep_override() or override.is_delete() or isinstance(override.value(), str | list | dict)
        if not named and (choices := loader.get_group_options(key)):
            raise no_choice(key, str(override.get_value_element_as_str()), choices)
        overrides.append(override)
    return overrides


def _search_path(folder: Path | None) -> list[str]:
    if folder is None:
        return []
    if not folder.is_dir():
        raise UserError(f"--config-dir: {str(folder)!r} is no folder; use one with groups such as experiments/ in it")
    path = str(folder.resolve()).replace("\\", "\\\\").replace("'", "\\'")
    return [f"hydra.searchpath=['file://{path}']"]


def _refuse_setting_of_hydra(override: Override) -> None:
    """Refuse what would start other programs, write files of Hydra's, or do nothing at all."""
    key = override.key_or_group
    if key in ("hydra/launcher", "hydra/sweeper"):
        if override.value() != "basic":
            raise _another_runner(key, override.get_value_element_as_str())
    elif key.partition(".")[0].partition("/")[0] == "hydra" and not key.startswith(_HYDRA):
        raise UserError(f"{key}: this setting of Hydra has no part in a study; of Hydra's, use {', '.join(_HYDRA)}")


def _another_runner(key: str, name: str) -> UserError:
    return UserError(
        f"{key}: {name} cannot run a study, whose cells share trainings; leave it out, and use engine=slurm or ray"
    )


def _master(loader: ConfigLoader, overrides: Sequence[Override]) -> DictConfig:
    """The study's configuration without its axes, and Hydra's own settings with it."""
    texts = [str(override.input_line) for override in overrides]
    with explained(), warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # a search path that is not there
        master = loader.load_configuration("config", texts, RunMode.MULTIRUN, validate_sweep_overrides=False)
        for key in ("launcher", "sweeper"):
            if "hydra._internal.core_plugins.basic" not in str(master.hydra[key].get("_target_")):
                raise _another_runner(f"hydra/{key}", str(master.hydra.runtime.choices.get(f"hydra/{key}")))
        if master.hydra.callbacks:
            raise UserError("hydra.callbacks: Hydra's callbacks have no part in a study; leave them out")
    return master


def _with_declared_axes(loader: ConfigLoader, master: DictConfig, overrides: Sequence[Override]) -> list[Override]:
    """The axes that an experiment declares and no argument replaces, and the arguments."""
    given = {override.key_or_group for override in overrides}
    with explained():
        declared = dict(master.hydra.sweeper.params or {})
    axes = [f"{key}={value}" for key, value in declared.items() if key.lstrip("+~") not in given]
    return [*_parsed(loader, axes, None), *overrides]


def _refuse_axes(overrides: Sequence[Override]) -> None:
    """Refuse several values where one is meant to be given."""
    for override in overrides:
        if override.is_sweep_override():
            key, text = override.key_or_group, str(override.input_line)
            values = override.get_value_string()
            listed = any(word in str(kind_of(key)) for word in ("list", "Any"))
            instead = f", or use {shlex.quote(f'{key}=[{values}]')} for a list" if listed else ""
            raise UserError(
                f"{key}: {values} stands for several values; add -m for a cell each (-m {shlex.quote(text)}){instead}"
            )


def _product(overrides: Sequence[Override]) -> list[tuple[str, ...]]:
    """The overrides of every cell: all combinations of the values of all axes, the last axis fastest."""
    once = {*study_keys(), "experiments"}
    axes = []
    for override in overrides:
        key, text = override.key_or_group, str(override.input_line)
        if not override.is_sweep_override():
            axes.append([text])
            continue
        if key.partition(".")[0] in once:
            raise UserError(f"{key}: a study has one for all its cells, so that it cannot be an axis; use one value")
        if not override.is_discrete_sweep():
            raise UserError(
                f"{key}: {override.get_value_string()} has no end of values; use {key}=a,b or range(start,stop,step)"
            )
        try:
            values = list(itertools.islice(override.sweep_string_iterator(), MOST_CELLS + 1))
        except (HydraException, ValueError, ArithmeticError) as error:
            raise UserError(f"{key}: {override.get_value_string()} is no range ({first_line(error)})") from error
        if not values:
            raise UserError(f"{key}: {override.get_value_string()} stands for no value; use {key}=a,b")
        axes.append([f"{override.get_key_element()}={value}" for value in values])
    if math.prod(map(len, axes)) > MOST_CELLS:
        raise UserError(f"{_longest(axes)}: more than {MOST_CELLS:,} cells; use shorter axes")
    return list(itertools.product(*axes))


def _longest(axes: Sequence[Sequence[str]]) -> str:
    return max(axes, key=len)[0].partition("=")[0]
