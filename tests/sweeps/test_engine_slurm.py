"""engine=slurm on a real Slurm of two nodes, started here on loopback."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sweeps.cluster.namespace import wait_until
from tests.sweeps.cluster.slurm_nodes import Slurm, slurm
from tests.sweeps.cluster.studies import (
    Study,
    check_that_a_lost_node_loses_nothing,
    check_that_an_interruption_leaves_nothing_behind,
    check_that_faults_stay_alone,
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster() -> Iterator[Slurm]:
    with slurm() as running:
        yield running


@pytest.fixture
def study(cluster: Slurm, tmp_path: Path) -> Study:
    return Study(cluster.namespace, tmp_path, ("engine=slurm", "engine.memory=2"), cluster.variables)


def test_one_job_raises_and_one_is_killed_and_the_others_are_done(study: Study) -> None:
    check_that_faults_stay_alone(study)


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


def test_ctrl_c_cancels_what_is_queued_and_running(study: Study, cluster: Slurm) -> None:
    check_that_an_interruption_leaves_nothing_behind(study)
    assert cluster.call("squeue", "--noheader", "--states=PENDING,RUNNING") == ""


def test_a_job_that_somebody_cancels_is_named_and_not_started_again(study: Study, cluster: Slurm) -> None:
    asked = ("engine.partition=debug", "engine.time=7", "engine.options={comment:bnstudy}")
    running = study.start("batch_size=4", "epochs=4000", *asked)
    wait_until(lambda: bool(study.claims()), 60, "a job")
    answer = cluster.call("squeue", "--noheader", "--states=RUNNING", "--format=%i|%P|%l|%m|%C|%k").strip()
    number, *got = answer.split("|")
    assert got == ["debug", "7:00", "2G", "1", "bnstudy"]
    cluster.call("scancel", number)
    _, errors = running.communicate(timeout=60)
    assert running.returncode == 1
    assert f"lost: Slurm task {number} ended as CANCELLED; see " in errors


def test_a_partition_that_is_not_there_is_the_users_mistake(study: Study) -> None:
    running = study.start("batch_size=16", "engine.partition=gpus")
    _, errors = running.communicate(timeout=60)
    assert running.returncode == 2
    assert "engine: Slurm refuses the jobs" in errors
    assert "invalid partition" in errors
    assert "Traceback" not in errors


def test_a_lost_node_loses_nothing(study: Study, cluster: Slurm) -> None:
    check_that_a_lost_node_loses_nothing(study, "SLURMD_NODENAME=n2")
    cluster.start_node("n2")
    wait_until(cluster.idle, 60, "both nodes idle")
