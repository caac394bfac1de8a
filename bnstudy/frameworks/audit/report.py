"""The audit's table for people: Markdown, an HTML section, and the terminal."""

from __future__ import annotations

import html
import json
import math
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table

from bnstudy.atomic import atomic_file
from bnstudy.frameworks.audit.table import rows as table_rows

_INTRODUCTION = """Each layer was fed chosen batches in a process of its own and judged by what came back, not by its
documentation: factors, weights and ε are fitted. Variances are those of the training batch, m values a channel: biased
divides by m, unbiased by m-1. "weight" is that of the new batch in the moving average at the layer's default; "momentum" is
what the layer's argument of that name (or decay) weighs, and its default. ε stands inside the root unless it is said to
stand elsewhere. "misfit" is the largest relative residual of the laws that the row rests on, "next" the relative distance of
the nearest other hypothesis. "Δ bnstudy" is the largest difference of outputs and buffers from bnstudy's layer under the
named convention over five updates, float32."""


def sections(table: pd.DataFrame) -> tuple[pd.DataFrame, list[str], list[str]]:
    """(table for print, notes on its rows, one line for each layer that was not measured)."""
    measured = table[table["status"] == "measured"]
    records = table_rows(measured)
    shown = pd.DataFrame(
        {
            "name": measured["name"],
            "layer": measured["layer"],
            "version": measured["version"],
            "normalizes by": measured["normalize"],
            "stores": measured["accumulate"],
            "convention": measured["convention"],
            "weight": [_weight(one) for one in records],
            "momentum": [_momentum(one) for one in records],
            "ε": [_epsilon(one) for one in records],
            "start": [f"{_number(m)}, {_number(v)}" for m, v in measured[["start_mean", "start_variance"]].to_numpy()],
            "bias correction": measured["bias_correction"],
            "m = 1": measured["single"],
            "misfit": [f"{value:.0e}" for value in measured["residual"]],
            "next": ["-" if math.isnan(value) else f"{value:.2f}" for value in measured["runner_up"]],
            "Δ bnstudy": [_short(value) for value in measured["difference"]],
        }
    )
    notes = [
        f"{one['name']}: {'; '.join(filter(None, (one['oddities'], one['remarks'])))}"
        for one in records
        if one["oddities"] or one["remarks"]
    ]
    absent = table[table["status"] != "measured"]
    return shown, notes, [f"{one['name']}: {one['status']}, {one['reason']}" for one in absent.to_dict("records")]


def markdown(table: pd.DataFrame) -> str:
    """The page `frameworks.md`."""
    shown, notes, absent = sections(table)
    parts = ["# Which BatchNorm does a framework implement?", _machine(table), _INTRODUCTION]
    parts += [shown.to_markdown(index=False, disable_numparse=True)] if len(shown) else []
    for title, lines in (("Notes", notes), ("Not measured", absent), ("Versions", _versions(table))):
        if lines:
            parts.append(f"## {title}\n\n" + "\n".join(f"- {line}" for line in lines))
    return "\n\n".join(parts) + "\n"


def section(table: pd.DataFrame) -> str:
    """The same as a `<section>` of HTML, for a report to take in."""
    shown, notes, absent = sections(table)
    parts = ["<h2>Which BatchNorm does a framework implement?</h2>", f"<p>{html.escape(_machine(table))}</p>"]
    parts += [f"<p>{html.escape(_INTRODUCTION)}</p>", shown.to_html(index=False, border=0)]
    for title, lines in (("Notes", notes), ("Not measured", absent), ("Versions", _versions(table))):
        if lines:
            items = "".join(f"<li>{html.escape(line)}</li>" for line in lines)
            parts.append(f"<h3>{title}</h3>\n<ul>{items}</ul>")
    return '<section id="audit">\n' + "\n".join(parts) + "\n</section>\n"


def provenance(table: pd.DataFrame) -> str:
    """Where the table comes from, as JSON: command, seed of the inputs, machine, versions."""
    machines = table[["platform", "device", "python"]].drop_duplicates().to_dict("records")
    versions = dict(pair.split(" ", 1) for pair in _versions(table))
    found = {"command": "bnstudy audit", "seed": 0, "layers": len(table), "machines": machines, "versions": versions}
    return json.dumps(found, indent=1) + "\n"


def write(table: pd.DataFrame, folder: Path) -> None:
    """Write `frameworks.md`, `section.html` and `provenance.json`, each through a temporary name."""
    texts = {"frameworks.md": markdown(table), "section.html": section(table), "provenance.json": provenance(table)}
    for name, text in texts.items():
        with atomic_file(folder / name) as file:
            file.write(text.encode())


def show(table: pd.DataFrame, console: Console) -> None:
    """Print the table, narrow enough for a terminal, and its notes."""
    shown, notes, absent = sections(table)
    columns = ["name", "version", "convention", "weight", "ε", "Δ bnstudy"]
    grid = Table(box=None, pad_edge=False)
    for column in columns:
        grid.add_column(column.replace(" bnstudy", ""), no_wrap=True)
    for values in shown[columns].to_numpy():
        grid.add_row(*map(str, values))
    if len(shown):
        console.print(grid)
    for title, lines in (("Notes", notes), ("Not measured", absent)):
        if lines:
            console.print(f"\n{title}")
            for line in lines:
                console.print(f"  {line}", markup=False, highlight=False)


def _weight(one: dict[str, Any]) -> str:
    if one["schedule"] == "cumulative":
        return "1/t"
    first = "1, then " if one["schedule"] == "first batch replaces the start" else ""
    return "-" if math.isnan(one["weight"]) else f"{first}{one['weight']:g}"


def _momentum(one: dict[str, Any]) -> str:
    if one["momentum_means"] not in ("new batch", "old value"):
        return str(one["momentum_means"])
    default = one["momentum_default"]
    return f"{one['momentum_means']}, {'no default' if math.isnan(default) else f'{default:g}'}"


def _epsilon(one: dict[str, Any]) -> str:
    place: str = one["eps_place"]
    if place in ("unknown", "not visible"):
        return place
    return _number(one["eps"]) + (f" {place}" if place != "inside" else "")


def _number(value: float) -> str:
    return "varies" if math.isnan(value) else f"{value:g}"


def _short(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.1g}"


def _machine(table: pd.DataFrame) -> str:
    machines = table[["platform", "device", "python"]].drop_duplicates().to_numpy().tolist()
    said = "; ".join(f"{system}, {device}, Python {python}" for system, device, python in machines)
    return f"Measured by `bnstudy audit` on {said}."


def _versions(table: pd.DataFrame) -> list[str]:
    pairs = {pair for text in table["versions"] for pair in text.split(", ") if pair}
    return sorted(pairs)
