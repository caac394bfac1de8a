"""The mirror of a running study: a process of its own, fed with jobs as they end, that can be ended at any time."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from bnstudy.names import suggested
from bnstudy.sweeps.plan import Job, Plan
from bnstudy.sweeps.store import store_option
from bnstudy.tracking.ledger import Ledger
from bnstudy.tracking.sending import destination

PATIENCE = 25.0
"""Seconds of silence after which the mirror is ended; longer than any wait of the mirror's own."""
_PIECE = 4096
"""Bytes at a time into a pipe; it takes all of them or none."""


class Mirror:
    """A child that mirrors the jobs of a running study as they end (`bnstudy.tracking.following`); a context manager.

    Training runs in other processes, so that an error of W&B's ends at most this child: it cannot fail a study, nor delay
    it by more than `PATIENCE`. The store has everything that a lost child would have written.

    Args:
        root: the store's folder.
        study: the study's name.
        mode: "offline", "online" or "disabled".

    Source: docs/architecture.md, "The mirror in W&B".
    """

    def __init__(self, root: Path | str, study: str, mode: str) -> None:
        self.root, self.study, self.mode = Path(root), study, mode
        self.process: subprocess.Popen[bytes] | None = None
        self.problem: str | None = None
        self._waiting = b""  # names of jobs that the child has not taken yet
        self._partial = b""  # the beginning of a line from the child
        self.seconds = 0.0
        """How long the study waited for the mirror at its end."""

    def start(self) -> None:
        """Start the child, unless it runs or is disabled; early, so that its imports are done when the first job ends."""
        if self.process is not None or self.mode == "disabled":
            return
        folder = Ledger(self.root, self.study).folder
        command = [sys.executable, "-m", "bnstudy.tracking.following", "--", self.study, str(self.root), self.mode]
        offline = self.mode == "offline"  # then it needs no key, and gets none
        environment = {
            name: value
            for name, value in os.environ.items()
            if not (offline and name.startswith("WANDB_")) or name == "WANDB_DIR"
        }
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with open(folder / "mirror.log", "ab") as log:
                self.process = subprocess.Popen(
                    command,
                    env=environment,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    start_new_session=True,  # Ctrl-C is the study's affair
                )
        except OSError as error:
            self.problem = f"the mirror cannot start ({error.strerror})"
            return
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        os.set_blocking(self.process.stdin.fileno(), False)
        os.set_blocking(self.process.stdout.fileno(), False)

    def expect(self, plan: Plan, todo: Sequence[Job]) -> None:
        """Prepare for the jobs that will run, and mirror the finished ones that are not mirrored yet."""
        if self.mode == "disabled":
            return
        ledger, place = Ledger(self.root, self.study), destination() if self.mode == "online" else None
        for job, record in plan.done.items():
            arms = sum(job in cell.jobs for cell in plan.cells)
            if not ledger.has(job, arms * len(record["seeds"]), place):
                self.add(job)
        if todo:
            self.start()

    def add(self, job: str) -> None:
        """Mirror a job that the store has as done."""
        self.start()
        if self.process is not None:
            self._waiting += f"{job}\n".encode()
            self._pass_on()
            self._hear()

    def finish(self) -> None:
        """Wait for the mirror as long as it makes progress."""
        process = self.process
        if process is None:
            return
        begun = time.monotonic()
        try:
            ended = self._listen(process)
        except KeyboardInterrupt:
            ended, self.problem = True, self.problem or "the mirror was interrupted"
        self.stop()
        if not ended:
            self.problem = self.problem or f"the mirror gave no sign of life for {PATIENCE:.0f} s"
        elif process.returncode and self.problem is None:
            self.problem = f"the mirror ended with exit code {process.returncode}"
        self.seconds = time.monotonic() - begun

    def _listen(self, process: subprocess.Popen[bytes]) -> bool:
        """Hand over the remaining jobs and read the child's output to its end; False if it was silent for too long."""
        assert process.stdin is not None
        assert process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            selector.register(process.stdin, selectors.EVENT_WRITE)
            while ready := selector.select(PATIENCE):
                for key, _ in ready:
                    if key.fileobj is process.stdin:
                        self._pass_on()
                        if not self._waiting:
                            selector.unregister(process.stdin)
                            process.stdin.close()
                    elif not self._hear():
                        with contextlib.suppress(subprocess.TimeoutExpired):
                            process.wait(PATIENCE)
                        return process.returncode is not None
        return False

    def _pass_on(self) -> None:
        """Write as much to the child as its pipe takes."""
        assert self.process is not None
        assert self.process.stdin is not None
        try:
            while self._waiting:
                self._waiting = self._waiting[os.write(self.process.stdin.fileno(), self._waiting[:_PIECE]) :]
        except BlockingIOError:
            pass  # full: the rest is written with the next job, or at the end
        except OSError:
            self._waiting = b""  # the child is gone: `finish` reports it

    def _hear(self) -> bool:
        """Read the child's output, lest it waits for a full pipe; whether there may be more."""
        assert self.process is not None
        assert self.process.stdout is not None
        try:
            while piece := os.read(self.process.stdout.fileno(), 65536):
                *lines, self._partial = (self._partial + piece).split(b"\n")
                for line in lines:
                    with contextlib.suppress(ValueError):
                        self.problem = self.problem or json.loads(line).get("problem")
        except BlockingIOError:
            return True
        return False

    def kill(self) -> None:
        """End the child and its services without waiting for them."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)

    def stop(self) -> None:
        """End the child and W&B's service at once."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def warning(self) -> str | None:
        """One line on what went wrong and the command that repairs it; None if all is well."""
        if self.problem is None:
            return None
        command = suggested("publish", self.study, *store_option(self.root), f"--{self.mode}")
        return f"W&B: {self.problem}; no result is lost: {command} makes up for it"

    def __enter__(self) -> Mirror:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()
