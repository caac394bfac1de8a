"""A Ray of two nodes inside a namespace: the real processes, one CPU a node, on loopback, with a token of its own."""

from __future__ import annotations

import secrets
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.sweeps.cluster.namespace import Namespace, namespace

_RAY = str(Path(sys.executable).parent / "ray")
_PORT = "6379"  # outside 10002-19999, which Ray gives to its workers
_SMALL = ("--num-cpus=1", "--disable-usage-stats", "--object-store-memory=100000000")
SECOND = "BNSTUDY_TEST_NODE=second"
"""A variable of every process of the second node."""


@dataclass(frozen=True)
class Ray:
    """A cluster that runs.

    Args:
        namespace: where its processes are.
        variables: what a command needs in its environment to reach it.
        address: the head's.
    """

    namespace: Namespace
    variables: dict[str, str]
    address: str = f"127.0.0.1:{_PORT}"


@contextmanager
def ray_space() -> Iterator[Ray]:
    """A namespace without a cluster, and the variables for one. Skips where Ray is not installed."""
    pytest.importorskip("ray")
    with tempfile.TemporaryDirectory(prefix="ray-") as state, namespace() as inside:  # short: sockets lie below
        token = Path(state) / "token"
        token.touch(mode=0o600)
        token.write_text(secrets.token_hex(32))
        yield Ray(inside, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), "RAY_TMPDIR": state})


@contextmanager
def ray() -> Iterator[Ray]:
    """Start the cluster; it ends with the block. The second node has a host name of its own, as on a real cluster."""
    with ray_space() as cluster:
        head = (_RAY, "start", "--head", "--node-ip-address=127.0.0.1", f"--port={_PORT}", "--include-dashboard=false")
        second = (_RAY, "start", f"--address={cluster.address}", "--node-ip-address=127.0.0.2", *_SMALL)
        cluster.namespace.run(*head, *_SMALL, folder=Path("/"), variables=cluster.variables)
        name, value = SECOND.split("=")
        cluster.namespace.run(
            "unshare", "--uts", "bash", "-c", 'echo second > /proc/sys/kernel/hostname && exec "$@"', "bash", *second,
            folder=Path("/"), variables=cluster.variables | {name: value},
        )  # fmt: skip
        yield cluster
