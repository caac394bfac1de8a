"""Run one entry's experiment in its own process, with one thread, on the CPU, and within a time limit.

A framework gets a process of its own: some choose their backend once, some log at start-up, some cannot live beside others.
The child is this module too: `python -m bnstudy.frameworks.audit.processes NAME FILE` measures a layer into a .npz file.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from bnstudy.frameworks.audit.experiment import observe
from bnstudy.frameworks.audit.observations import Observations
from bnstudy.frameworks.audit.registry import Entry, entries

_ENVIRONMENT = {
    "CUDA_VISIBLE_DEVICES": "",
    "GLOG_minloglevel": "3",
    "JAX_PLATFORMS": "cpu",
    "MKL_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "TF_NUM_INTEROP_THREADS": "1",
    "TF_NUM_INTRAOP_THREADS": "1",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
}


@dataclass(frozen=True)
class Measurement:
    """What became of an entry.

    Args:
        entry: which.
        status: "measured", "missing" (a package is not installed) or "failed".
        reason: one line, empty when measured.
        versions: of its packages that are installed.
        observations: None unless measured.
    """

    entry: Entry
    status: str
    reason: str
    versions: dict[str, str]
    observations: Observations | None


def measure(entry: Entry, timeout: float = 300.0) -> Measurement:
    """Measure an entry in a child process.

    Args:
        entry: which.
        timeout: seconds before the child is ended. Default: 300.

    Returns:
        The observations, or why there are none. What a framework prints goes nowhere; its last line is the reason if it
        fails.
    """
    found = {package: _version(package) for package in entry.packages}
    versions = {version[0]: version[1] for version in found.values() if version is not None}
    missing = [package.split("|")[0] for package, version in found.items() if version is None]
    if missing:
        return Measurement(entry, "missing", f"not installed: {', '.join(missing)}", versions, None)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "observations.npz"
        command = [sys.executable, "-m", "bnstudy.frameworks.audit.processes", entry.name, str(path)]
        environment = os.environ | _ENVIRONMENT | entry.environment | {"PYTHONPATH": os.pathsep.join(sys.path)}
        try:
            done = subprocess.run(
                command, env=environment, cwd=folder, capture_output=True, timeout=timeout, check=False,
                stdin=subprocess.DEVNULL, text=True, errors="replace",
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return Measurement(entry, "failed", f"no answer within {timeout:g} s", versions, None)
        if done.returncode != 0:
            return Measurement(entry, "failed", _last_line(done.stderr, done.returncode), versions, None)
        return Measurement(entry, "measured", "", versions, Observations.load(path))


def _version(package: str) -> tuple[str, str] | None:
    """(name, version) of the first installed of "name|name"."""
    for name in package.split("|"):
        try:
            return name, importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def _last_line(stderr: str, code: int) -> str:
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    return lines[-1][:200] if lines else f"the child process ended with code {code}"


def _child(name: str, path: Path) -> None:
    (entry,) = entries([name])
    adapter = importlib.import_module(f"bnstudy.frameworks.audit.adapters.{entry.module}")
    observe(adapter.kind(entry.name)).save(path)


if __name__ == "__main__":
    _child(sys.argv[1], Path(sys.argv[2]))
