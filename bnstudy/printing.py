"""Lines and tables for people: nothing in them is taken for markup, and long lines are left to the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    import pandas as pd


_wishes = {"quiet": False}


def set_quiet(wanted: bool) -> None:
    """Print nothing from now on but what went wrong, or everything again."""
    _wishes["quiet"] = wanted


def quiet() -> bool:
    """Whether nothing but what went wrong is to be printed."""
    return _wishes["quiet"]


def say(line: str, error: bool = False) -> None:
    """Print a line, on standard error if it is one."""
    if quiet() and not error:
        return
    Console(stderr=error, highlight=False).print(line, markup=False, soft_wrap=True)


def show(title: str, frame: pd.DataFrame) -> None:
    """Print a DataFrame of texts as a table; a file, which has no width of its own, gets 120 columns."""
    console = Console(highlight=False, quiet=quiet())
    if not console.is_terminal:
        console.width = 120
    table = Table()
    for index, column in enumerate(frame.columns):
        table.add_column(str(column), justify="left" if index == 0 else "right", overflow="fold")
    for row in frame.itertuples(index=False):
        table.add_row(*(str(value) for value in row))
    console.print(f"[bold]{escape(title)}")
    console.print(table)
