"""`bnstudy audit`: measure, print, write."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from bnstudy.errors import UserError
from bnstudy.frameworks.audit import report, table
from bnstudy.frameworks.audit.processes import measure
from bnstudy.frameworks.audit.registry import entries


def audit(
    names: Sequence[str],
    results_dir: Path = Path("results"),
    *,
    timeout: float = 300.0,
    console: Console | None = None,
) -> int:
    """Measure which BatchNorm frameworks implement, print the table and write `results_dir/audit/`.

    Without names everything in the registry is measured and the table replaced. With names only those rows are measured
    anew; the others stay as an earlier audit left them.

    Args:
        names: of layers ("flax-linen") or frameworks ("flax"); none for all.
        results_dir: where `audit/` is. Default: results.
        timeout: seconds for each layer. Default: 300.
        console: where the table is printed. Default: standard output.

    Returns:
        Exit code: 0, or 1 when an installed framework could not be measured or a named one is missing.

    Raises:
        UserError: an unknown name, a limit that is not positive, or an earlier table that cannot be read.

    Source: bnstudy issue 6.
    """
    chosen = entries(names)
    if not timeout > 0:
        raise UserError(f"timeout: {timeout:g} s is no time limit; use a positive number of seconds")
    folder = results_dir / "audit"
    if folder.exists() and not folder.is_dir():
        raise UserError(f"results_dir: {folder} is a file; name a folder")
    kept = table.read(folder) if names else table.frame([])
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
