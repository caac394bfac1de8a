"""A diagnosis as one HTML file that needs nothing else, and both of its files on disk."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pandas as pd
from markupsafe import Markup, escape

from bnstudy.analysis.figures.drawing import draw
from bnstudy.analysis.report.sheets import Sheet, TableCell
from bnstudy.analysis.report.shell import marked, page
from bnstudy.analysis.wording import plural
from bnstudy.atomic import atomic_file
from bnstudy.diagnosis.account import MARKS, WORDS, origin, remedies, state_of, verdict
from bnstudy.diagnosis.figures.statistics import effective_figure, stored_figure, swap_figure
from bnstudy.diagnosis.figures.waterfall import waterfall_figure
from bnstudy.diagnosis.layer_columns import HEADS, column_factor, column_head
from bnstudy.diagnosis.machine import to_json
from bnstudy.diagnosis.measured import percent, short
from bnstudy.diagnosis.result import CONDITIONS, MODES, PATH, Diagnosis
from bnstudy.errors import UserError
from bnstudy.metric import metric_of

_TEMPLATES = Path(__file__).parent / "templates"


def write_diagnosis(folder: Path, diagnosis: Diagnosis) -> list[Path]:
    """Write diagnosis.html and diagnosis.json; the same diagnosis gives the same bytes.

    Args:
        folder: made if it is not there.
        diagnosis: any.

    Returns:
        The two files, each complete.

    Raises:
        UserError: the folder cannot be written.
    """
    files = {folder / "diagnosis.html": html(diagnosis), folder / "diagnosis.json": to_json(diagnosis) + "\n"}
    try:
        for path, text in files.items():
            with atomic_file(path) as file:
                file.write(text.encode())
    except OSError as error:
        raise UserError(f"folder: {str(folder)!r} cannot be written ({error.strerror}); use another folder") from error
    return list(files)


def html(diagnosis: Diagnosis) -> str:
    """The diagnosis as one self-contained page: no request leaves it; the same diagnosis gives the same bytes."""
    figures = [make(diagnosis) for make in (waterfall_figure, effective_figure, stored_figure, swap_figure)]
    sheet = layer_sheet(diagnosis)
    states = [state_of(finding) for finding in diagnosis.findings]
    values: dict[str, object] = {
        "name": str(diagnosis.setting.get("model") or "model"),
        "verdict": verdict(diagnosis),
        "tiles": _tiles(diagnosis),
        "findings": [(finding, state, MARKS[state], WORDS[state]) for finding, state in
                     zip(diagnosis.findings, states, strict=True)],
        "coded": coded,
        "plural": plural,
        "figures": marked(draw(figures)),
        "metrics": [metric_of(metric).label for metric in diagnosis.metrics],
        "groups": _groups(diagnosis),
        "sheet": sheet,
        "sheet_names": {"metrics", *([sheet.name] if sheet else [])},
        "remedies": remedies(diagnosis.setting),
        "origin": origin(diagnosis.setting),
    }  # fmt: skip
    style = (_TEMPLATES / "diagnosis.css").read_text(encoding="utf-8")
    return page("diagnosis.html.j2", "diagnosis", "verdict", values, _TEMPLATES, style="\n" + style.rstrip())


def layer_sheet(diagnosis: Diagnosis) -> Sheet | None:
    """Every column and row of the layers table; None where there is no layer."""
    layers = diagnosis.layers
    if layers.empty:
        return None
    columns = [name for name in HEADS if name in layers] + [str(name) for name in layers if name not in HEADS]
    rows = [
        [TableCell(str(at), float(at)), *(_cell(value, column) for value, column in zip(row, columns, strict=True))]
        for at, row in enumerate(layers[columns].itertuples(index=False), start=1)
    ]
    note = (
        "A row a BatchNorm layer, numbered in order of execution. m: values per channel in a batch; m_eff: independent "
        "values that it is worth; variance ratio: stored over measured; distance: of all that is stored from what was "
        "measured, and what luck alone makes of it in a moving average; outputs moved by, and metrics by swap: what "
        "changes when this layer alone takes what it stores."
    )
    title = f"All {plural(len(rows), 'layer')}" if len(rows) > 1 else "The layer"
    return Sheet("layers", title, note, ["#", *map(column_head, columns)], rows, len(rows), "diagnosis.json")


def coded(text: str) -> Markup:
    """A sentence with what stands between backquotes as code."""
    parts = re.split(r"`([^`\n]+)`", text)
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if index % 2 else escape(part) for index, part in enumerate(parts)
    )


def _tiles(diagnosis: Diagnosis) -> list[tuple[str, str]]:
    """The primary metric in both modes, and the gap, as pairs of a name and a text; none without a metric."""
    metric = diagnosis.primary
    if not metric:
        return []
    label, gap = metric_of(metric).label, diagnosis.term(metric, "gap").change(metric)
    modes = [(f"{label}, {MODES[key]}", diagnosis.level(metric, key).level(metric)) for key in ("own", "batch")]
    return [(name, "not a number" if text == "–" else text) for name, text in (*modes, ("gap between them", gap))]


def _groups(diagnosis: Diagnosis) -> list[tuple[str, list[tuple[str, Markup, list[str], str]]]]:
    """Rows of the table of metrics in two groups: name, meaning, a cell a metric, and the outputs' distance."""
    metrics = diagnosis.metrics
    distances = dict(zip(diagnosis.levels["condition"], diagnosis.levels["distance"], strict=True))
    levels = [
        (key, coded(meaning), [diagnosis.level(name, key).level(name) for name in metrics], percent(distances[key]))
        for key, meaning in CONDITIONS.items()
        if key in distances
    ]
    terms = [
        (key, coded(term.meaning), [diagnosis.term(name, key).change(name) for name in metrics], "")
        for key, term in PATH.items()
    ]
    return [("Conditions", levels), ("Terms", terms)]


def _cell(value: Any, column: str) -> TableCell:
    if value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)):
        return TableCell("–", math.nan)
    if isinstance(value, str | bool):
        return TableCell(str(value))
    number = float(value) * column_factor(column)
    if math.isinf(number):
        return TableCell("∞" if number > 0 else "−∞", math.copysign(1e300, number))
    if column == "swap_distance":
        return TableCell(percent(number, 2), number)
    return TableCell(
        f"{number:,.0f}".replace("-", "−") if number.is_integer() and abs(number) < 1e15 else short(number), number
    )
