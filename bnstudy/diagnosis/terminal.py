"""A diagnosis on a terminal: verdict, findings, the path from evaluation to training mode, the layers that matter most."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bnstudy.analysis.figures.units import listed, metric_of, plural
from bnstudy.diagnosis.account import (
    MARKS,
    MEANINGS,
    MODES,
    change_text,
    effect_text,
    error_text,
    level,
    level_text,
    metrics,
    state_of,
    term,
    verdict,
)
from bnstudy.diagnosis.layer_columns import choose, real, remarks, short, with_error
from bnstudy.diagnosis.origin import origin
from bnstudy.diagnosis.result import TERMS, Diagnosis, Finding

MOST_LAYERS = 8
_WIDEST = 100
"""Columns; longer lines are hard to read however wide the window is."""
_STYLES = {"healthy": "bold green", "fault": "bold red", "open": "bold yellow", "note": "bold blue"}
_ABREAST = 2
"""Metrics in one table."""


def print_diagnosis(console: Console, diagnosis: Diagnosis, most_layers: int = MOST_LAYERS) -> None:
    """Say what a diagnosis found; what colour says is also said in words.

    Args:
        console: where; 80 columns are enough.
        diagnosis: any.
        most_layers: rows of the table of layers.

    Source: bnstudy issue 7, part 5.
    """
    screen = _Screen(console)
    result = verdict(diagnosis)
    screen.say(Text(result.headline, style="bold"), result.mark, style=_STYLES[result.state])
    for sentence in result.sentences:
        screen.say(sentence)
    for number, finding in enumerate(diagnosis.findings, start=1):
        _finding(screen, number, finding)
    names = metrics(diagnosis)
    for start in range(0, len(names), _ABREAST):
        screen.head("From evaluation mode to training mode" + (", continued" if start else ""))
        screen.show(_path(diagnosis, names[start : start + _ABREAST]))
    if len(diagnosis.layers):
        _layers(screen, diagnosis, most_layers)
    facts = [(name, texts) for name, texts in origin(diagnosis.setting) if name != "Command"]
    if facts:
        screen.head("How it was measured")
    for name, texts in facts:
        screen.say(Text(f"{name}: {'; '.join(texts)}", style="dim"), indent=0)


class _Screen:
    """A console with paragraphs that hang behind their mark."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.width = min(console.width, _WIDEST)

    def show(self, what: Any) -> None:
        self.console.print(what, width=self.width, highlight=False)

    def head(self, text: str) -> None:
        self.show("")
        self.show(Text(text, style="bold underline"))

    def say(self, text: str | Text, mark: str = "", *, indent: int = 2, at: int = 0, style: str = "") -> None:
        """A paragraph, its first line behind `mark`, all others `indent` columns further in than `at`."""
        content = Text(text) if isinstance(text, str) else text
        for index, line in enumerate(content.wrap(self.console, max(20, self.width - at - indent))):
            first = Text(" " * at).append(f"{mark if index == 0 else '':<{indent}}", style=style)
            self.show(first.append_text(line))


def _finding(screen: _Screen, number: int, finding: Finding) -> None:
    state = state_of(finding)
    title = Text.assemble((f"{MARKS[state]} ", _STYLES[state]), (finding.title, "bold"))
    indent = len(f"{number}. ")
    screen.show("")
    screen.say(title, f"{number}.", indent=indent, style="bold")
    if effect := effect_text(finding):
        screen.say(Text(f"effect: {effect}", style="bold"), indent=indent)
    screen.say(finding.summary, indent=indent)
    for line in finding.evidence:
        screen.say(line, "•", at=indent)
    screen.say(finding.remedy, "→", at=indent, style="bold")
    if any(repr(name) not in finding.summary for name in finding.layers):
        said = f"{plural(len(finding.layers), 'layer')}: {listed(list(finding.layers), 4)}"
        screen.say(Text(said, style="dim"), indent=indent)


def _path(diagnosis: Diagnosis, names: list[str]) -> Table:
    """A column a metric: evaluation mode, the terms and their sum, batch statistics, the rest, training mode."""
    table = Table(box=None, padding=(0, 3, 0, 0), pad_edge=False)
    table.add_column("", no_wrap=True)
    for name in names:
        table.add_column(Text(metric_of(name).label), justify="right", overflow="fold", header_style="bold")
    rows = ("own", *TERMS, "gap", "batch", "other", "train")
    columns = [_aligned([_cell(diagnosis, name, key) for key in rows]) for name in names]
    for key, cells in zip(rows, zip(*columns, strict=True), strict=True):
        style = "bold" if key in MODES or key == "gap" else ""
        label = Text(MODES.get(key, f"  {key:<8}"), style=style)
        if key in MEANINGS:
            label.append(MEANINGS[key], style="dim")
        table.add_row(label, *(Text(cell, style=style) for cell in cells))
    return table


def _cell(diagnosis: Diagnosis, metric: str, key: str) -> tuple[str, str]:
    """A number with its unit, and its error."""
    one = level(diagnosis, metric, key) if key in MODES else term(diagnosis, metric, key)
    whole = level_text(one, metric) if key in MODES else change_text(one, metric)
    return whole.partition(" ± ")[0], error_text(one, metric)


def _aligned(cells: list[tuple[str, str]]) -> list[str]:
    """Numbers and errors under each other."""
    most = [max(len(cell[side]) for cell in cells) for side in (0, 1)]
    return [
        f"{value:>{most[0]}}{f' ± {error:<{most[1]}}' if error else ' ' * (most[1] + 3 if most[1] else 0)}"
        for value, error in cells
    ]


def _layers(screen: _Screen, diagnosis: Diagnosis, most: int) -> None:
    chosen = choose(diagnosis, most)
    screen.head(f"Layers: {len(chosen.rows)} of {chosen.total}" if chosen.why else "Layers")
    if chosen.why:
        screen.say(Text(f"Those {chosen.why}.", style="dim"), indent=0)
    swaps = "swap_distance" in chosen.rows and bool(chosen.rows["swap_distance"].notna().any())
    for line in _layer_lines(chosen.rows, swaps, screen.width):
        screen.show(line)
    moved = "; moved by: what this layer alone does to the outputs, relative RMS" if swaps else ""
    legend = "ratio: of the stored variance to these batches’; distance: of all that is stored from these batches; by luck: "
    screen.say(Text(f"{legend}the distance that a moving average of them would have{moved}.", style="dim"), indent=0)
    if rest := chosen.total - len(chosen.rows):
        screen.say(Text(f"{plural(rest, 'more layer')} in the page and the JSON (--out FOLDER).", style="dim"), indent=0)


def _layer_lines(rows: pd.DataFrame, swaps: bool, width: int) -> Iterator[Text]:
    """Names to the left, numbers to the right; a name that leaves no room has a line of its own."""
    heads = ["m", "m_eff", "ratio", "distance", "by luck", *(["moved by"] if swaps else [])]
    cells = [_layer_cells(row, swaps) for _, row in rows.iterrows()]
    sizes = [max(len(line[at]) for line in [heads, *cells]) for at in range(len(heads))]
    names = [str(name) for name in rows["layer"]]
    room = max(8, min(max([5, *map(len, names)]), width - sum(sizes) - 2 * len(sizes)))

    def numbers(line: list[str]) -> str:
        return "".join(f"  {cell:>{size}}" for cell, size in zip(line, sizes, strict=True))

    yield Text(f"{'layer':<{room}}{numbers(heads)}", style="bold")
    for (_, row), name, line in zip(rows.iterrows(), names, cells, strict=True):
        if len(name) > room:
            yield Text(name)
            name = ""
        yield Text(f"{name:<{room}}{numbers(line)}")
        for remark in remarks(row):
            yield Text(f"  {remark}", style="dim")


def _layer_cells(row: pd.Series[Any], swaps: bool) -> list[str]:
    m = real(row.get("m"))
    moved = real(row.get("swap_distance"))
    return [
        f"{m:,.0f}" if math.isfinite(m) else short(m),
        short(real(row.get("m_eff"))),
        with_error(real(row.get("variance_ratio")), real(row.get("variance_ratio_se"))),
        short(real(row.get("distance"))),
        short(real(row.get("distance_expected"))),
        *([f"{100 * moved:,.1f} %" if math.isfinite(moved) else short(moved)] if swaps else []),
    ]
