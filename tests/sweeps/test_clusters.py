"""engine=slurm and engine=ray through the real command, on a real Slurm and a real Ray of two nodes on loopback."""

from __future__ import annotations

import dataclasses
import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sweeps.cluster.namespace import Process, wait_until
from tests.sweeps.cluster.ray_nodes import RAY, Ray, ray, ray_space
from tests.sweeps.cluster.slurm_nodes import Slurm, slurm
from tests.sweeps.cluster.studies import Cluster, Study, write_images

_SLURM = pytest.param("slurm", marks=pytest.mark.xdist_group("slurm"))
_RAY = pytest.param("ray", marks=pytest.mark.xdist_group("ray"))
on_both = pytest.mark.parametrize("cluster", [_SLURM, _RAY], indirect=True)
on_slurm = pytest.mark.parametrize("cluster", [_SLURM], indirect=True)
on_ray = pytest.mark.parametrize("cluster", [_RAY], indirect=True)
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    with slurm() if request.param == "slurm" else ray() as running:
        yield running


@pytest.fixture
def study(cluster: Cluster, tmp_path: Path) -> Study:
    return cluster.study(tmp_path)


@on_both
def test_one_job_raises_and_one_is_killed_and_the_others_are_done(study: Study) -> None:
    """Both are named, the exit code is 1, and a second call does only those two.

    The labels of `mnist` are 200, which no plan can see; the worker of `gaussian` is killed whenever it starts.
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
    assert re.search(rf"{raised} \(.*\): failed: ", errors)
    assert re.search(rf"{victim} \(.*\): lost: ", errors)
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


@on_both
def test_ctrl_c_cancels_what_is_queued_and_running(study: Study, cluster: Cluster) -> None:
    running = study.start("batch_size=2,4,8,16", "epochs=4000")
    wait_until(lambda: any(claim["step"] > 0 for claim in study.claims().values()), 120, "a job that makes steps")
    os.kill(study.namespace.entered(running), signal.SIGINT)
    began = time.monotonic()
    _, errors = running.communicate(timeout=60)
    took = time.monotonic() - began
    assert running.returncode == 130, errors
    assert "goes on from here" in errors
    assert "Traceback" not in errors
    assert took < 5, f"{took:.1f} s"

    def nobody_works() -> bool:
        alive = {process.inner for process in study.namespace.processes()}
        return not [claim for claim in study.claims().values() if claim["pid"] in alive]

    wait_until(nobody_works, 10, "no claim of a living process")
    assert study.records() == {}
    if isinstance(cluster, Slurm):
        assert cluster.call("squeue", "--noheader", "--states=PENDING,RUNNING") == ""


@on_slurm
def test_logs_and_pickles_go_when_all_is_well_and_stay_when_a_job_is_lost(study: Study) -> None:
    running = study.start("batch_size=16,32", "epochs=1")
    _, errors = running.communicate(timeout=120)
    assert running.returncode == 0, errors
    assert list((study.folder / "outputs" / "slurm").iterdir()) == []

    running = study.start("batch_size=64", "epochs=1", "engine.setup=[exit 3]")
    _, errors = running.communicate(timeout=120)
    assert running.returncode == 1
    assert "ended as FAILED (NonZeroExitCode); see " in errors
    (folder,) = (study.folder / "outputs" / "slurm").iterdir()
    assert errors.split("; see ")[1].splitlines()[0].startswith(str(folder))


@on_slurm
def test_a_job_that_somebody_cancels_is_named_and_not_started_again(study: Study, cluster: Slurm) -> None:
    asked = ("engine.partition=debug", "engine.time=7", "engine.options={comment:bnstudy}")
    running = study.start("batch_size=4", "epochs=4000", *asked)
    wait_until(lambda: bool(study.claims()), 120, "a job")
    answer = cluster.call("squeue", "--noheader", "--states=RUNNING", "--format=%i|%P|%l|%m|%C|%k").strip()
    number, *got = answer.split("|")
    assert got == ["debug", "7:00", "2G", "1", "bnstudy"]
    cluster.call("scancel", number)
    _, errors = running.communicate(timeout=60)
    assert running.returncode == 1
    assert f"lost: Slurm task {number} ended as CANCELLED; see " in errors


@on_slurm
def test_a_partition_that_is_not_there_is_the_users_mistake(study: Study) -> None:
    running = study.start("batch_size=16", "engine.partition=gpus")
    _, errors = running.communicate(timeout=60)
    assert running.returncode == 2
    assert "engine: Slurm refuses the jobs" in errors
    assert "invalid partition" in errors
    assert "Traceback" not in errors


@on_ray
def test_a_job_too_large_for_every_node_is_the_users_mistake(study: Study) -> None:
    running = study.start("batch_size=16", "engine.threads=64")
    _, errors = running.communicate(timeout=90)
    assert running.returncode == 2
    assert "engine.threads: 64 cores and engine.gpus_per_job: 0 GPUs a job fit on no node of the cluster" in errors
    assert "Traceback" not in errors


@on_ray
def test_a_cluster_that_is_not_there_is_the_users_mistake(study: Study) -> None:
    absent = dataclasses.replace(study, arguments=("engine=ray", "engine.address=127.0.0.1:6380"))
    running = absent.start("batch_size=16")
    _, errors = running.communicate(timeout=90)
    assert running.returncode == 2
    assert "engine.address: '127.0.0.1:6380' cannot be reached" in errors
    assert "Traceback" not in errors


@pytest.mark.xdist_group("ray")
def test_without_an_address_it_starts_a_ray_of_its_own_and_ends_it(tmp_path: Path) -> None:
    with ray_space() as alone:
        study = own_ray(alone, tmp_path)
        running = study.start("batch_size=16,32", "epochs=1")
        wait_until(lambda: bool(servers(alone)), 120, "a Ray")
        _, errors = running.communicate(timeout=120)
        assert running.returncode == 0, errors
        assert {record["status"] for record in study.records().values()} == {"done"}
        wait_until(lambda: not servers(alone), 30, "the end of Ray")


@pytest.mark.xdist_group("ray")
def test_a_ray_of_its_own_keeps_out_whoever_has_no_token_and_ends_with_ctrl_c(tmp_path: Path) -> None:
    """Ray's own command asks for its status: with the study's token, with another one, and with none."""
    with ray_space() as alone:
        running = own_ray(alone, tmp_path).start("batch_size=2,4", "epochs=4000")
        wait_until(lambda: "raylet" in servers(alone) and "gcs_server" in servers(alone), 120, "a Ray")
        (address,) = (
            argument.removeprefix("--gcs-address=")
            for argument in servers(alone)["raylet"].command
            if argument.startswith("--gcs-address=")
        )
        variables = dict(text.split("=", 1) for text in servers(alone)["gcs_server"].environ if "=" in text)
        known = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": variables["RAY_AUTH_TOKEN"]}
        answers = []
        for visitor in (known, known | {"RAY_AUTH_TOKEN": "0" * 64}, {"RAY_AUTH_MODE": "disabled"}):
            asking = alone.namespace.start(RAY, "status", f"--address={address}", folder=tmp_path, variables=visitor)
            _, errors = asking.communicate(timeout=60)
            answers.append((asking.returncode, "AuthenticationError" in errors))
        assert answers == [(0, False), (1, True), (1, True)]
        assert running.poll() is None, "the study runs all the while"
        os.kill(alone.namespace.entered(running), signal.SIGINT)
        _, errors = running.communicate(timeout=60)
        assert running.returncode == 130, errors
        wait_until(lambda: not servers(alone), 30, "the end of Ray")


def own_ray(alone: Ray, folder: Path) -> Study:
    """A study that starts a Ray of its own, where no other one runs."""
    variables = {"RAY_TMPDIR": alone.variables["RAY_TMPDIR"]}
    return Study(alone.namespace, folder, ("engine=ray", "engine.workers=2"), variables)


def servers(alone: Ray) -> dict[str, Process]:
    """Ray's two servers by name, if they run: neither takes a new name."""
    found = {Path(process.command[0]).name: process for process in alone.namespace.processes()}
    return {name: found[name] for name in ("gcs_server", "raylet") if name in found}


@on_both
def test_networks_and_data_of_one_s_own_are_found_on_every_node(study: Study, tmp_path: Path) -> None:
    """The data beside the command, the network in a folder that only the command's own search path has."""
    library = tmp_path / "library"
    library.mkdir()
    (library / "clusternets.py").write_text(
        "from torch import nn\n\ndef build(shape, outputs):\n"
        "    return nn.Sequential(nn.Linear(*shape, 8), nn.BatchNorm1d(8), nn.Dropout(0.1), nn.Linear(8, outputs))\n"
    )
    (study.folder / "clusterdata.py").write_text(
        "from sklearn.datasets import load_breast_cancer\n\ndef load():\n"
        "    x, y = load_breast_cancer(return_X_y=True)\n    return x, y, x[::3], y[::3]\n"
    )
    own = dataclasses.replace(study, variables={**study.variables, "PYTHONPATH": str(library)})
    imports = ("model=import", "model.factory=clusternets:build", "dataset=import", "dataset.factory=clusterdata:load")
    running = own.start(*imports, "batch_size=10", "epochs=1")
    _, errors = running.communicate(timeout=200)
    assert running.returncode == 0, errors
    assert {record["status"] for record in own.records().values()} == {"done"}
    assert len(own.records()) == 2, "dropout: a job for each seed"


@on_both
def test_a_lost_node_loses_nothing(study: Study, cluster: Cluster) -> None:
    """Every process of a node is killed while it trains; all jobs end done, the one it had at another attempt."""
    mark = cluster.node_to_lose()
    running = study.start("batch_size=4,5,6,8", "epochs=300")  # each job outlasts a heartbeat, which tells its step
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
    assert len(records) == 4
    assert {record["status"] for record in records.values()} == {"done"}
    assert {job for job, record in records.items() if record["attempt"] == 2} == set(struck)
