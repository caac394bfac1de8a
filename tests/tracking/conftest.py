"""One real study for all tests of the mirror."""

from __future__ import annotations

import pytest

from bnstudy.sweeps.store import Store
from tests.analysis.studies import tiny_study


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """See `tiny_study`. Not to be changed."""
    return tiny_study(tmp_path_factory.mktemp("store"))
