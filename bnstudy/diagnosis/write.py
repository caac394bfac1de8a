"""A diagnosis on disk."""

from __future__ import annotations

from pathlib import Path

from bnstudy.atomic import atomic_file
from bnstudy.diagnosis.machine import to_json
from bnstudy.diagnosis.page import html
from bnstudy.diagnosis.result import Diagnosis
from bnstudy.errors import UserError


def write_diagnosis(folder: Path, diagnosis: Diagnosis) -> list[Path]:
    """Write diagnosis.html and diagnosis.json; the same diagnosis gives the same bytes.

    Args:
        folder: made if it is not there.
        diagnosis: any.

    Returns:
        The two files, each complete.

    Raises:
        UserError: the folder cannot be written.

    Source: bnstudy issue 7, part 5.
    """
    files = {folder / "diagnosis.html": html(diagnosis), folder / "diagnosis.json": to_json(diagnosis) + "\n"}
    try:
        for path, text in files.items():
            with atomic_file(path) as file:
                file.write(text.encode())
    except OSError as error:
        raise UserError(f"folder: {str(folder)!r} cannot be written ({error.strerror}); use another folder") from error
    return list(files)
