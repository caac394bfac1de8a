"""What was written to a folder of results, so that what is no longer part of them can go, and nothing else."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from bnstudy.atomic import DamagedError, read_file
from bnstudy.errors import UserError
from bnstudy.sweeps.store import read_json


def written_by(manifest: Path) -> dict[str, str]:
    """Files that an earlier writer named in its manifest, by path below the manifest's folder, with their digests.

    Args:
        manifest: a JSON file with `files`: by path, each with its `sha256`; none where it is not there or damaged.
    """
    try:
        files = (read_json(manifest) or {}).get("files")
    except (DamagedError, UserError):
        return {}
    if not isinstance(files, dict):
        return {}
    digests = {name: facts.get("sha256") for name, facts in files.items() if isinstance(facts, dict)}
    return {name: digest for name, digest in digests.items() if isinstance(digest, str)}


def remove_written(folder: Path, files: Mapping[str, str]) -> None:
    """Remove files that are still what their writer wrote; what somebody has changed, or put elsewhere, stays.

    Args:
        folder: where the paths begin.
        files: digests by path.
    """
    for name, digest in files.items():
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or not path.parts:
            continue
        with contextlib.suppress(DamagedError, UserError, OSError):
            data = read_file(folder / path)
            if data is not None and hashlib.sha256(data).hexdigest() == digest:
                (folder / path).unlink()
