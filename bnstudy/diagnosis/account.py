"""A diagnosis in few words, the same on a terminal and on a page: its verdict, the path of its terms, its numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas as pd

from bnstudy.analysis.figures.units import amount, fixed, metric_of, number, plural
from bnstudy.diagnosis.result import TERMS, Diagnosis, Finding
from bnstudy.metric import METRICS

MODES = {"own": "evaluation mode", "batch": "batch statistics", "train": "training mode"}
"""Conditions between which the terms stand."""
MEANINGS = {
    "bessel": "convention",
    "lag": "moving average",
    "pooling": "batch means",
    "noise": "batch by batch",
    "gap": "their sum",
    "other": "dropout etc.",
}
"""What a term comes from, in two words."""
PATH = ("own", *TERMS, "batch", "other", "train")
"""From evaluation to training mode: each term is the condition above it less the one below."""
_STATES = {"healthy": "healthy", "not_separable": "open", "other_layers": "note"}
MARKS = {"healthy": "✓", "open": "?", "note": "i", "fault": "✗"}


@dataclass(frozen=True)
class Verdict:
    """What a diagnosis comes to.

    Args:
        state: "healthy", "fault", "open" (not separable) or "note" (not BatchNorm).
        headline: a few words.
        sentences: what the primary metric says, and how many findings there are.
    """

    state: str
    headline: str
    sentences: tuple[str, ...]

    @property
    def mark(self) -> str:
        """One character for the state; the headline says the same in words."""
        return MARKS[self.state]


@dataclass(frozen=True)
class Level:
    """A metric under a condition, or a term of its gap; NaN where it was not measured."""

    value: float
    error: float


def verdict(diagnosis: Diagnosis) -> Verdict:
    """The first finding as a headline, and the gap in the primary metric.

    Args:
        diagnosis: with at least one finding.
    """
    first, others = diagnosis.findings[0], len(diagnosis.findings) - 1
    headline = "Healthy: nothing is wrong with the BatchNorm statistics" if diagnosis.healthy else first.title
    sentences = [gap_sentence(diagnosis, primary(diagnosis))] if primary(diagnosis) else []
    if others:
        sentences.append(f"There {'is' if others == 1 else 'are'} {plural(others, 'further finding')}.")
    return Verdict(state_of(first), headline, tuple(sentences))


def state_of(finding: Finding) -> str:
    """How serious a finding is: "healthy", "open", "note" or "fault"."""
    return _STATES.get(finding.kind, "fault")


def metrics(diagnosis: Diagnosis) -> list[str]:
    """The metrics, the primary one first."""
    names = list(dict.fromkeys([*diagnosis.levels["metric"], *diagnosis.terms["metric"]]))
    asked = diagnosis.setting.get("metric")
    return [str(asked), *(name for name in names if name != asked)] if asked in names else names


def primary(diagnosis: Diagnosis) -> str:
    """The metric that the diagnosis is about; "" where none was measured."""
    return next(iter(metrics(diagnosis)), "")


def level(diagnosis: Diagnosis, metric: str, condition: str) -> Level:
    """A metric under a condition."""
    return _found(diagnosis.levels, metric, "condition", condition)


def term(diagnosis: Diagnosis, metric: str, name: str) -> Level:
    """A term of a metric's gap."""
    return _found(diagnosis.terms, metric, "term", name)


def gap_sentence(diagnosis: Diagnosis, metric: str) -> str:
    """A metric in both modes, in words."""
    shown = metric_of(metric)
    own, batch = (level(diagnosis, metric, condition) for condition in ("own", "batch"))
    gap = term(diagnosis, metric, "gap")
    before, after = (level_text(one, metric, error=False) for one in (own, batch))
    name, trained = _upper(shown.label), "on the batch’s own statistics"
    if math.isnan(own.value) and math.isnan(batch.value):
        return f"{name} is not a number in either mode."
    if math.isnan(own.value):
        return f"{name} is not a number in evaluation mode; {trained} it is {after}."
    if math.isnan(batch.value):
        return f"{name} is not a number {trained}; in evaluation mode it is {before}."
    judged = _judged(gap, diagnosis.setting.get("direction") if metric == primary(diagnosis) else None)
    size = change_text(Level(abs(gap.value), gap.error) if judged else gap, metric)
    return (
        f"{name} is {before} in evaluation mode and {after} {trained}, as in training: {judged or 'a difference of'} {size}."
    )


def effect_text(finding: Finding) -> str:
    """What a finding accounts for: "accuracy −3.20 pp ± 0.25"; "" where it has no number of its own."""
    if finding.metric is None:
        return ""
    value = math.nan if finding.effect is None else finding.effect
    error = math.nan if finding.error is None else finding.error
    if math.isnan(value):
        return f"{metric_of(finding.metric).label} is not a number"
    return f"{metric_of(finding.metric).label} {change_text(Level(value, error), finding.metric)}"


def level_text(one: Level, metric: str, error: bool = True) -> str:
    """A metric's value with its unit: "91.20 % ± 0.33"; "–" where it is not a number."""
    return _text(one, metric, metric_of(metric).level_unit, error)


def change_text(one: Level, metric: str) -> str:
    """A difference of a metric with its unit: "−3.20 pp ± 0.25"."""
    return _text(one, metric, metric_of(metric).unit)


def error_text(one: Level, metric: str) -> str:
    """A standard error without its unit; "" where there is none, as of a term that is zero by definition."""
    if not (math.isfinite(one.value) and math.isfinite(one.error)) or one.value == one.error == 0:
        return ""
    return amount(one.error, metric_of(metric), unit=False)


def _text(one: Level, metric: str, unit: str, error: bool = True) -> str:
    if math.isnan(one.value):
        return "–"
    shown, spread = metric_of(metric), error_text(one, metric)
    value, coarse = one.value * shown.factor, bool(spread) and one.error * shown.factor >= 0.5 * 10.0**-shown.decimals
    # Digits beyond those of the error say nothing.
    text = fixed(value, shown.decimals) if coarse and math.isfinite(value) else number(value, shown.decimals)
    return f"{text}{f' {unit}' if unit else ''}{f' ± {spread}' if spread and error else ''}"


def _judged(gap: Level, direction: object) -> str:
    """Which side is better, where that is known and the difference is more than twice its error."""
    if direction not in ("higher", "lower") or not abs(gap.value) > 2 * gap.error:
        return ""
    return "worse by" if (gap.value < 0) == (direction == "higher") else "better by"


def _found(table: pd.DataFrame, metric: str, column: str, name: str) -> Level:
    rows = table[(table["metric"] == metric) & (table[column] == name)]
    return Level(float(rows["value"].iloc[0]), float(rows["error"].iloc[0])) if len(rows) else Level(math.nan, math.nan)


def _upper(text: str) -> str:
    """A known metric's label at a sentence's start; a user's own name stays as it is written."""
    return text[:1].upper() + text[1:] if text in {metric.label for metric in METRICS.values()} else text
