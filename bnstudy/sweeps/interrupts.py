"""Ctrl-C: the first one ends a command in order, a further one ends it at once, whatever it is in the middle of."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

STOPPED = "stopped; finished jobs are kept, and the same command goes on from here"
CODE = 130
_last_resorts: list[Callable[[], object]] = []
_nested: list[bool] = []
"""Not empty where a command has taken the signals already."""


@contextlib.contextmanager
def last_resort(action: Callable[[], object]) -> Iterator[None]:
    """Call `action` should the process be ended at once meanwhile: it must be quick, and may be called from a handler."""
    _last_resorts.append(action)
    try:
        yield
    finally:
        _last_resorts.remove(action)


@contextlib.contextmanager
def interrupts(stay: bool = False) -> Iterator[None]:
    """Let the first SIGINT or SIGTERM raise KeyboardInterrupt, and each further one end the process with all its workers.

    Args:
        stay: keep the handlers after an interruption, for a process that is about to exit: that takes a moment, too.
    """
    if _nested or threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        received.append(number)
        if len(received) == 1:
            raise KeyboardInterrupt
        for action in reversed(_last_resorts):
            with contextlib.suppress(Exception):
                action()
        with contextlib.suppress(OSError):
            os.write(2, f"{STOPPED}\n".encode())
        os._exit(CODE)  # past exit handlers, which might wait for workers

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    _nested.append(True)
    try:
        yield
    finally:
        _nested.pop()
        if not (received and stay):
            for number, handler in before.items():
                signal.signal(number, handler)
