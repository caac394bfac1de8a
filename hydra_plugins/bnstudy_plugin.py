"""Registers bnstudy's sweeper and launcher with Hydra; they live in `bnstudy.sweeps.sweeper`."""

from hydra.core.config_store import ConfigStore

from bnstudy.sweeps.sweeper import LauncherSettings, StudyLauncher, StudySweeper, SweeperSettings

__all__ = ["StudyLauncher", "StudySweeper"]

ConfigStore.instance().store(group="hydra/sweeper", name="bnstudy", node=SweeperSettings, provider="bnstudy")
ConfigStore.instance().store(group="hydra/launcher", name="bnstudy", node=LauncherSettings, provider="bnstudy")
