"""Jobs on Ray: a cluster that is there, or one of our own on this machine."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import signal
import socket
import sys
import threading
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import Any

from bnstudy.errors import UserError, first_line
from bnstudy.factories import search_path
from bnstudy.printing import say
from bnstudy.sweeps.config import EngineConfig
from bnstudy.sweeps.engines.attempt import ATTEMPTS, attempt_job, gpus
from bnstudy.sweeps.engines.local import workers
from bnstudy.sweeps.job import Outcome
from bnstudy.sweeps.plan import Job
from bnstudy.sweeps.store import Record

_OBJECT_STORE = 100 * 2**20  # bytes; nothing large ever lies there, and Ray would take a third of the memory
_GRACE = 2.0  # seconds in which cancelled jobs may let go of their claims


def run_ray(jobs: Sequence[Job], root: str, source: Record, config: EngineConfig) -> Generator[Outcome, None, None]:
    """Run jobs as tasks of Ray, in their order, and yield each outcome as it comes.

    A worker or node that dies is not the job's own fault: the job starts again, and is reported as "lost" after
    `ATTEMPTS`. (Ray's own retries are off, so that an attempt is counted and recorded.) Closing the generator cancels what
    is queued and running. Ray pickles a job on its way to the worker, and its outcome on the way back; nothing else.

    Args:
        jobs: what to run.
        root: the store's folder; every node must see it under this path.
        source: state of the code, for the records.
        config: `workers` tasks at a time, None for as many as the cluster has room for; `threads` and `gpus_per_job` asked
            for each; `address` of the cluster.

    Raises:
        UserError: the cluster cannot be reached, or has no node that a job fits on and will not get one.

    Source: docs/architecture.md, "Engines".
    """
    with _connection(config) as ray:
        _require_room(ray, config.threads, max((gpus(job, config.gpus_per_job) for job in jobs), default=0))
        queue = deque((job, 1) for job in jobs)
        running: dict[Any, tuple[Job, int]] = {}
        remote: Any = ray.remote(attempt_job)
        folder, search = os.getcwd(), search_path()
        try:
            while queue or running:
                while queue and (config.workers is None or len(running) < config.workers):
                    job, attempt = queue.popleft()
                    task = remote.options(
                        name=job.id,
                        num_cpus=config.threads,
                        num_gpus=gpus(job, config.gpus_per_job),
                        max_retries=0,
                        scheduling_strategy="SPREAD",
                    )
                    running[task.remote(job, os.path.abspath(root), source, attempt, folder, search)] = (job, attempt)
                finished, _ = ray.wait(list(running), num_returns=1, timeout=0.5)
                for task in finished:
                    job, attempt = running.pop(task)
                    outcome = _outcome(ray, task, job)
                    if outcome.status != "lost":
                        yield outcome
                    elif attempt < ATTEMPTS:
                        queue.append((job, attempt + 1))
                    else:
                        yield Outcome(job.id, "lost", f"{outcome.message}, {ATTEMPTS} times")
        finally:
            _cancel(ray, list(running))


def _outcome(ray: Any, task: Any, job: Job) -> Outcome:
    try:
        outcome = ray.get(task)
    except ray.exceptions.RayTaskError as error:  # not the job's exception, which is recorded: it could not begin
        return Outcome(job.id, "lost", str(error).strip().splitlines()[-1])
    except ray.exceptions.RayError as error:
        return Outcome(job.id, "lost", f"its worker died ({type(error).__name__})")
    assert isinstance(outcome, Outcome)
    return outcome


def _require_room(ray: Any, cores: int, accelerators: float) -> None:
    """Refuse jobs that fit on no node, for which Ray would wait for ever; where it may add nodes, only say so."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if (lack := lacking(nodes, cores, accelerators)) is None:
        return
    if not _grows(ray):
        raise UserError(f"{lack}; ask for less, or use another cluster")
    say(f"{lack}; waiting for the cluster to add one", error=True)


def lacking(nodes: Sequence[Mapping[str, float]], cores: int, accelerators: float) -> str | None:
    """What no node has for a job, naming the settings that ask for it; None where one has room when it is idle.

    Args:
        nodes: total resources of each node, as `ray.nodes` names them.
        cores: asked for a job.
        accelerators: GPUs asked for a job.
    """
    room = [(node.get("CPU", 0.0), node.get("GPU", 0.0)) for node in nodes]
    if any(cores <= cpus and accelerators <= gpus_there for cpus, gpus_there in room):
        return None
    largest = ", ".join(f"{cpus:g} and {gpus_there:g}" for cpus, gpus_there in sorted(set(room), reverse=True)[:3])
    asked = f"engine.threads: {cores} cores and engine.gpus_per_job: {accelerators:g} GPUs a job"
    return f"{asked} fit on no node of the cluster (its nodes have {largest or 'none'})"


def _grows(ray: Any) -> bool:
    """Whether the cluster's own configuration says that it starts nodes when it needs them."""
    try:
        from ray._private.state import state  # where Ray's own libraries ask

        return state.get_max_resources_from_cluster_config() is not None
    except Exception:  # no public interface, so any of it may change; then there is no telling
        return False


def _cancel(ray: Any, tasks: list[Any]) -> None:
    if not tasks:
        return
    for task in tasks:
        ray.cancel(task, force=False)  # a KeyboardInterrupt, on which a job gives up its claim
    _, left = ray.wait(tasks, num_returns=len(tasks), timeout=_GRACE)
    for task in left:
        ray.cancel(task, force=True)


@contextlib.contextmanager
def _connection(config: EngineConfig) -> Iterator[Any]:
    """Ray, connected to the cluster, unless the program has connected it already."""
    address = config.address or os.environ.get("RAY_ADDRESS")
    if not address:
        _keep_others_out()
    import ray  # only now: it looks at the environment once

    if ray.is_initialized():
        yield ray
        return
    try:
        if address:
            _connect(ray, address)
        else:
            cores = workers(config) * config.threads
            _connect(ray, "local", num_cpus=cores, object_store_memory=_OBJECT_STORE, include_dashboard=False)
        yield ray
    finally:
        ray.shutdown()


def _connect(ray: Any, address: str, **settings: Any) -> None:
    try:
        _knock(address)
        with _sigterm_kept():
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **settings)
    except (OSError, RuntimeError, ValueError) as error:  # ConnectionError is an OSError
        where = f"{address!r} cannot be {'started' if address == 'local' else 'reached'}"
        raise UserError(
            f"engine.address: {where} ({first_line(error)}); use HOST:PORT of a running cluster, or null"
        ) from error


def _keep_others_out() -> None:
    """Let this process's Rays listen on the loopback interface only, and ask for a token: who reaches one may run code."""
    if "ray" in sys.modules:
        return
    # As Ray does where it forms no clusters. On Linux it would listen on every interface of the network.
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    if "RAY_AUTH_MODE" not in os.environ:
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}


def _knock(address: str) -> None:
    """Find out within seconds that nobody is at HOST:PORT; Ray tries for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()


@contextlib.contextmanager
def _sigterm_kept() -> Iterator[None]:
    """Ray takes SIGTERM for itself when it connects; the study's own handler says how to resume."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
