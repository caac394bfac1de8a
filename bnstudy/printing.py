"""Lines and tables for people: texts as they are, on streams whose troubles are not the command's."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
import select
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_STANDARD = (0, 1, 2)


def console(stderr: bool = False, quiet: bool = False) -> Console:
    """A console that shows a text as it is: no brackets read as markup, no numbers coloured, no lines broken."""
    from rich.console import Console

    return Console(stderr=stderr, quiet=quiet, markup=False, highlight=False, emoji=False, soft_wrap=True)


def plain(text: object) -> str:
    """A text without the signs that move a terminal's cursor, change its state or turn the reading direction."""
    return _CONTROL.sub("\ufffd", str(text))


_wishes = {"quiet": False}


def set_quiet(wanted: bool) -> None:
    """Print nothing from now on but what went wrong, or everything again."""
    _wishes["quiet"] = wanted


def quiet() -> bool:
    """Whether nothing but what went wrong is to be printed."""
    return _wishes["quiet"]


def say(line: str, error: bool = False) -> None:
    """Print a line, on standard error if it is one."""
    if not error and quiet():
        return
    console(error).print(plain(line))


def show(title: str, frame: pd.DataFrame) -> None:
    """Print a DataFrame of texts as a table; a file, which has no width of its own, gets 120 columns."""
    from rich.table import Table
    from rich.text import Text

    if quiet():
        return
    where = console()
    if not where.is_terminal:
        where.width = 120
    table = Table()
    for index, column in enumerate(frame.columns):
        table.add_column(plain(column), justify="left" if index == 0 else "right", overflow="fold")
    for row in frame.itertuples(index=False):
        table.add_row(*map(plain, row))
    where.print(Text(plain(title), style="bold"))
    where.print(table, soft_wrap=False)


class _Sturdy(io.RawIOBase):
    """A descriptor that never refuses what is written to it: a reader who left, or a full disk, loses the rest."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor, self.lost = descriptor, 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        while not self.lost:
            try:
                return os.write(self._descriptor, data)
            except BlockingIOError:
                select.select([], [self._descriptor], [])
            except OSError as error:
                self.lost = error.errno or errno.EIO
        return memoryview(data).nbytes

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)


@contextlib.contextmanager
def sturdy_streams() -> Iterator[None]:
    """Let printing fail nothing while a command runs.

    Standard streams that are closed lead nowhere, so that no file of ours takes their numbers. Signs that a terminal cannot
    show are replaced. What a full disk does not take is told once, at the end.
    """
    for descriptor in _STANDARD:
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number: this one
    before = sys.stdin, sys.stdout, sys.stderr
    if before[1:] != (sys.__stdout__, sys.__stderr__):  # somebody has put streams of his own in their places
        yield
        return
    with contextlib.suppress(OSError, ValueError, AttributeError):
        for stream in before[1:]:
            stream.flush()
    if sys.stdin is None:
        sys.stdin = open(os.devnull)  # noqa: SIM115
    raw = {descriptor: _Sturdy(descriptor) for descriptor in _STANDARD[1:]}
    sys.stdout, sys.stderr = (_text(raw[descriptor], old) for descriptor, old in zip(raw, before[1:], strict=True))
    try:
        yield
    finally:
        sys.stdout.flush()
        if raw[1].lost not in (0, errno.EPIPE):
            sys.stderr.write(f"standard output did not take all of it ({os.strerror(raw[1].lost)})\n")
        sys.stderr.flush()


def _text(raw: _Sturdy, old: TextIO | None) -> TextIO:
    encoding = getattr(old, "encoding", None) or "utf-8"
    lines = raw.isatty() or raw.fileno() == 2
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding, errors="replace", line_buffering=lines)
