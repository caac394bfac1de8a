"""Whether a process that left something behind is still alive: files and claims of the dead may be cleared away."""

from __future__ import annotations

import hashlib
import os
import socket
from functools import lru_cache
from pathlib import Path


@lru_cache(maxsize=1)
def this_machine() -> str:
    """The machine since it was started, and the space of its process numbers: containers may share a host name."""
    try:
        started = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{started} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


@lru_cache(maxsize=1)
def machine_tag() -> str:
    """The same and the host's name in eight letters, for names of files."""
    return hashlib.sha256(f"{socket.gethostname()} {this_machine()}".encode()).hexdigest()[:8]


def birth(pid: int) -> str | None:
    """When a process of this machine started, in the kernel's ticks; tells it from a later one of the same number.

    None where there is no such process, or it has ended and nobody has asked for its exit code.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        if Path("/proc").is_dir():
            return None
        return _birth_without_proc(pid)
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else fields[19]


def _birth_without_proc(pid: int) -> str | None:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return None
    except PermissionError:
        return "running"
    return "running"
