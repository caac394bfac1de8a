"""One real study for all tests of the tables."""

from __future__ import annotations

import itertools

import pandas as pd
import pytest

from bnstudy.analysis.tables import study_tables
from bnstudy.batchnorm.conventions import CONVENTIONS
from bnstudy.sweeps.store import Store
from tests.analysis.studies import run_study
from tests.tiny import tiny


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Digits MLP, four conventions, batch sizes 2 and 8, three seeds in blocks of two, two epochs. Not to be changed."""
    cells = itertools.product((2, 8), CONVENTIONS)
    configs = [tiny(name, batch_size=size, model__depth=1) for size, name in cells]
    return run_study(tmp_path_factory.mktemp("store"), configs)


@pytest.fixture(scope="session")
def tables(store: Store) -> dict[str, pd.DataFrame]:
    """Its tables. Not to be changed."""
    return study_tables(store, "tiny")
