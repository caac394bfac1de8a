"""The report of a study on disk."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from bnstudy.analysis.figures.figure import png
from bnstudy.analysis.report.content import content_of
from bnstudy.analysis.report.page import html, markdown
from bnstudy.atomic import atomic_file
from bnstudy.errors import UserError

_OWN = {"figures": (".svg", ".png"), "tables": (".tex",)}
"""Folders that hold nothing but the report's files; what an earlier report left there goes."""


def write_report(folder: Path, tables: Mapping[str, pd.DataFrame], provenance: Mapping[str, Any]) -> list[Path]:
    """Write report.html, report.md, figures/*.svg and *.png, and tables/*.tex; the same input gives the same bytes.

    Args:
        folder: results/NAME.
        tables: as `study_tables` or `bnstudy.load` give them; what is absent is left out of the report, which says so.
        provenance: as `provenance_of` gives it, or as read from provenance.json.

    Returns:
        The files, each complete.

    Raises:
        UserError: the folder cannot be written.

    Source: docs/architecture.md, "The way of a batch size".
    """
    content = content_of(tables, provenance)
    files: dict[Path, bytes] = {
        folder / "report.html": html(content).encode(),
        folder / "report.md": markdown(content, tables.get("summary")).encode(),
    }
    for figure in content.figures:
        if figure.wide:
            files[folder / "figures" / f"{figure.name}.svg"] = figure.wide.encode()
            files[folder / "figures" / f"{figure.name}.png"] = png(figure.wide)
    for name, text in content.papers.items():
        files[folder / "tables" / name] = text.encode()
    try:
        for path, data in files.items():
            with atomic_file(path) as file:
                file.write(data)
        for part, kinds in _OWN.items():
            for path in sorted((folder / part).glob("*")):
                if path not in files and path.suffix in kinds:
                    path.unlink()
    except OSError as error:
        raise UserError(f"results_dir: {str(folder)!r} cannot be written ({error.strerror}); use another folder") from error
    return list(files)
