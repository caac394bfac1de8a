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

from tests.sweeps.cluster.namespace import namespace
from tests.sweeps.cluster.studies import Cluster

RAY = str(Path(sys.executable).parent / "ray")
_PORT = 6379  # outside 10002-19999, which Ray gives to its workers
_HEAD = f"127.0.0.1:{_PORT}"
_SMALL = ("--num-cpus=1", "--disable-usage-stats", "--object-store-memory=100000000")
_SECOND, _THIRD = "BNSTUDY_TEST_NODE=second", "BNSTUDY_TEST_NODE=third"


@dataclass(frozen=True)
class Ray(Cluster):
    """A Ray; see `Cluster`."""

    def start_node(self, mark: str, address: str, *before: str) -> None:
        """Start a node; its processes carry the mark, NAME=value, among their variables."""
        name, value = mark.split("=")
        command = (RAY, "start", f"--address={_HEAD}", f"--node-ip-address={address}", *_SMALL)
        self.namespace.run(*before, *command, folder=Path("/"), variables=self.variables | {name: value})

    def node_to_lose(self) -> str:
        """A third node, with a host name of its own: claims of its dead are believed until they expire, a minute later."""
        rename = ("unshare", "--uts", "bash", "-c", 'echo third > /proc/sys/kernel/hostname && exec "$@"', "bash")
        self.start_node(_THIRD, "127.0.0.3", *rename)
        return _THIRD


@contextmanager
def ray_space() -> Iterator[Ray]:
    """A namespace without a cluster, and the variables for one. Skips where Ray is not installed."""
    pytest.importorskip("ray")
    with tempfile.TemporaryDirectory(prefix="ray-") as state, namespace() as inside:  # short: sockets lie below
        token = Path(state) / "token"
        token.touch(mode=0o600)
        token.write_text(secrets.token_hex(32))
        variables = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), "RAY_TMPDIR": state}
        yield Ray(inside, variables, ("engine=ray", f"engine.address={_HEAD}"))


@contextmanager
def ray() -> Iterator[Ray]:
    """Start the cluster; it ends with the block."""
    with ray_space() as cluster:
        head = (RAY, "start", "--head", "--node-ip-address=127.0.0.1", f"--port={_PORT}", "--include-dashboard=false")
        cluster.namespace.run(*head, *_SMALL, folder=Path("/"), variables=cluster.variables)
        cluster.start_node(_SECOND, "127.0.0.2")
        yield cluster
