"""Registers bnstudy's sweeper and launcher with Hydra, which takes plugins from this namespace package only."""

from hydra.core.config_store import ConfigStore

from bnstudy.sweeps import sweeper


class BnstudySweeper(sweeper.StudySweeper):
    """See `bnstudy.sweeps.sweeper`."""


class BnstudyLauncher(sweeper.StudyLauncher):
    """See `bnstudy.sweeps.sweeper`."""


ConfigStore.instance().store(group="hydra/sweeper", name="bnstudy", node=sweeper.SweeperSettings, provider="bnstudy")
ConfigStore.instance().store(group="hydra/launcher", name="bnstudy", node=sweeper.LauncherSettings, provider="bnstudy")
