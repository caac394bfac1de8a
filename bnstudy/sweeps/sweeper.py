"""Hydra's way into bnstudy: a sweeper that only expands, and a launcher that hands over the whole batch at once.

Hydra imports its plugins for every application on the machine, so nothing heavy is imported here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


@dataclass
class SweeperSettings:
    """Configuration of the sweeper: `params` are the axes of a study, overrides by key."""

    _target_: str = "hydra_plugins.bnstudy_plugin.BnstudySweeper"
    max_batch_size: int | None = None
    params: dict[str, str] | None = None


@dataclass
class LauncherSettings:
    """Configuration of the launcher."""

    _target_: str = "hydra_plugins.bnstudy_plugin.BnstudyLauncher"


class StudySweeper(BasicSweeper):
    """Expands axes into cells as Hydra's own sweeper does, but validates nothing and writes nothing: the plan does.

    An axis given on the command line replaces the experiment's axis of that name.
    """

    def sweep(self, arguments: list[str]) -> Any:
        """Expand the axes and hand all cells to the launcher in one batch."""
        from bnstudy.sweeps.composition import with_open_mappings

        assert self.config is not None
        assert self.hydra_context is not None
        assert self.launcher is not None
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        given = {override.key_or_group for override in parser.parse_overrides(arguments)}
        axes = with_open_mappings(
            [
                f"{key}={value}"
                for key, value in (self.config.hydra.sweeper.params or {}).items()
                if key.lstrip("+") not in given
            ]
        )
        self.overrides = self.split_arguments(parser.parse_overrides([*axes, *arguments]), None)
        return [self.launcher.launch(batch, initial_job_idx=0) for batch in self.overrides]


class StudyLauncher(Launcher):
    """Composes every cell and calls the task once with the list of them, so that it can plan."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what Hydra hands over."""
        self.loader, self.task, self.config = hydra_context.config_loader, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Compose the cells and run the task on all of them."""
        from bnstudy.sweeps.composition import compose_cells

        cells = compose_cells(self.loader, self.config, job_overrides)
        result = JobReturn(overrides=[override for cell in job_overrides for override in cell])
        result.return_value = self.task(cells)
        result.status = JobStatus.COMPLETED
        return [result]
