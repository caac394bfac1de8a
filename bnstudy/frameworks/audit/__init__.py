"""Measure which BatchNorm a framework implements, from what its layer does and not from what its documentation says.

`audit` is the command; `identify(observe(Kind(build, default)))` does the same with a layer of one's own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bnstudy.lazy import face

if TYPE_CHECKING:
    from bnstudy.frameworks.audit.behaviour import Behaviour as Behaviour
    from bnstudy.frameworks.audit.behaviour import identify as identify
    from bnstudy.frameworks.audit.command import audit as audit
    from bnstudy.frameworks.audit.experiment import Kind as Kind
    from bnstudy.frameworks.audit.experiment import Layer as Layer
    from bnstudy.frameworks.audit.experiment import Stored as Stored
    from bnstudy.frameworks.audit.experiment import observe as observe

__getattr__, __dir__, __all__ = face(
    __name__,
    {
        "Behaviour": "behaviour",
        "Kind": "experiment",
        "Layer": "experiment",
        "Stored": "experiment",
        "audit": "command",
        "identify": "behaviour",
        "observe": "experiment",
    },
)
