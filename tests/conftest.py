"""What tests of several floors share."""

from __future__ import annotations

import pytest

from bnstudy.training.data import Dataset, load_dataset
from tests.tiny import DIGITS


@pytest.fixture(scope="session")
def digits() -> Dataset:
    """104 training and 40 test digits; not to be changed."""
    return load_dataset(DIGITS)
