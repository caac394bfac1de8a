"""One real study for all tests of the tables."""

from __future__ import annotations

import pandas as pd
import pytest

from bnstudy.analysis.tables import study_tables
from bnstudy.sweeps.store import Store
from tests.analysis.studies import tiny_study


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """See `tiny_study`. Not to be changed."""
    return tiny_study(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="session")
def tables(store: Store) -> dict[str, pd.DataFrame]:
    """Its tables. Not to be changed."""
    return study_tables(store, "tiny")
