"""`bnstudy audit`: measure, print, write."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from bnstudy.errors import UserError, shown
from bnstudy.frameworks.audit import report, table
from bnstudy.frameworks.audit.processes import measure
from bnstudy.frameworks.audit.registry import entries


def audit(
    names: Sequence[str],
    results_dir: Path = Path("results"),
    *,
    timeout: float = 300.0,
    only_report: bool = False,
    console: Console | None = None,
) -> int:
    """Measure which BatchNorm frameworks implement, print the table and write `results_dir/audit/`.

    Without names everything in the registry is measured and the table replaced. With names only those rows are measured
    anew; the others stay as an earlier audit left them.

    Args:
        names: of layers ("flax-linen") or frameworks ("flax"); none for all.
        results_dir: where `audit/` is. Default: results.
        timeout: seconds for each layer. Default: 300.
        only_report: measure nothing, and write the pages again from the table. Default: False.
        console: where the table is printed. Default: standard output.

    Returns:
        Exit code: 0, or 1 when an installed framework could not be measured or a named one is missing.

    Raises:
        UserError: an unknown name, a limit that is not positive, a place that cannot be written to, or an earlier table that
            cannot be read or, with `only_report`, is not there.

    Source: docs/architecture.md, "The audit".
    """
    chosen = entries(names)
    if not timeout > 0:
        raise UserError(f"timeout: {timeout:g} s is no time limit; use a positive number of seconds")
    folder = results_dir / "audit"
    _check_folder(folder)
    kept = table.read(folder) if names or only_report else table.frame([])
    if only_report:
        if kept.empty or names:
            raise UserError(f"only_report: it takes no names, and a table in {folder}; run bnstudy audit first")
        report.write(kept, folder)
        report.show(kept, console or Console())
        return 0
    rows = []
    with Console(stderr=True).status("") as status:
        for place, entry in enumerate(chosen, start=1):
            status.update(f"{entry.name} ({place} of {len(chosen)})")
            rows.append(table.row(measure(entry, timeout)))
    new = table.frame(rows)
    whole = table.frame([*table.rows(kept[~kept["name"].isin(new["name"])]), *rows])
    table.write(whole, folder)
    report.write(whole, folder)
    report.show(new, console or Console())
    failed = (new["status"] == "failed").any() or (bool(names) and (new["status"] == "missing").any())
    return int(failed)


def _check_folder(folder: Path) -> None:
    """Refuse a place that nothing can be written to, before minutes of measuring.

    Raises:
        UserError: part of the path is a file, or the folder cannot be written to.
    """
    try:
        there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    except OSError as error:
        raise UserError(f"results_dir: {shown(str(folder))} cannot be used ({error.strerror}); name a folder") from error
    if not there.is_dir():
        raise UserError(f"results_dir: {there} is a file; name a folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UserError(f"results_dir: {there} cannot be written to; name another folder")
