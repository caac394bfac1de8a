"""Studies for clusters: through the real command, with jobs that really raise and workers that are really killed."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bnstudy.training.config import DatasetConfig
from bnstudy.training.data import data_files
from tests.sweeps.cluster.namespace import Namespace, wait_until

PROGRAM = str(Path(sys.executable).parent / "bnstudy")
SMALL = ("model.width=16", "model.depth=1", "seeds=2", "device=cpu", "dataset.train_size=200", "dataset.test_size=100")
_MARK = {"BNSTUDY_TEST": "killer"}
# Kill the process that holds a claim, each time that there is a new one.
_KILLER = """
import json, os, signal, sys, time
seen = set()
while True:
    try:
        claim = json.load(open(sys.argv[1]))
        if claim["since"] not in seen:
            seen.add(claim["since"])
            os.kill(claim["pid"], signal.SIGKILL)
            print(claim["pid"], flush=True)
    except (OSError, ValueError):
        pass
    time.sleep(0.003)
"""


@dataclass(frozen=True)
class Study:
    """A study in a folder, on a cluster.

    Args:
        namespace: where the command runs.
        folder: where it is typed.
        arguments: of `bnstudy run`.
        variables: its environment.
    """

    namespace: Namespace
    folder: Path
    arguments: tuple[str, ...]
    variables: Mapping[str, str]

    def start(self, *more: str) -> subprocess.Popen[str]:
        """Type the command."""
        command = (PROGRAM, "run", "-m", "name=study", *SMALL, *self.arguments, *more)
        return self.namespace.start(*command, folder=self.folder, variables=self.variables)

    def records(self) -> dict[str, dict[str, Any]]:
        """Records of the jobs in the store."""
        found = {path.parent.name: path for path in (self.folder / "outputs" / "jobs").glob("*/job.json")}
        return {name: json.loads(path.read_text()) for name, path in sorted(found.items())}

    def claims(self) -> dict[str, dict[str, Any]]:
        """Claims in the store, as last seen."""
        found = {}
        for path in (self.folder / "outputs" / "claims").glob("*.json"):
            try:
                found[path.stem] = json.loads(path.read_text())
            except (OSError, ValueError):
                continue
        return found

    def job(self, dataset: str) -> str:
        """Name of the one job on a data set."""
        path = self.folder / "outputs" / "studies" / "study.json"
        wait_until(path.exists, 60, "a plan")
        cells = json.loads(path.read_text())["cells"]
        (name,) = {job for cell in cells if cell["fields"]["dataset.name"] == dataset for job in cell["jobs"]}
        return str(name)

    def kill_whenever_it_starts(self, job: str) -> subprocess.Popen[str]:
        """A process that kills the worker of a job, again and again; it prints whom."""
        path = str(self.folder / "outputs" / "claims" / f"{job}.json")
        return self.namespace.start(sys.executable, "-c", _KILLER, path, folder=self.folder, variables=_MARK)


@dataclass(frozen=True)
class Cluster:
    """A cluster of two nodes that runs.

    Args:
        namespace: where its processes are.
        variables: what a command needs in its environment to reach it.
        arguments: of `bnstudy run`, to use it.
    """

    namespace: Namespace
    variables: dict[str, str]
    arguments: tuple[str, ...]

    def study(self, folder: Path) -> Study:
        """A study on this cluster."""
        return Study(self.namespace, folder, self.arguments, self.variables)

    def node_to_lose(self) -> str:
        """NAME=value, a variable of every process of a node that nobody will miss afterwards."""
        raise NotImplementedError


def write_images(root: Path, name: str, label: int | None = None) -> None:
    """The files of a set of MNIST's family, full length: noise, sparse, labelled 0 to 9, or all `label`."""
    random = np.random.default_rng(0)
    for file in data_files(DatasetConfig(name=name, root=str(root))):
        assert file.size is not None
        file.path.parent.mkdir(parents=True, exist_ok=True)
        count = file.size - len(file.header)
        values = random.integers(0, 10 if "labels" in file.path.name else 256, min(count, 800_000), dtype=np.uint8)
        if label is not None and "labels" in file.path.name:
            values = np.full(count, label, dtype=np.uint8)
        with file.path.open("wb") as stream:
            stream.write(file.header)
            stream.write(values.tobytes())
            stream.truncate(file.size)
