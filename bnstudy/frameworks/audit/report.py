"""The audit's table for people: a page like those of studies, Markdown, and the terminal."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bnstudy.analysis.report.page import plain
from bnstudy.analysis.report.sheets import Sheet, TableCell
from bnstudy.analysis.report.shell import page
from bnstudy.atomic import atomic_file
from bnstudy.batchnorm.conventions import CONVENTIONS
from bnstudy.frameworks.audit.table import FILE, rows

Record = dict[str, Any]
"""A row of the table, by column."""
TITLE = "Which BatchNorm does a framework implement?"
_METHOD = (
    "Each layer was fed chosen batches in a process of its own and judged by what came back, not by its documentation: "
    "factors, weights and ε are fitted."
)
_COLUMNS: dict[str, tuple[Callable[[Record], TableCell], str]] = {
    "name": (lambda row: TableCell(row["name"]), "as bnstudy audit takes it"),
    "convention": (lambda row: TableCell(row["convention"]), "the pair of variances, where nothing about the layer is odd"),
    "normalises by": (
        lambda row: TableCell(row["normalize"]),
        "the variance of a training batch of m values a channel: biased divides by m, unbiased by m − 1",
    ),
    "stores": (lambda row: TableCell(row["accumulate"]), "the variance that it averages for inference"),
    "weight": (lambda row: _weight(row), "that of the new batch in the moving average, at the layer's default"),
    "momentum": (lambda row: TableCell(_momentum(row)), "what the argument of that name (or decay) weighs, and its default"),
    "ε": (lambda row: TableCell(_epsilon(row), _key(row["eps"])), "inside the root, unless it says where else"),
    "start": (
        lambda row: TableCell(f"{_number(row['start_mean'])}, {_number(row['start_variance'])}"),
        "mean and variance before the first batch",
    ),
    "bias correction": (
        lambda row: TableCell(row["bias_correction"]),
        "whether the start value's share is taken out, and where",
    ),
    "m = 1": (lambda row: TableCell(row["single"]), "what happens where a channel has one value"),
    "version": (lambda row: TableCell(row["version"]), "of the framework"),
    "layer": (lambda row: TableCell(row["layer"]), "in the framework's own words"),
    "misfit": (
        lambda row: TableCell(f"{row['residual']:.0e}", _key(row["residual"])),
        "the largest relative residual of the laws that the row rests on",
    ),
    "next": (
        lambda row: TableCell(_short(row["runner_up"], ".2f"), _key(row["runner_up"])),
        "the relative distance of the nearest other hypothesis",
    ),
    "Δ bnstudy": (
        lambda row: TableCell(_short(row["difference"], ".1g"), _key(row["difference"])),
        "the largest difference of outputs and buffers from bnstudy's layer under the named convention over five updates, "
        "float32",
    ),
}
"""Of each column that people read: the cell of a row, and what it says."""
_TERMINAL = ("name", "version", "convention", "weight", "ε", "Δ bnstudy")


def sheet(table: pd.DataFrame) -> Sheet:
    """The measured rows as a table to be read."""
    measured = rows(table[table["status"] == "measured"])
    cells = [[cell(row) for cell, _ in _COLUMNS.values()] for row in measured]
    return Sheet("frameworks", "Every layer", _METHOD, list(_COLUMNS), cells, len(cells), FILE)


def answer(table: pd.DataFrame) -> list[tuple[str, str]]:
    """What the layers have, as pairs of a heading and their names; first those of the conventions."""
    measured = table[table["status"] == "measured"]
    found = []
    for name, convention in CONVENTIONS.items():
        layers = measured.loc[measured["convention"] == name, "name"]
        if len(layers):
            pair = f"normalises by the {convention.normalize} variance, stores the {convention.accumulate} one"
            found.append((f"{name}: {pair}", ", ".join(layers)))
    odd = measured.loc[measured["convention"] == "unknown", "name"]
    return [*found, *([("none of these, for reasons in the notes", ", ".join(odd))] if len(odd) else [])]


def notes(table: pd.DataFrame) -> list[tuple[str, str]]:
    """What is odd about measured layers, and why others were not measured, by name."""
    found = []
    for row in rows(table):
        texts = [row["oddities"], row["remarks"]] if row["status"] == "measured" else [f"{row['status']}, {row['reason']}"]
        if any(texts):
            found.append((row["name"], "; ".join(filter(None, texts))))
    return found


def markdown(table: pd.DataFrame) -> str:
    """The page `frameworks.md`."""
    shown = sheet(table)
    parts = [f"# {TITLE}", f"Measured by `bnstudy audit` on {plain(_machines(table))}. {_METHOD}"]
    parts.append("\n".join(f"- {plain(head)}: {plain(names)}" for head, names in answer(table)))
    if shown.rows:
        frame = pd.DataFrame([[plain(cell.text) for cell in row] for row in shown.rows], columns=pd.Index(shown.columns))
        parts.append(frame.to_markdown(index=False, disable_numparse=True))
    columns = [(head, text) for head, (_, text) in _COLUMNS.items()]
    for title, pairs in (("Columns", columns), ("Notes", notes(table)), ("Versions", list(_versions(table).items()))):
        if pairs:
            parts.append(f"## {title}\n\n" + "\n".join(f"- {plain(name)}: {plain(text)}" for name, text in pairs))
    return "\n\n".join(filter(None, parts)) + "\n"


def html(table: pd.DataFrame) -> str:
    """The same as one self-contained page."""
    values: dict[str, object] = {
        "name": TITLE,
        "count": int((table["status"] == "measured").sum()),
        "frameworks": int(table.loc[table["status"] == "measured", "framework"].nunique()),
        "answer": answer(table),
        "sheet": sheet(table),
        "columns": [(head, text) for head, (_, text) in _COLUMNS.items()],
        "notes": notes(table),
        "origin": [
            ("command", "bnstudy audit"),
            ("machine", _machines(table)),
            ("versions", ", ".join(map(" ".join, _versions(table).items()))),
        ],
    }
    return page("audit.html.j2", "audit", "answer", values, Path(__file__).parent / "templates", style=_STYLE)


def provenance(table: pd.DataFrame) -> str:
    """Where the table comes from, as JSON: command, seed of the inputs, machine, versions."""
    machines = table[["platform", "device", "python"]].drop_duplicates().to_dict("records")
    found = {"command": "bnstudy audit", "seed": 0, "layers": len(table), "machines": machines, "versions": _versions(table)}
    return json.dumps(found, indent=1) + "\n"


def write(table: pd.DataFrame, folder: Path) -> None:
    """Write `frameworks.md`, `report.html` and `provenance.json`, each through a temporary name."""
    texts = {"frameworks.md": markdown(table), "report.html": html(table), "provenance.json": provenance(table)}
    for name, text in texts.items():
        with atomic_file(folder / name) as file:
            file.write(text.encode())


def show(table: pd.DataFrame, console: Console) -> None:
    """Print the table, narrow enough for a terminal, and its notes."""
    shown = sheet(table)
    places = [shown.columns.index(column) for column in _TERMINAL]
    grid = Table(box=None, pad_edge=False)
    for column in _TERMINAL:
        grid.add_column(column.removesuffix(" bnstudy"), no_wrap=True)
    for row in shown.rows:
        grid.add_row(*(Text(row[place].text) for place in places))
    if shown.rows:
        console.print(grid)
    for name, text in notes(table):
        console.print(Text(f"  {name}: {text}"))


_STYLE = """
.conventions { display: block; margin: 0; }
.conventions dt { margin-top: 0.8rem; }
.scroll { max-height: none; }
.sheet td:first-child, .sheet th:first-child { position: sticky; left: 0; z-index: 1; background: var(--paper); }
.sheet th:first-child { background: var(--raised); }
@media (max-width: 640px) { .sheet td:first-child { white-space: normal; max-width: 8rem; } }
"""


def _weight(row: Record) -> TableCell:
    if row["schedule"] == "cumulative":
        return TableCell("1/t")
    first = "1, then " if row["schedule"] == "first batch replaces the start" else ""
    return TableCell(first + _short(row["weight"], "g"), _key(row["weight"]))


def _momentum(row: Record) -> str:
    if row["momentum_means"] not in ("new batch", "old value"):
        return str(row["momentum_means"])
    default = row["momentum_default"]
    return f"{row['momentum_means']}, {'no default' if math.isnan(default) else f'{default:g}'}"


def _epsilon(row: Record) -> str:
    place: str = row["eps_place"]
    if place in ("unknown", "not visible"):
        return place
    return _number(row["eps"]) + (f" {place}" if place != "inside" else "")


def _number(value: float) -> str:
    return "varies" if math.isnan(value) else f"{value:g}"


def _short(value: float, form: str) -> str:
    return "–" if math.isnan(value) else f"{value:{form}}"


def _key(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _machines(table: pd.DataFrame) -> str:
    machines = table[["platform", "device", "python"]].drop_duplicates().to_numpy().tolist()
    return "; ".join(f"{system}, {device}, Python {python}" for system, device, python in machines)


def _versions(table: pd.DataFrame) -> dict[str, str]:
    pairs = {pair for text in table["versions"] for pair in text.split(", ") if pair}
    return dict(pair.split(" ", 1) for pair in sorted(pairs))
