"""Which columns name a cell: the usual ones, and every field of the configuration that tells apart what they do not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from bnstudy.analysis.comparable import SIDES
from bnstudy.analysis.schemas import CELL
from bnstudy.batchnorm.conventions import RESCALED, Convention

_SHORT = {"dataset.name": "dataset", "model.name": "model", "model.norm": "norm", "variance.normalize": "normalize"}


def cell_columns(fields: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """Columns that name each training's cell.

    Of the fields that vary, those that a name already tells are left out (AdamW has other fields than SGD). What tells two
    conventions apart is no column: a cell is where they meet.

    Args:
        fields: for every training its flat configuration, as in `training_fields`.

    Returns:
        A row a training (its index): `CELL`, and the fields that vary, dots in their names as underscores.
    """
    frame = pd.DataFrame(fields).T
    if "variance.normalize" not in frame:
        frame["variance.normalize"] = None
    frame["variance.normalize"] = frame["variance.normalize"].fillna("biased")  # a baseline: the side does not matter
    if "variance.rescaled" in frame:
        frame.loc[frame["variance.rescaled"].eq(True), "variance.normalize"] = SIDES[RESCALED]
    frame = frame.rename(columns=_SHORT)
    texts = frame.map(str)
    candidates = [column for column in map(str, frame) if column not in CELL and not column.startswith("variance.")]
    names = [column for column in candidates if column.endswith((".name", "port.variance"))]
    varying = []
    for column in candidates:
        others = [*CELL, *(names if column not in names else ())]
        if _groups(texts, [*others, column]) > _groups(texts, others):
            varying.append(column)
    frame = frame[[*CELL, *varying]].infer_objects()
    frame.columns = [str(column).replace(".", "_") for column in frame.columns]
    for column in frame.columns:
        if frame[column].dtype == object:
            numeric = pd.to_numeric(frame[column], errors="coerce")
            frame[column] = numeric if numeric.notna().sum() == frame[column].notna().sum() else frame[column].astype("str")
    return frame


def _groups(texts: pd.DataFrame, columns: list[str]) -> int:
    return int(texts.groupby(columns, sort=False).ngroups)


def arms_of(frame: pd.DataFrame) -> pd.Series[Any]:
    """The arm of each row with `convention` and `norm`: the convention, or "norm=group" where there is no BatchNorm."""
    return frame["convention"].where(frame["norm"] == "batch", "norm=" + frame["norm"].astype(str))


def convention_of(fields: Mapping[str, Any]) -> str:
    """The convention of a cell's flat configuration; "none" for a baseline without BatchNorm."""
    if fields["model.norm"] != "batch":
        return "none"
    if fields.get("variance.rescaled"):
        return RESCALED
    return Convention(fields["variance.normalize"], fields["variance.accumulate"]).name
