"""bnstudy: does it matter which variance BatchNorm uses in training and at inference?

The public names load what they need when they are asked for, so `import bnstudy` is quick and needs no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bnstudy.lazy import face

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

__version__ = "0.1.0"
__getattr__, __dir__, __all__ = face(
    __name__,
    {
        "BatchNorm1d": "batchnorm.layers",
        "BatchNorm2d": "batchnorm.layers",
        "BatchNorm3d": "batchnorm.layers",
        "Convention": "batchnorm.conventions",
        "Diagnosis": "diagnosis.result",
        "convert": "batchnorm.convert",
        "diagnose": "diagnosis.diagnose",
        "evaluating": "batchnorm.inference",
        "load": "analysis.results",
        "population_statistics": "batchnorm.population",
        "remedy": "diagnosis.remedies",
    },
)
