"""What tests of several floors share."""

from __future__ import annotations

import signal

import pytest
import torch
from hypothesis import settings

from bnstudy.training.data import Dataset, load_dataset
from tests.tiny import DIGITS

settings.register_profile("bnstudy", deadline=None)  # machines under load are slow, not wrong
settings.load_profile("bnstudy")
torch.set_num_threads(1)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a script's shell puts what goes to the background so, and tests
    signal.signal(signal.SIGINT, signal.default_int_handler)  # that interrupt what they start would wait for ever


@pytest.fixture(scope="session")
def digits() -> Dataset:
    """104 training and 40 test digits; not to be changed."""
    return load_dataset(DIGITS)
