"""Tables as files: each is written down with its size, rows and digest, and read only where they are right."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bnstudy.atomic import DamagedError, atomic_file, read_file

if TYPE_CHECKING:
    import pandas as pd

Facts = dict[str, Any]
"""Of a file: `bytes`, `rows`, `sha256`."""


def write_table(path: Path, table: pd.DataFrame) -> Facts:
    """Write a table as Parquet, atomically.

    Returns:
        What its reader will check.

    Raises:
        OSError: from the system.
    """
    buffer = io.BytesIO()
    table.to_parquet(buffer, index=False)
    data = buffer.getvalue()
    with atomic_file(path) as file:
        file.write(data)
    return {"bytes": len(data), "rows": len(table), "sha256": hashlib.sha256(data).hexdigest()}


def read_table(path: Path, facts: Mapping[str, Any] | None) -> pd.DataFrame:
    """Read a table.

    Args:
        path: the file.
        facts: from `write_table`; None where nobody wrote them down, as before there were any.

    Raises:
        DamagedError: missing, or not what was written.
        UserError: it cannot be read now.
    """
    import pandas as pd

    data = _sound(path, facts)
    try:
        table: pd.DataFrame = pd.read_parquet(io.BytesIO(data))
    except Exception as error:  # whatever a reader of damaged bytes stumbles over
        raise DamagedError("is no table") from error
    if facts is not None and len(table) != facts["rows"]:
        raise DamagedError(f"has {len(table)} rows instead of {facts['rows']}")
    return table


def check_table(path: Path, facts: Mapping[str, Any] | None, job: str) -> None:
    """Find out whether a job's table is what was written, without reading it as a table.

    Where nobody wrote down what it should be, its own head says whose rows it has.

    Raises:
        DamagedError, UserError: as `read_table`; and rows of another job.
    """
    data = _sound(path, facts)
    if facts is not None:
        return
    import pyarrow.parquet as pq

    try:
        metadata = pq.read_metadata(io.BytesIO(data))
        column = metadata.schema.names.index("job")
        groups = [metadata.row_group(index).column(column).statistics for index in range(metadata.num_row_groups)]
        owners = {end for group in groups if group is not None and group.has_min_max for end in (group.min, group.max)}
    except Exception as error:  # see above
        raise DamagedError("is no table") from error
    if owners - {job}:
        raise DamagedError(f"has the rows of {min(owners - {job})}")


def _sound(path: Path, facts: Mapping[str, Any] | None) -> bytes:
    data = read_file(path)
    if data is None:
        raise DamagedError("is missing")
    if facts is not None:
        if len(data) != facts["bytes"]:
            raise DamagedError(f"has {len(data)} bytes instead of {facts['bytes']}")
        if hashlib.sha256(data).hexdigest() != facts["sha256"]:
            raise DamagedError("is not what was written")
    return data
