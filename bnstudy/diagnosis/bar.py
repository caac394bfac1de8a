"""Progress of a diagnosis on a terminal: a bar over forward passes, and what the swaps will cost before they start."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class Bar:
    """A context manager to be given as `progress`; silent where standard error is no terminal.

    Args:
        console: where it is shown.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:,.0f} passes"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        self._now: tuple[str, TaskID] | None = None
        self._begun = time.monotonic()
        self._passes = 0

    def __enter__(self) -> Bar:
        self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._bars.stop()

    def __call__(self, what: str, done: int, total: int | None) -> None:
        """Take note of a pass, or of something that begins.

        Args:
            what: is being done.
            done: passes of it so far.
            total: passes of it in all; None where not known.
        """
        if self._now is None or self._now[0] != what:
            if self._now is not None:
                self._bars.remove_task(self._now[1])
            self._now = (what, self._bars.add_task(what, total=total))
            if total is not None and what.startswith("swapping") and self._console.is_terminal:
                self._console.print(announcement(what, total, self.seconds_a_pass), highlight=False, markup=False)
        if done:
            self._passes += 1
            self._bars.update(self._now[1], completed=done)

    @property
    def seconds_a_pass(self) -> float | None:
        """The mean so far; None before the first pass."""
        return (time.monotonic() - self._begun) / self._passes if self._passes else None


def announcement(what: str, passes: int, seconds: float | None) -> str:
    """What something will cost: "swapping 53 layers on 2 batches: 108 forward passes, about 35 s".

    Args:
        what: will be done.
        passes: that it takes.
        seconds: of one; None where not known.
    """
    said = f"{what}: {passes:,} forward passes"
    if seconds is None:
        return said
    whole = max(1, round(passes * seconds))
    return f"{said}, about {whole} s" if whole < 120 else f"{said}, about {whole / 60:.0f} min"
