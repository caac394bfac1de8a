"""Studies for clusters: through the real command, with jobs that really raise and workers that are really killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bnstudy.training.config import DatasetConfig
from bnstudy.training.files import data_files
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


def check_that_faults_stay_alone(study: Study) -> None:
    """One job raises, one is killed whenever it starts: the others end done, both are named, a second call does those two.

    The labels of `mnist` are 200, which no plan can see.
    """
    root = study.folder / "data"
    for name in ("kmnist", "fashion_mnist"):
        write_images(root, name)
    write_images(root, "mnist", label=200)
    faults = ("dataset=digits,gaussian,kmnist,fashion_mnist,mnist", "batch_size=16", "epochs=30")

    running = study.start(*faults)
    raised, victim = study.job("mnist"), study.job("gaussian")
    killer = study.kill_whenever_it_starts(victim)
    _, errors = running.communicate(timeout=300)
    study.namespace.kill("BNSTUDY_TEST=killer")
    assert len(killer.communicate()[0].split()) == 2, "it is started twice"
    assert running.returncode == 1, errors
    assert f"{raised}: failed: " in errors
    assert f"{victim}: lost: " in errors
    first = study.records()
    assert {name for name, record in first.items() if record["status"] == "done"} == {
        study.job(name) for name in ("digits", "kmnist", "fashion_mnist")
    }
    assert first[raised]["status"] == "failed"
    assert "labels from 200" in first[raised]["traceback"]
    assert first[raised]["attempt"] == 1, "a job's own exception is not retried"
    assert victim not in first

    write_images(root, "mnist")
    again = study.start(*faults, "retry_failed=true")
    _, errors = again.communicate(timeout=300)
    assert again.returncode == 0, errors
    second = study.records()
    changed = {name for name, record in second.items() if record != first.get(name)}
    assert changed == {raised, victim}
    assert {record["status"] for record in second.values()} == {"done"}


def check_that_an_interruption_leaves_nothing_behind(study: Study) -> None:
    """SIGINT ends the command within 5 s, with its jobs; the same command then goes on."""
    many = ("batch_size=2,4,8,16", "epochs=4000")
    running = study.start(*many)
    wait_until(lambda: any(claim["step"] > 0 for claim in study.claims().values()), 120, "a job that makes steps")
    os.kill(study.namespace.entered(running), signal.SIGINT)
    began = time.monotonic()
    _, errors = running.communicate(timeout=60)
    took = time.monotonic() - began
    assert running.returncode == 130, errors
    assert "goes on from here" in errors
    assert "Traceback" not in errors
    assert took < 5, f"{took:.1f} s"
    alive = {process.inner for process in study.namespace.processes()}
    assert not [claim for claim in study.claims().values() if claim["pid"] in alive]
    assert study.records() == {}


def check_that_a_lost_node_loses_nothing(study: Study, mark: str) -> None:
    """Every process of a node is killed while it trains; all jobs end done, the one it had at another attempt.

    Args:
        study: on a cluster of two nodes.
        mark: NAME=value, a variable of every process of the node.
    """
    running = study.start("batch_size=4,8,16,32,64", "epochs=200")
    struck: list[str] = []

    def training_there() -> bool:
        inner = {process.inner for process in study.namespace.processes() if mark in process.environ}
        struck[:] = [job for job, claim in study.claims().items() if claim["pid"] in inner and claim["step"] > 0]
        return bool(struck)

    wait_until(training_there, 120, "a job on the node")
    assert study.namespace.kill(mark) > 1
    _, errors = running.communicate(timeout=400)
    assert running.returncode == 0, errors
    records = study.records()
    assert len(records) == 5
    assert {record["status"] for record in records.values()} == {"done"}
    assert {job for job, record in records.items() if record["attempt"] == 2} == set(struck)
