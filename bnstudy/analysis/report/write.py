"""The report of a study on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from bnstudy.analysis.manifest import remove_written, written_by
from bnstudy.analysis.report.content import content_of
from bnstudy.analysis.report.page import html, markdown
from bnstudy.analysis.results import require_own
from bnstudy.atomic import atomic_file, sweep
from bnstudy.errors import UserError
from bnstudy.sweeps.store import write_json

MANIFEST = "report.json"
"""Names the files of a report with their digests: what the next one does not write goes, if nobody has changed it."""


def write_report(folder: Path, tables: Mapping[str, pd.DataFrame], provenance: Mapping[str, Any]) -> list[Path]:
    """Write report.html, report.md, figures/*.svg and *.png, tables/*.tex and a manifest; equal input gives equal bytes.

    Args:
        folder: results/NAME.
        tables: as `study_tables` or `bnstudy.load` give them; what is absent is left out of the report, which says so.
        provenance: as `provenance_of` gives it, or as read from provenance.json.

    Returns:
        The files, each complete.

    Raises:
        UserError: the folder cannot be written, or holds something else than a study of that name.

    Source: docs/architecture.md, "The way of a batch size".
    """
    require_own(folder)
    sweep(folder, folder / "figures", folder / "tables")
    content = content_of(tables, provenance)
    files = {"report.html": html(content), "report.md": markdown(content, tables.get("summary"))}
    files |= {f"tables/{name}": text for name, text in content.papers.items()}
    data = {name: text.encode() for name, text in files.items()}
    for figure in content.figures:
        if figure.wide:
            data[f"figures/{figure.name}.svg"] = figure.wide.encode()
            data[f"figures/{figure.name}.png"] = figure.png
    before = written_by(folder / MANIFEST)
    try:
        for name, content_of_file in data.items():
            with atomic_file(folder / name) as file:
                file.write(content_of_file)
        digests = {name: {"sha256": hashlib.sha256(written).hexdigest()} for name, written in sorted(data.items())}
        write_json(folder / MANIFEST, {"files": digests})
        remove_written(folder, {name: digest for name, digest in before.items() if name not in data})
    except OSError as error:
        raise UserError(f"results_dir: {str(folder)!r} cannot be written ({error.strerror}); use another folder") from error
    return [folder / name for name in (*data, MANIFEST)]
