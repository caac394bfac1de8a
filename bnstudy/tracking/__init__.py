"""Everything of Weights & Biases: a mirror of what the store has. Nothing that happens here changes a number or fails a job.

A study tells `Mirror` of its finished jobs; a child process (`following`) writes them as W&B's offline runs (`writing`, from
what `mirror` builds of the store and `ledger` remembers) and sends them (`sending`). `publish` does the same afterwards.
`dashboards` and `sweep_file` are W&B's views and sweeps as code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bnstudy.lazy import face

if TYPE_CHECKING:
    from bnstudy.tracking.environment import mode_and_note as mode_and_note
    from bnstudy.tracking.live import Mirror as Mirror
    from bnstudy.tracking.publishing import publish as publish
    from bnstudy.tracking.sweep_file import sweep_config as sweep_config
    from bnstudy.tracking.sweep_file import sweep_yaml as sweep_yaml

__getattr__, __dir__, __all__ = face(
    __name__,
    {
        "Mirror": "live",
        "mode_and_note": "environment",
        "publish": "publishing",
        "sweep_config": "sweep_file",
        "sweep_yaml": "sweep_file",
    },
)
