"""A configuration that trains in well under a second, and ways to change it."""

from __future__ import annotations

import copy
from typing import Any

from bnstudy.batchnorm.conventions import CONVENTIONS
from bnstudy.sweeps.config import Config
from bnstudy.training.config import DatasetConfig, ModelConfig

DIGITS = DatasetConfig(train_size=104, test_size=40)
MLP = ModelConfig(width=12, depth=2)
RESNET8 = ModelConfig(name="resnet8", architecture="resnet", depth=8, width=4)


def tiny(variance: str = "paper", **changes: Any) -> Config:
    """A tiny digits MLP on the CPU; `changes` by key, with `__` for the dot of a nested one."""
    config = Config(dataset=copy.copy(DIGITS), model=copy.copy(MLP), batch_size=8, epochs=2, seeds=3, device="cpu")
    convention = CONVENTIONS[variance]
    config.variance.name, config.variance.normalize = variance, convention.normalize
    config.variance.accumulate = convention.accumulate
    for key, value in changes.items():
        *path, last = key.split("__")
        place: Any = config
        for part in path:
            place = getattr(place, part)
        if not hasattr(place, last):
            raise AttributeError(key)
        setattr(place, last, value)
    return config
