"""bnstudy: does it matter which variance BatchNorm uses in training and at inference?

The public names load what they need when they are asked for, so `import bnstudy` is quick and needs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bnstudy.analysis.results import load as load
    from bnstudy.batchnorm.conventions import Convention as Convention
    from bnstudy.batchnorm.convert import convert as convert
    from bnstudy.batchnorm.inference import evaluating as evaluating
    from bnstudy.batchnorm.layers import BatchNorm1d as BatchNorm1d
    from bnstudy.batchnorm.layers import BatchNorm2d as BatchNorm2d
    from bnstudy.batchnorm.layers import BatchNorm3d as BatchNorm3d
    from bnstudy.batchnorm.population import population_statistics as population_statistics
    from bnstudy.diagnosis.diagnose import diagnose as diagnose
    from bnstudy.diagnosis.remedies import remedy as remedy
    from bnstudy.diagnosis.result import Diagnosis as Diagnosis

_HOMES = {
    "BatchNorm1d": "bnstudy.batchnorm.layers",
    "BatchNorm2d": "bnstudy.batchnorm.layers",
    "BatchNorm3d": "bnstudy.batchnorm.layers",
    "Convention": "bnstudy.batchnorm.conventions",
    "Diagnosis": "bnstudy.diagnosis.result",
    "convert": "bnstudy.batchnorm.convert",
    "diagnose": "bnstudy.diagnosis.diagnose",
    "evaluating": "bnstudy.batchnorm.inference",
    "load": "bnstudy.analysis.results",
    "population_statistics": "bnstudy.batchnorm.population",
    "remedy": "bnstudy.diagnosis.remedies",
}

__all__ = sorted(_HOMES)
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'bnstudy' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *_HOMES]
