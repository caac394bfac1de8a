"""Progress of a diagnosis on a terminal: a bar over forward passes, and what the swaps will cost before they start."""

from __future__ import annotations

import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class Bar(Progress):
    """A context manager to be given as `progress`; silent where standard error is no terminal.

    Args:
        console: where it is shown.
    """

    def __init__(self, console: Console) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed:,.0f} passes"))
        times = (TimeElapsedColumn(), TimeRemainingColumn())
        super().__init__(*columns, *times, console=console, disable=not console.is_terminal, transient=True)
        self._begun, self._passes = time.monotonic(), 0

    def __call__(self, what: str, done: int, total: int | None) -> None:
        """Take note of a pass, or of something that begins.

        Args:
            what: is being done.
            done: passes of it so far.
            total: passes of it in all; None where not known.
        """
        if not self.tasks or self.tasks[-1].description != what:
            for task in self.task_ids:
                self.remove_task(task)
            self.add_task(what, total=total)
            if total is not None and what.startswith("swapping") and self.console.is_terminal:
                seconds = (time.monotonic() - self._begun) / self._passes if self._passes else None
                self.console.print(announcement(what, total, seconds), highlight=False, markup=False)
        if done:
            self._passes += 1
            self.update(self.task_ids[-1], completed=done)


def announcement(what: str, passes: int, seconds: float | None) -> str:
    """What something will cost: "swapping 53 layers on 2 batches: 108 forward passes, about 35 s".

    Args:
        what: will be done.
        passes: that it takes.
        seconds: of one; None where not known.
    """
    cost = f"{what}: {passes:,} forward passes"
    if seconds is None:
        return cost
    whole = max(1, round(passes * seconds))
    return f"{cost}, about {whole} s" if whole < 120 else f"{cost}, about {whole / 60:.0f} min"
