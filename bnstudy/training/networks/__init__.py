"""Networks: built for one seed (`models`), stacked for many (`replicas`), known before they are trained (`facts`).

The names below load what they need when they are asked for: planning asks before torch is loaded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bnstudy.lazy import face

if TYPE_CHECKING:
    from bnstudy.training.networks.facts import NetworkFacts as NetworkFacts
    from bnstudy.training.networks.grouping import block_size as block_size
    from bnstudy.training.networks.models import build_model as build_model
    from bnstudy.training.networks.models import network_facts as network_facts
    from bnstudy.training.networks.replicas import replica_state_dict as replica_state_dict
    from bnstudy.training.networks.replicas import replicate as replicate

__getattr__, __dir__, __all__ = face(
    __name__,
    {
        "NetworkFacts": "facts",
        "block_size": "grouping",
        "build_model": "models",
        "network_facts": "models",
        "replica_state_dict": "replicas",
        "replicate": "replicas",
    },
)
