"""A diagnosis as one HTML file that needs nothing else."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pandas as pd
from markupsafe import Markup, escape

from bnstudy.analysis.figures.units import metric_of, plural
from bnstudy.analysis.report.sheets import Cell, Sheet
from bnstudy.analysis.report.shell import marked, page
from bnstudy.diagnosis.account import (
    MARKS,
    MODES,
    change_text,
    effect_text,
    level,
    level_text,
    metrics,
    primary,
    state_of,
    term,
    verdict,
)
from bnstudy.diagnosis.figures.statistics import effective_figure, stored_figure
from bnstudy.diagnosis.figures.swapped import swap_figure
from bnstudy.diagnosis.figures.waterfall import waterfall_figure
from bnstudy.diagnosis.layer_columns import column_factor, column_head, short
from bnstudy.diagnosis.origin import origin, remedies
from bnstudy.diagnosis.result import CONDITIONS, TERMS, Diagnosis

_TEMPLATES = Path(__file__).parent / "templates"
_WORDS = {"healthy": "healthy", "fault": "finding", "open": "open", "note": "note"}
_TERMS = {
    "bessel": "own − stored as the unbiased variance: the constant that the convention chose",
    "lag": "moving average − population statistics of these batches: lag and luck",
    "pooling": "mean batch variance − variance by the law of total variance: what batch means vary",
    "noise": "population statistics − the batch’s own: what no stored constant can remove",
    "gap": "own − batch: the sum of the four terms",
    "other": "batch − train: dropout and its like, not BatchNorm",
}
_FIRST = ("layer", "m", "m_eff", "m_eff_se", "variance_ratio", "variance_ratio_se", "distance", "distance_expected",
          "swap_distance")  # fmt: skip
_LAST = ("dead", "zero_gain", "broken", "calls", "batches_tracked", "momentum", "eps", "channels", "type")
"""Columns of the table of layers before and after all others."""
_ORDER = ("own", "ema_unbiased", "population_unbiased", "population_pooled", "batch", "train")


def html(diagnosis: Diagnosis) -> str:
    """The diagnosis as one self-contained page: no request leaves it; the same diagnosis gives the same bytes.

    Args:
        diagnosis: any.

    Source: bnstudy issue 7, part 5.
    """
    figures = [make(diagnosis) for make in (waterfall_figure, effective_figure, stored_figure, swap_figure)]
    name = str(diagnosis.setting.get("model") or "model")
    sheet = layer_sheet(diagnosis)
    values: dict[str, object] = {
        "name": name,
        "verdict": verdict(diagnosis),
        "tiles": tiles(diagnosis),
        "findings": [_finding(finding) for finding in diagnosis.findings],
        "figures": marked([figure.drawn() for figure in figures]),
        "metrics": [metric_of(metric).label for metric in metrics(diagnosis)],
        "groups": _groups(diagnosis),
        "sheet": sheet,
        "sheet_names": {"metrics", *([sheet.name] if sheet else [])},
        "remedies": remedies(diagnosis.setting),
        "origin": origin(diagnosis.setting),
    }
    style = (_TEMPLATES / "diagnosis.css").read_text(encoding="utf-8")
    return page("diagnosis.html.j2", "diagnosis", "verdict", values, _TEMPLATES, style="\n" + style.rstrip())


def tiles(diagnosis: Diagnosis) -> list[tuple[str, str]]:
    """The primary metric in both modes, and the gap, as pairs of a name and a text; none without a metric."""
    metric = primary(diagnosis)
    if not metric:
        return []
    label = metric_of(metric).label
    modes = [(f"{label}, {MODES[key]}", level_text(level(diagnosis, metric, key), metric)) for key in ("own", "batch")]
    pairs = [*modes, ("gap between them", change_text(term(diagnosis, metric, "gap"), metric))]
    return [(name, "not a number" if text == "–" else text) for name, text in pairs]


def layer_sheet(diagnosis: Diagnosis) -> Sheet | None:
    """Every column and row of the layers table; None where there is no layer."""
    layers = diagnosis.layers
    if layers.empty:
        return None
    columns = [*(name for name in _FIRST if name in layers)]
    columns += [str(column) for column in layers if column not in (*_FIRST, *_LAST)]
    columns += [name for name in _LAST if name in layers]
    rows = [
        [Cell(str(at), float(at)), *(_cell(value, column) for value, column in zip(row, columns, strict=True))]
        for at, row in enumerate(layers[columns].itertuples(index=False), start=1)
    ]
    note = (
        "A row a BatchNorm layer, numbered in order of execution. m: values per channel in a batch; m_eff: independent "
        "values that it is worth; variance ratio: stored over measured; distance: of all that is stored from what was "
        "measured, and what luck alone makes of it in a moving average; outputs moved by, and metrics by swap: what changes "
        "when this layer alone takes what it stores."
    )
    heads = ["#", *(column_head(column) for column in columns)]
    return Sheet("layers", f"All {plural(len(rows), 'layer')}" if len(rows) > 1 else "The layer", note, heads, rows,
                 len(rows), "diagnosis.json")  # fmt: skip


def coded(text: str) -> Markup:
    """A sentence with what stands between backquotes as code."""
    parts = re.split(r"`([^`\n]+)`", text)
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if index % 2 else escape(part) for index, part in enumerate(parts)
    )


def _finding(finding: Any) -> dict[str, object]:
    state = state_of(finding)
    return {
        "state": state,
        "mark": MARKS[state],
        "word": _WORDS[state],
        "title": finding.title,
        "effect": effect_text(finding),
        "summary": coded(finding.summary),
        "evidence": [coded(line) for line in finding.evidence],
        "remedy": coded(finding.remedy),
        "layers": finding.layers,
        "count": plural(len(finding.layers), "layer"),
    }


def _groups(diagnosis: Diagnosis) -> list[tuple[str, list[tuple[str, Markup, list[str], str]]]]:
    """Rows of the table of metrics in two groups: name, meaning, a cell a metric, and the outputs' distance."""
    names = metrics(diagnosis)
    measured = set(diagnosis.levels["condition"])
    levels = [
        (
            key,
            coded(CONDITIONS[key]),
            [level_text(level(diagnosis, name, key), name) for name in names],
            _distance(diagnosis, key),
        )
        for key in _ORDER
        if key in measured
    ]
    terms = [
        (key, coded(_TERMS[key]), [change_text(term(diagnosis, name, key), name) for name in names], "")
        for key in (*TERMS, "gap", "other")
    ]
    return [("Conditions", levels), ("Terms", terms)]


def _distance(diagnosis: Diagnosis, condition: str) -> str:
    rows = diagnosis.levels[diagnosis.levels["condition"] == condition]
    value = float(rows["distance"].iloc[0])
    return f"{100 * value:,.1f} %" if math.isfinite(value) else short(value)


def _cell(value: Any, column: str) -> Cell:
    if value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)):
        return Cell("–", math.nan)
    if isinstance(value, str | bool):
        return Cell(str(value))
    number = float(value) * column_factor(column)
    if math.isinf(number):
        return Cell("∞" if number > 0 else "−∞", math.copysign(1e300, number))
    if column == "swap_distance":
        return Cell(f"{100 * number:,.2f} %", number)
    return Cell(f"{number:,.0f}".replace("-", "−") if number.is_integer() and abs(number) < 1e15 else short(number), number)
