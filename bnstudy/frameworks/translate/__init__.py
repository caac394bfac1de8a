"""Carry a trained checkpoint from one BatchNorm to another: rules on tensors, and the files that they live in.

`translate` is the command, on files; `translate_state` and `translate_optimizer` do the same with states in memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bnstudy.lazy import face

if TYPE_CHECKING:
    from bnstudy.frameworks.translate.command import translate as translate
    from bnstudy.frameworks.translate.optimizer import groups_for as groups_for
    from bnstudy.frameworks.translate.optimizer import translate_optimizer as translate_optimizer
    from bnstudy.frameworks.translate.optimizer import translate_scheduler as translate_scheduler
    from bnstudy.frameworks.translate.options import Options as Options
    from bnstudy.frameworks.translate.settings import settings_of as settings_of
    from bnstudy.frameworks.translate.state import Translated as Translated
    from bnstudy.frameworks.translate.state import translate_state as translate_state
    from bnstudy.frameworks.translate.values import measured_values as measured_values

__getattr__, __dir__, __all__ = face(
    __name__,
    {
        "Options": "options",
        "Translated": "state",
        "groups_for": "optimizer",
        "measured_values": "values",
        "settings_of": "settings",
        "translate": "command",
        "translate_optimizer": "optimizer",
        "translate_scheduler": "optimizer",
        "translate_state": "state",
    },
)
