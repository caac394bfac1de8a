"""The first half of a study: its cells are checked, sized and planned; nothing is trained or written."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from bnstudy.errors import UserError
from bnstudy.names import check_layer
from bnstudy.sweeps.checks import check_cell
from bnstudy.sweeps.config import Config, study_keys
from bnstudy.sweeps.engines import ENGINES
from bnstudy.sweeps.identity import training_id
from bnstudy.sweeps.plan import Effort, Plan, make_plan
from bnstudy.sweeps.store import Store
from bnstudy.training.checks import check_values_per_channel
from bnstudy.training.data import DatasetShape, require_files
from bnstudy.training.imported import with_imports
from bnstudy.training.schedule import total_steps

_CALL = 200_000
"""Values that a layer works through in the time that calling it takes."""


def plan_study(configs: Sequence[Config]) -> tuple[Plan, Store]:
    """Check every cell and plan the study; nothing is written.

    Args:
        configs: the cells, as composed.

    Returns:
        The plan and the store it looked into.

    Raises:
        UserError: the first thing wrong with a cell.

    Source: docs/architecture.md, "The way of a batch size".
    """
    configs = [with_imports(config) for config in configs]
    shapes = [check_cell(config) for config in configs]  # before torch is imported: a typing mistake is told at once
    _check_shared(configs)
    device = _device(configs[0])
    configs = [dataclasses.replace(config, device=device) for config in configs]
    store = Store(configs[0].output_dir)
    return make_plan(configs, store, _efforts(configs, shapes)), store


def _check_shared(configs: Sequence[Config]) -> None:
    """Refuse cells that disagree on what a study has once, which an interpolation can make them do."""
    for key in study_keys():
        first = getattr(configs[0], key)
        other = next((value for config in configs if (value := getattr(config, key)) != first), first)
        if other != first:
            inner = vars(first) if dataclasses.is_dataclass(first) else {}
            path = ".".join([key, *(name for name in inner if getattr(other, name) != inner[name])][:2])
            raise UserError(f"{path}: differs between the cells of one study; use one value")


def _device(config: Config) -> str:
    """The device that "auto" stands for."""
    engine = config.engine
    if ENGINES[engine.name].elsewhere:
        # This machine is not the one that computes: what is asked of the cluster decides.
        return config.device if config.device != "auto" else "cuda" if (engine.gpus_per_job or 0) > 0 else "cpu"
    if config.device == "cpu":
        return "cpu"
    import torch

    if torch.cuda.is_available():
        return "cuda"
    if config.device == "cuda":
        raise UserError("device: 'cuda' is not there; use cpu or auto")
    return "cpu"


def _efforts(configs: Sequence[Config], shapes: Sequence[DatasetShape]) -> dict[str, Effort]:
    """What every training takes; what only its network or its files can tell is refused here.

    Raises:
        UserError: data that are not there, a network that cannot be built, or a layer with one value per channel.
    """
    from bnstudy.training.networks import block_size, network_facts

    efforts: dict[str, Effort] = {}
    for config, shape in zip(configs, shapes, strict=True):
        if (training := training_id(config)) not in efforts:
            require_files(config.dataset)
            facts = network_facts(config.model, shape.input_shape, shape.outputs)
            for layer in facts.positions:
                check_layer("model.factory", layer)
            check_values_per_channel(config, shape, facts.positions)
            block, steps = block_size(config, facts), total_steps(config, shape.train_samples)
            # Only an order is needed here: the longest first. A step costs a call for each layer, and its samples' work.
            work = sum(facts.positions.values()) * config.model.width * config.batch_size
            efforts[training] = Effort(block, steps, steps * ((len(facts.positions) + 1) * _CALL / block + work))
    return efforts


def plan_changes(plan: Plan, store: Store, name: str) -> list[str]:
    """What a study's jobs were when it was last run, if they are others now: its YAML or the command has changed."""
    try:
        before = store.study(name)
    except UserError as error:  # it is about to be written again
        return [str(error)]
    if before is None:
        return []
    old = {job for cell in before["cells"] for job in cell["jobs"]}
    new = {job.id for job in plan.jobs}
    lines = []
    if gone := sorted(old - new):
        kept = sum(store.record(job, tables=False) is not None for job in gone)
        lines.append(f"{name}: {len(gone)} jobs of its last run no longer belong ({kept} of them ran and stay in the store)")
    if gone and (added := len(new - old)):
        lines.append(f"{name}: {len(new & old)} jobs still belong, {added} are new")
    return lines
