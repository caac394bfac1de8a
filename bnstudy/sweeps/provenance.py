"""Where numbers come from: command, commit, versions, machine."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import bnstudy
from bnstudy.sweeps.redaction import redacted_fields

_PACKAGES = ("torch", "torchvision", "numpy", "pandas", "scikit-learn", "hydra-core")


def command_line() -> str:
    """The command as typed, without the path of the program and without secrets."""
    return shlex.join(["bnstudy", *redacted_fields(sys.argv[1:])]) if sys.argv else "bnstudy"


def source_state() -> dict[str, Any]:
    """Version, commit and whether the tree differs from it; an installed wheel has a version only."""
    root = Path(bnstudy.__file__).resolve().parent.parent
    state: dict[str, Any] = {"bnstudy": bnstudy.__version__, "commit": None, "dirty": None}
    if not (root / "pyproject.toml").is_file():
        return state
    try:
        commit = _git(root, "rev-parse", "HEAD")
        # What a run itself writes (results, raw runs) does not make its code another one.
        dirty = bool(_git(root, "status", "--porcelain", "--", "bnstudy", "conf", "experiments"))
    except (OSError, subprocess.SubprocessError):
        return state
    return state | {"commit": commit, "dirty": dirty}


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *arguments], check=True, capture_output=True, text=True, timeout=10)
    return done.stdout.strip()


def versions() -> dict[str, str]:
    """Python's and the packages' versions that a number may depend on."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "missing"
    return found


def machine() -> dict[str, Any]:
    """Processor, cores and system; no host name, which is nobody's business in a published table."""
    model = platform.processor()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    except OSError:
        pass
    return {"processor": model, "cores": os.cpu_count(), "system": f"{platform.system()} {platform.machine()}"}
