"""Measuring: a block of seeds from the first step to the last number (`measurement`), under every statistic.

The names below load what they need when they are asked for: diagnoses take single modules, and no training.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bnstudy.lazy import face

if TYPE_CHECKING:
    from bnstudy.training.measuring.measurement import Checkpointing as Checkpointing
    from bnstudy.training.measuring.measurement import Measurements as Measurements
    from bnstudy.training.measuring.measurement import measure_block as measure_block

__getattr__, __dir__, __all__ = face(
    __name__, {"Checkpointing": "measurement", "Measurements": "measurement", "measure_block": "measurement"}
)
