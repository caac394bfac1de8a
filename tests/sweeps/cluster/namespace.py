"""A piece of this machine with a network of its own that is only loopback, and processes of its own that end with it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

_INIT = "ip link set lo up && echo ready && while :; do sleep 1; done"  # a shell, because it buries adopted children


@dataclass(frozen=True)
class Process:
    """A process inside.

    Args:
        pid: its number on this machine.
        inner: its number inside.
        command: what it was started as, or what it calls itself now.
        environ: its variables, as it was started with them; a process that takes a new name may write over the first of
            them, as Ray's agents do.
    """

    pid: int
    inner: int
    command: tuple[str, ...]
    environ: frozenset[str]


@dataclass(frozen=True)
class Namespace:
    """Runs commands inside; `init` is the first process inside, by this machine's number."""

    init: int

    def start(
        self, *command: str, folder: Path, variables: Mapping[str, str] | None = None, log: Path | None = None
    ) -> subprocess.Popen[str]:
        """Start a command inside; what it prints goes to a file, or to pipes."""
        enter = ["nsenter", "--target", str(self.init), "--net", "--pid", "--mount", "env", "-C", str(folder)]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"} | dict(variables or {})
        if log is None:
            pipe = subprocess.PIPE
            return subprocess.Popen([*enter, *command], env=environment, stdout=pipe, stderr=pipe, text=True)
        with log.open("a") as output:
            return subprocess.Popen([*enter, *command], env=environment, stdout=output, stderr=output, text=True)

    def run(self, *command: str, folder: Path, variables: Mapping[str, str] | None = None) -> str:
        """What a command inside prints; it must end well."""
        process = self.start(*command, folder=folder, variables=variables)
        output, errors = process.communicate(timeout=60)
        assert process.returncode == 0, f"{command}: {output}{errors}"
        return output

    def entered(self, process: subprocess.Popen[str]) -> int:
        """The machine's number of a command that was started inside: nsenter's only child."""
        return int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[0])

    def processes(self) -> list[Process]:
        """Every process inside that lives."""
        space = os.readlink(f"/proc/{self.init}/ns/pid")
        found = []
        for entry in Path("/proc").iterdir():
            try:
                if not entry.name.isdecimal() or os.readlink(entry / "ns" / "pid") != space:
                    continue
                status = dict(line.split(":\t", 1) for line in (entry / "status").read_text().splitlines() if ":\t" in line)
                command, variables = (
                    (entry / name).read_bytes().decode(errors="replace").split("\0") for name in ("cmdline", "environ")
                )
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue
            if status["State"][0] not in "ZX":
                inner = int(status["NSpid"].split()[-1])
                found.append(Process(int(entry.name), inner, tuple(command), frozenset(variables)))
        return found

    def kill(self, marked: str, number: int = signal.SIGKILL) -> int:
        """Send a signal to every process inside that has a variable (NAME=value); how many there were."""
        count = 0
        while targets := [process for process in self.processes() if marked in process.environ]:
            for process in targets:
                with suppress(ProcessLookupError):  # it ended since it was listed
                    os.kill(process.pid, number)
            count += len(targets)
            time.sleep(0.05)
        return count


@contextmanager
def namespace() -> Iterator[Namespace]:
    """A namespace for as long as the block lasts; skips the test where the system does not give one."""
    if missing := [name for name in ("unshare", "nsenter", "setpriv", "ip") if shutil.which(name) is None]:
        pytest.skip(f"{missing[0]} is not installed (apt-get install util-linux iproute2)")
    flags = ["--net", "--pid", "--mount", "--fork", "--mount-proc", "--kill-child"]
    if subprocess.run(["unshare", *flags, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this user may not make a network namespace (unshare --net --pid)")
    outer = subprocess.Popen(
        ["setpriv", "--pdeathsig", "KILL", "unshare", *flags, "bash", "-c", _INIT], stdout=subprocess.PIPE, text=True
    )
    try:
        assert outer.stdout is not None
        assert outer.stdout.readline() == "ready\n"
        children = Path(f"/proc/{outer.pid}/task/{outer.pid}/children").read_text().split()
        yield Namespace(int(children[0]))
    finally:
        outer.kill()
        outer.wait()


def wait_until(true: Callable[[], bool], seconds: float, what: str) -> None:
    """Look again and again until something is so."""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {seconds} s")
        time.sleep(0.05)
