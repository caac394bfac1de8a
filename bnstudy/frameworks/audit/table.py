"""The audit's table: one row a layer, checked by a schema on the way to the disk and back."""

from __future__ import annotations

import math
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pandera.pandas as pa

from bnstudy.atomic import atomic_file
from bnstudy.batchnorm.conventions import CONVENTIONS
from bnstudy.errors import UserError
from bnstudy.frameworks.audit.agreement import largest_difference
from bnstudy.frameworks.audit.behaviour import identify
from bnstudy.frameworks.audit.processes import Measurement
from bnstudy.frameworks.audit.registry import ENTRIES

FILE = "frameworks.parquet"

_TEXT = ("name", "layer", "framework", "version", "versions", "status", "reason", "convention", "oddities", "remarks",
         "normalize", "accumulate", "buffer", "schedule", "momentum_means", "bias_correction", "eps_place", "eval_place",
         "single", "python", "platform", "device")  # fmt: skip
_NUMBERS = ("normalize_factor", "accumulate_factor", "weight", "momentum_default", "eps", "eval_eps", "start_mean",
            "start_variance", "residual", "runner_up", "difference")  # fmt: skip
SCHEMA = pa.DataFrameSchema(
    {
        **{name: pa.Column(str) for name in _TEXT},
        **{name: pa.Column(float, nullable=True) for name in _NUMBERS},
        "status": pa.Column(str, pa.Check.isin(["measured", "missing", "failed"])),
        "name": pa.Column(str, unique=True),
        "convention": pa.Column(str, pa.Check.isin([*CONVENTIONS, "unknown", ""])),
    },
    strict=True,
)
"""Columns are the fields of `Behaviour`; texts are empty and numbers NaN where nothing was measured."""


def row(measurement: Measurement) -> dict[str, Any]:
    """The row of a measurement: identified, and compared with bnstudy's own layer."""
    entry, versions = measurement.entry, measurement.versions
    found: dict[str, Any] = dict.fromkeys(_TEXT, "") | dict.fromkeys(_NUMBERS, math.nan)
    found |= {
        "name": entry.name,
        "layer": entry.layer,
        "framework": entry.framework,
        "version": next((versions[name] for name in entry.packages[0].split("|") if name in versions), ""),
        "versions": ", ".join(f"{package} {version}" for package, version in versions.items()),
        "status": measurement.status,
        "reason": measurement.reason,
        "python": platform.python_version(),
        "platform": f"{sys.platform}-{platform.machine()}",
        "device": "cpu",
    }
    if measurement.observations is not None:
        behaviour = identify(measurement.observations)
        difference = largest_difference(measurement.observations, behaviour)
        fields = {key: value for key, value in vars(behaviour).items() if key in found}
        texts = {key: "; ".join(getattr(behaviour, key)) for key in ("oddities", "remarks")}
        found |= fields | texts | {"difference": math.nan if difference is None else difference}
    return found


def frame(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """A checked table of rows, in the registry's order."""
    order = {entry.name: place for place, entry in enumerate(ENTRIES)}
    ordered = sorted(rows, key=lambda one: order.get(one["name"], len(order)))
    table = pd.DataFrame(ordered, columns=[*_TEXT, *_NUMBERS]).astype(
        {**dict.fromkeys(_TEXT, str), **dict.fromkeys(_NUMBERS, float)}
    )
    checked: pd.DataFrame = SCHEMA.validate(table)
    return checked


def rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a table, as `frame` takes them."""
    return [{str(key): value for key, value in one.items()} for one in table.to_dict("records")]


def read(folder: Path) -> pd.DataFrame:
    """The table of an earlier audit; empty where there is none.

    Raises:
        UserError: a file that is no such table.
    """
    path = folder / FILE
    if not path.exists():
        return frame([])
    try:
        table: pd.DataFrame = SCHEMA.validate(pd.read_parquet(path))
    except Exception as error:
        raise UserError(f"results_dir: {path} is no table of an audit; move it away and run the audit again") from error
    return table


def write(table: pd.DataFrame, folder: Path) -> None:
    """Write the table as Parquet, through a temporary name."""
    with atomic_file(folder / FILE) as file:
        SCHEMA.validate(table).to_parquet(file, index=False)
