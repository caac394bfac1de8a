"""Files that are complete or absent, and reading that tells a file that is absent from one that is damaged or locked."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import secrets
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from bnstudy.errors import UserError
from bnstudy.liveness import birth, machine_tag

_TEMPORARY = re.compile(r"\..*\.([0-9a-f]{8})-(\d+)-[0-9a-f]{8}\.tmp")
_AGED = 86400.0
"""Seconds after which what another machine left behind is taken for abandoned."""


class DamagedError(Exception):
    """A file is there, and is not what it should be; the text says what is wrong and follows the file's name."""

    def told(self, path: Path, remedy: str) -> UserError:
        """The same for a user, in one line: which file, what is wrong with it, and what helps."""
        return UserError(f"{path}: damaged: it {self}; {remedy}")


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """Write a file under a temporary name beside it, and rename it when it is complete and on disk.

    Its permissions are what the user's umask leaves of 0666.

    Raises:
        OSError: from the system; nothing is left behind then, and an older file of that name is untouched.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(path)
    handle = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o666)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def temporary_name(path: Path) -> Path:
    """A name beside `path` that nobody else takes and that says whose it is."""
    return path.parent / f".{path.name[:40]}.{machine_tag()}-{os.getpid()}-{secrets.token_hex(4)}.tmp"


def sweep(*folders: Path) -> None:
    """Clear away what killed processes had begun to write in some folders; those of living ones stay."""
    for folder in folders:
        with contextlib.suppress(OSError):
            entries = [entry.name for entry in os.scandir(folder) if entry.name.startswith(".")]
            for name in entries:
                with contextlib.suppress(OSError):
                    if (found := _TEMPORARY.fullmatch(name)) and _abandoned(folder / name, found[1], int(found[2])):
                        (folder / name).unlink()


def _abandoned(path: Path, machine: str, pid: int) -> bool:
    if machine == machine_tag():
        return birth(pid) is None
    return time.time() - path.lstat().st_mtime > _AGED


def set_aside(path: Path, folder: Path) -> None:
    """Move what is not what it should be to a free name in `folder`, where its owner may look at it.

    Raises:
        OSError: from the system.
    """
    folder.mkdir(parents=True, exist_ok=True)
    free = (folder / f"{path.name}.{number}" for number in itertools.count(1))
    os.rename(path, next(target for target in free if not os.path.lexists(target)))


def read_file(path: Path) -> bytes | None:
    """All of a file; None where there is none.

    Raises:
        DamagedError: something else is in its place, such as a folder.
        UserError: it cannot be read now (permissions, a bad disk, no file handles left), which does not make it missing.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if not stat.S_ISREG(mode := os.fstat(descriptor).st_mode):
                raise DamagedError("is a folder" if stat.S_ISDIR(mode) else "is no file")
            with open(descriptor, "rb", closefd=False) as file:
                return file.read()
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        return None
    except NotADirectoryError as error:
        raise DamagedError("is in no folder") from error
    except OSError as error:
        if os.path.islink(path) and not os.path.exists(path):
            raise DamagedError("is a link that leads nowhere") from error
        raise UserError(f"{path}: cannot be read ({error.strerror}); make it readable and try again") from error
