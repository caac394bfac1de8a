"""engine=ray on a real Ray of two nodes, started here on loopback."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sweeps.cluster.namespace import wait_until
from tests.sweeps.cluster.ray_nodes import SECOND, Ray, ray, ray_space
from tests.sweeps.cluster.studies import (
    Study,
    check_that_a_lost_node_loses_nothing,
    check_that_an_interruption_leaves_nothing_behind,
    check_that_faults_stay_alone,
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster() -> Iterator[Ray]:
    with ray() as running:
        yield running


@pytest.fixture
def study(cluster: Ray, tmp_path: Path) -> Study:
    return Study(cluster.namespace, tmp_path, ("engine=ray", f"engine.address={cluster.address}"), cluster.variables)


def test_one_job_raises_and_one_is_killed_and_the_others_are_done(study: Study) -> None:
    check_that_faults_stay_alone(study)


def test_ctrl_c_cancels_what_is_queued_and_running(study: Study) -> None:
    check_that_an_interruption_leaves_nothing_behind(study)


def test_a_cluster_that_is_not_there_is_the_users_mistake(study: Study) -> None:
    absent = dataclasses.replace(study, arguments=("engine=ray", "engine.address=127.0.0.1:6380"))
    running = absent.start("batch_size=16")
    _, errors = running.communicate(timeout=90)
    assert running.returncode == 2
    assert "engine.address: '127.0.0.1:6380' cannot be reached" in errors
    assert "Traceback" not in errors


def test_without_an_address_it_starts_a_ray_of_its_own_behind_a_token_and_ends_it(tmp_path: Path) -> None:
    with ray_space() as alone:
        study = Study(
            alone.namespace, tmp_path, ("engine=ray", "engine.workers=2"), {"RAY_TMPDIR": alone.variables["RAY_TMPDIR"]}
        )
        running = study.start("batch_size=16,32", "epochs=1")
        wait_until(lambda: bool(study.claims()), 120, "a job")
        started = [process for process in alone.namespace.processes() if "RAY_AUTH_MODE=token" in process.environ]
        assert started
        assert all(any(text.startswith("RAY_AUTH_TOKEN=") for text in process.environ) for process in started)
        _, errors = running.communicate(timeout=120)
        assert running.returncode == 0, errors
        assert {record["status"] for record in study.records().values()} == {"done"}
        left = {process.pid for process in alone.namespace.processes()}
        assert not left & {process.pid for process in started}


def test_a_lost_node_loses_nothing(study: Study) -> None:
    """The node has a host name of its own, so its claim is believed until it expires, a minute later."""
    check_that_a_lost_node_loses_nothing(study, SECOND)
