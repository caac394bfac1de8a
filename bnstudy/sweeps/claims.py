"""Who works on which job: claims on a shared folder, kept alive by a heartbeat, given up by the dead."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from bnstudy.atomic import DamagedError, set_aside, temporary_name
from bnstudy.errors import UserError
from bnstudy.liveness import birth, this_machine
from bnstudy.sweeps.store import Record, hostname, read_json

HEARTBEAT = 1.0
"""Seconds between two signs of life."""
EXPIRY = 60.0
"""Seconds of silence after which a claim is anybody's; a process of this machine that is gone is found out at once."""
_WIDTH = 512


class Claim:
    """A job taken by this process, until released; a context manager.

    The claim is a file that appears by a hard link, which only one process can make. Its holder keeps it open and writes the
    heartbeat through the open file: should the claim be taken away, a late heartbeat goes into a file that nobody sees.

    Args:
        path: the claim's file.
        descriptor: the open file.
        status: called at every heartbeat; what it returns is shown to observers.
    """

    def __init__(self, path: Path, descriptor: int, holder: Record, status: Callable[[], Record]) -> None:
        self._path, self._descriptor, self._holder, self._status = path, descriptor, holder, status
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> Claim:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()
        if self.held:
            self._path.unlink(missing_ok=True)
        os.close(self._descriptor)

    @property
    def held(self) -> bool:
        """Whether the claim is still this process's."""
        try:
            return os.path.samestat(os.stat(self._path), os.fstat(self._descriptor))
        except FileNotFoundError:
            return False

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT):
            with contextlib.suppress(OSError):  # a full disk must not end a training; the expiry is far longer
                os.pwrite(self._descriptor, _encode(self._holder | self._status()), 0)


def acquire(folder: Path, job: str, status: Callable[[], Record] = dict) -> Claim | None:
    """Claim a job.

    Args:
        folder: where claims are kept.
        job: its name.
        status: see `Claim`.

    Returns:
        The claim, to be entered with `with`; None if somebody alive holds it.

    Source: docs/architecture.md, "Jobs and identity".
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{job}.json"
    _remove_if_dead(path)
    pid = os.getpid()
    where = {"host": hostname(), "machine": this_machine(), "pid": pid, "born": birth(pid)}
    holder: Record = {"job": job, **where, "since": time.time()}
    temporary = temporary_name(path)
    descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o666)
    try:
        os.pwrite(descriptor, _encode(holder | status()), 0)
        os.link(temporary, path)
    except FileExistsError:
        os.close(descriptor)
        return None
    except BaseException:
        os.close(descriptor)
        raise
    finally:
        temporary.unlink(missing_ok=True)
    return Claim(path, descriptor, holder, status)


def living(folder: Path) -> dict[str, Record]:
    """Claims whose holders are alive, by job: `host`, `pid`, `since`, `step` and `steps`, whatever else they say.

    One that cannot be understood counts as alive until it is too old, as it does for whoever wants the job.
    """
    found = {}
    for path in sorted(folder.glob("*.json")):
        record = _read(path)
        if not _is_dead(path, record, _clock_or_own):
            since, pid = record.get("since"), record.get("pid")
            found[path.stem] = {
                "host": str(record.get("host", "?"))[:100],
                "pid": pid if isinstance(pid, int) else "?",
                "since": float(since) if isinstance(since, int | float) else time.time(),
                **{key: _whole(record.get(key)) for key in ("step", "steps")},
            }
    return found


def _read(path: Path) -> Record:
    """A claim; nothing where it is none: a host that crashed may leave such a one, and its age decides."""
    try:
        return {} if path.is_symlink() else read_json(path) or {}
    except (DamagedError, UserError, OSError):
        return {}


def _whole(number: object) -> int:
    return number if isinstance(number, int) else 0


def _remove_if_dead(path: Path) -> None:
    record = _read(path)
    if not _is_dead(path, record):
        return
    # Of several that find it dead, one at a time looks whether it is still there; a fresh claim is another file.
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISREG(os.lstat(path).st_mode):  # nobody claims a job with such a thing
            set_aside(path, path.parent.parent / "damaged")
            return
        with open(path, "r+b" if os.access(path, os.W_OK) else "rb") as file:
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(file, fcntl.LOCK_EX)
            now = _read(path)
            unchanged = (now.get("pid"), now.get("since")) == (record.get("pid"), record.get("since"))
            if unchanged and os.path.samestat(os.stat(path), os.fstat(file.fileno())):
                path.unlink()


def _is_dead(path: Path, record: Record, clock: Callable[[Path], float] | None = None) -> bool:
    pid = record.get("pid")
    if record.get("host") == hostname() and record.get("machine", this_machine()) == this_machine() and type(pid) is int:
        return birth(pid) is None or birth(pid) != record.get("born")
    try:
        seen = os.lstat(path).st_mtime
    except FileNotFoundError:
        return False
    return (clock or _clock)(path.parent) - seen > EXPIRY


def _clock(folder: Path) -> float:
    """The file server's own time, so that hosts need not agree on theirs."""
    path = temporary_name(folder / "clock")
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        return os.fstat(descriptor).st_mtime
    finally:
        os.close(descriptor)
        path.unlink(missing_ok=True)


def _clock_or_own(folder: Path) -> float:
    """The same, for whoever only looks: a store that is full or read-only is believed by this host's time."""
    try:
        return _clock(folder)
    except OSError:
        return time.time()


def _encode(record: dict[str, Any]) -> bytes:
    return json.dumps(record).encode().ljust(_WIDTH)
