"""Which columns name a cell."""

from __future__ import annotations

from typing import Any

import pytest

from bnstudy.analysis.cells import cell_columns
from bnstudy.analysis.schemas import CELL
from bnstudy.sweeps.plan import Cell, cell_fields
from tests.tiny import tiny


def fields(*changes: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {str(index): cell_fields(Cell(tiny(**change), "", ())) for index, change in enumerate(changes)}


def test_a_plain_study_has_the_usual_columns() -> None:
    frame = cell_columns(fields({}, {"batch_size": 4}, {"variance": "inverted"}))
    assert list(frame) == list(CELL)
    assert frame["batch_size"].tolist() == [8, 4, 8]
    assert frame["normalize"].tolist() == ["biased", "biased", "unbiased"]


def test_what_varies_becomes_a_column_with_its_numbers() -> None:
    frame = cell_columns(fields({"momentum": 0.3}, {"momentum": 0.01}, {"model__depth": 1, "momentum": 0.3}))
    assert list(frame) == [*CELL, "model_depth", "momentum"]
    assert frame["momentum"].tolist() == [0.3, 0.01, 0.3]


def test_what_another_column_tells_already_is_left_out() -> None:
    sgd, adamw = {"optimizer__name": "sgd", "optimizer__lr": 0.1}, {"optimizer__name": "adamw", "optimizer__lr": 0.002}
    assert list(cell_columns(fields(sgd, adamw))) == [*CELL, "optimizer_name"]


def test_conventions_meet_in_one_cell_whatever_tells_their_trainings_apart() -> None:
    own = cell_columns({"a": {"variance.x": 1, **fields({})["0"]}, "b": fields({})["0"]})
    assert list(own) == list(CELL)


@pytest.mark.parametrize("norm", ["group", "none"])
def test_a_baseline_has_no_value_where_a_field_means_nothing(norm: str) -> None:
    frame = cell_columns(fields({"momentum": 0.3}, {"momentum": 0.1}, {"model__norm": norm}))
    assert frame["momentum"].isna().tolist() == [False, False, True]
