"""A diagnosis on a terminal: verdict, findings, the path from evaluation to training mode, the layers that matter most."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bnstudy.analysis.wording import listed, plural
from bnstudy.diagnosis.account import MARKS, origin, state_of, verdict
from bnstudy.diagnosis.layer_columns import choose, remarks
from bnstudy.diagnosis.measured import percent, short, with_error
from bnstudy.diagnosis.result import MODES, PATH, TERMS, Diagnosis, Finding
from bnstudy.metric import metric_of

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
    """
    width = min(console.width, _WIDEST)

    def show(*parts: Any) -> None:
        for part in parts:
            for line in console.render_lines(part, console.options.update(width=width), pad=False):
                text = Text.assemble(*((segment.text, segment.style or "") for segment in line))
                text.rstrip()
                console.print(text, highlight=False)

    result = verdict(diagnosis)
    headline = Text(result.headline, style="bold")
    show(_marked((Text(result.mark, style=_STYLES[result.state]), headline), *(("", line) for line in result.sentences)))
    for number, finding in enumerate(diagnosis.findings, start=1):
        show("", _finding(number, finding))
    for start in range(0, len(diagnosis.metrics), _ABREAST):
        show("", _head("From evaluation mode to training mode" + (", continued" if start else "")))
        show(_path(diagnosis, diagnosis.metrics[start : start + _ABREAST]))
    if len(diagnosis.layers):
        show(*_layers(diagnosis, most_layers))
    facts = [(name, texts) for name, texts in origin(diagnosis.setting) if name != "Command"]
    if facts:
        show("", _head("How it was measured"))
    show(*(Text(f"{name}: {'; '.join(texts)}", style="dim") for name, texts in facts))


def _head(text: str) -> Text:
    return Text(text, style="bold underline")


def _marked(*rows: tuple[str | Text, str | Text | Table]) -> Table:
    """Paragraphs that hang behind their marks."""
    grid = Table.grid(padding=(0, 1, 0, 0))
    for mark, part in rows:
        grid.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in (mark, part)))
    return grid


def _finding(number: int, finding: Finding) -> Table:
    state = state_of(finding)
    points = [("•", line) for line in finding.evidence]
    rows: list[tuple[str | Text, str | Text | Table]] = [
        (Text(f"{number}.", style="bold"), Text.assemble((f"{MARKS[state]} ", _STYLES[state]), (finding.title, "bold"))),
        *([("", Text(f"effect: {finding.effect.label}", style="bold"))] if finding.effect else []),
        ("", finding.summary),
        ("", _marked(*points, (Text("→", style="bold"), finding.remedy))),
    ]
    if any(repr(name) not in finding.summary for name in finding.layers):
        named = f"{plural(len(finding.layers), 'layer')}: {listed(list(finding.layers), 4)}"
        rows.append(("", Text(named, style="dim", overflow="fold")))
    return _marked(*rows)


def _path(diagnosis: Diagnosis, metrics: list[str]) -> Table:
    """Two columns a metric, a value and its error: evaluation mode, terms and their sum, batch statistics, the rest."""
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("", no_wrap=True)
    for metric in metrics:
        table.add_column(Text(metric_of(metric).label), justify="right", overflow="fold", header_style="bold")
        table.add_column("")
    for key in ("own", *TERMS, "gap", "batch", "other", "train"):
        style = "bold" if key in MODES or key == "gap" else ""
        label = Text(MODES.get(key, f"  {key:<8}"), style=style).append(PATH[key].cause if key in PATH else "", style="dim")
        cells = []
        for metric in metrics:
            number = diagnosis.term(metric, key) if key in PATH else diagnosis.level(metric, key)
            text = number.change(metric) if key in PATH else number.level(metric)
            cells += [text.partition(" ± ")[0], f"± {number.spread(metric)}" if number.spread(metric) else ""]
        table.add_row(label, *(Text(cell, style=style) for cell in cells))
    return table


def _layers(diagnosis: Diagnosis, most: int) -> list[Any]:
    chosen = choose(diagnosis, most)
    parts: list[Any] = ["", _head(f"Layers: {len(chosen.rows)} of {chosen.total}" if chosen.why else "Layers")]
    if chosen.why:
        parts.append(Text(f"Those {chosen.why}.", style="dim"))
    swaps = "swap_distance" in chosen.rows and bool(chosen.rows["swap_distance"].notna().any())
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    table.add_column("layer", overflow="fold", min_width=8)
    for head in ("m", "m_eff", "ratio", "distance", "by luck", *(["moved by"] if swaps else [])):
        table.add_column(head, justify="right", no_wrap=True)
    for _, row in chosen.rows.iterrows():
        name = Text(str(row["layer"]))
        for remark in remarks(row):
            name.append(f"\n  {remark}", style="dim")
        table.add_row(name, *_numbers(row, swaps))
    moved = "; moved by: what this layer alone does to the outputs, relative RMS" if swaps else ""
    legend = "ratio: of the stored variance to these batches’; distance: of all that is stored from these batches; by luck: "
    parts += [table, Text(f"{legend}the distance that a moving average of them would have{moved}.", style="dim")]
    if rest := chosen.total - len(chosen.rows):
        parts.append(Text(f"{plural(rest, 'more layer')} in the page and the JSON (--out FOLDER).", style="dim"))
    return parts


def _numbers(row: pd.Series[Any], swaps: bool) -> list[str]:
    names = ("m", "m_eff", "variance_ratio", "variance_ratio_se", "distance", "distance_expected", "swap_distance")
    m, m_eff, ratio, error, distance, luck, moved = (
        float(pd.to_numeric(row.get(name, math.nan), errors="coerce")) for name in names
    )
    return [
        f"{m:,.0f}" if math.isfinite(m) else short(m),
        short(m_eff),
        with_error(ratio, error),
        short(distance),
        short(luck),
        *([percent(moved)] if swaps else []),
    ]
