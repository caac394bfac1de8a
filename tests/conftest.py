"""What tests of several floors share."""

from __future__ import annotations

import pytest
import torch
from hypothesis import settings

from bnstudy.training.data import Dataset, load_dataset
from tests.tiny import DIGITS

settings.register_profile("bnstudy", deadline=None)  # machines under load are slow, not wrong
settings.load_profile("bnstudy")
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def digits() -> Dataset:
    """104 training and 40 test digits; not to be changed."""
    return load_dataset(DIGITS)
