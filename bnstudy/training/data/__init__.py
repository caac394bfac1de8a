"""Data: what is known of every data set (`registry`), a data set whole on a device (`dataset`), and its batches (`batches`).

The names below load what they need when they are asked for: planning gets by without torch and NumPy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bnstudy.lazy import face

if TYPE_CHECKING:
    from bnstudy.training.data.dataset import Dataset as Dataset
    from bnstudy.training.data.dataset import Split as Split
    from bnstudy.training.data.dataset import load_dataset as load_dataset
    from bnstudy.training.data.files import DataFile as DataFile
    from bnstudy.training.data.files import data_files as data_files
    from bnstudy.training.data.files import require_files as require_files
    from bnstudy.training.data.registry import DATASETS as DATASETS
    from bnstudy.training.data.registry import DatasetEntry as DatasetEntry
    from bnstudy.training.data.registry import DatasetShape as DatasetShape
    from bnstudy.training.data.shapes import describe as describe

__getattr__, __dir__, __all__ = face(
    __name__,
    {
        "DATASETS": "registry",
        "DataFile": "files",
        "Dataset": "dataset",
        "DatasetEntry": "registry",
        "DatasetShape": "registry",
        "Split": "dataset",
        "data_files": "files",
        "describe": "shapes",
        "load_dataset": "dataset",
        "require_files": "files",
    },
)
