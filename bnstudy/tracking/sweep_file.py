"""A W&B sweep from an experiment: agents on many machines that each call `bnstudy run` for one cell's conventions."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import yaml
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from bnstudy.errors import UserError
from bnstudy.metric import metric_of, metrics_for, primary_metric
from bnstudy.sweeps.composition import compose_cells, hydra_loader
from bnstudy.sweeps.explanation import explained
from bnstudy.tracking.record import PROJECT
from bnstudy.training.data import describe

AXIS_KEPT = "variance"
"""Not an axis of the sweep: conventions share trainings, so that one call measures them all."""
_TRIAL = "${oc.env:WANDB_RUN_ID,trial}"  # of the call; an agent would fill its own ${envvar:…} in before it knows the run


def sweep_config(experiment: str) -> dict[str, Any]:
    """The configuration of a W&B grid sweep over an experiment's axes.

    Agents fill one store if `output_dir` is one folder, such as on a cluster; the experiment itself, run afterwards, finds
    all jobs done and writes its tables. Each call is a study of its own, named after the experiment and W&B's run, so that
    agents do not write into each other's.

    Args:
        experiment: name of a file in experiments/.

    Returns:
        What `wandb sweep` reads as YAML.

    Raises:
        UserError: no such experiment, or one without axes.

    Source: docs/architecture.md, "The mirror in W&B"; W&B's sweep configuration.
    """
    with hydra_loader() as loader, explained():
        config = loader.load_configuration("config", [f"+experiments={experiment}"], RunMode.MULTIRUN)
        axes: Any = OmegaConf.to_container(config.hydra.sweeper.params, resolve=True) or {}
        parameters = {str(key): {"values": _values(str(key), str(value))} for key, value in dict(axes).items()}
        metric = config.study.metric or primary_metric(metrics_for(*_tasks(loader, experiment, config, parameters)))
        mode, name = config.hydra.mode, str(config.name)
    parameters.pop(AXIS_KEPT, None)
    if not parameters or mode != RunMode.MULTIRUN:
        raise UserError(f"{experiment}: has no axes for a sweep but {AXIS_KEPT!r}; run it with `bnstudy run`")
    goal = "minimize" if metric_of(metric).direction == "lower" else "maximize"
    return {
        "name": name,
        "project": PROJECT,
        "method": "grid",
        "metric": {"name": f"{config.study.split}/eval_mode/{metric}", "goal": goal},
        "command": ["bnstudy", "run", f"+experiments={experiment}", f"name={name}_sweep_{_TRIAL}", "${args_no_hyphens}"],
        "parameters": parameters,
    }


def sweep_yaml(experiment: str) -> str:
    """The same as YAML, with a head that says what to do with it."""
    head = (
        f"# A W&B sweep over the axes of experiments/{experiment}.yaml; scripts/write_wandb_sweep.py writes it\n"
        "#   wandb sweep conf/wandb_sweep.yaml     prints the sweep's ID\n"
        "#   wandb agent ID                        on every machine that shares output_dir\n"
        f"#   bnstudy run +experiments={experiment}          afterwards: finds all jobs done and writes tables and report\n"
    )
    return head + yaml.safe_dump(sweep_config(experiment), sort_keys=False)


def _tasks(
    loader: ConfigLoader, experiment: str, config: DictConfig, parameters: Mapping[str, Mapping[str, list[Any]]]
) -> set[str]:
    """Tasks of the data sets that an experiment names, itself or along its axes."""
    axes = [[f"{key}={value}" for value in axis["values"]] for key, axis in parameters.items() if key.startswith("dataset")]
    overrides = [(f"+experiments={experiment}", *values) for values in itertools.product(*axes)]
    cells = compose_cells(loader, config, overrides)
    return {describe(cell.dataset).task for cell in cells}


def _values(key: str, text: str) -> list[Any]:
    override = OverridesParser.create().parse_override(f"{key}={text}")
    if not override.is_sweep_override():
        return [_plain(override.get_value_element_as_str())]
    return [_plain(value) for value in override.sweep_string_iterator()]


def _plain(text: str) -> Any:
    value = yaml.safe_load(text)
    return "null" if value is None else value  # an agent would write None, which is a text to Hydra
