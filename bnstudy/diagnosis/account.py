"""A diagnosis in words, the same on a terminal and on a page: its verdict, how it was made, what remedies gained."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bnstudy.analysis.wording import plural
from bnstudy.diagnosis.measured import Measured
from bnstudy.diagnosis.result import Diagnosis, Finding
from bnstudy.metric import METRICS, metric_of

_STATES = {"healthy": "healthy", "not_separable": "open", "other_layers": "note"}
MARKS = {"healthy": "✓", "open": "?", "note": "i", "fault": "✗"}
WORDS = {"healthy": "healthy", "open": "open", "note": "note", "fault": "finding"}


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


def verdict(diagnosis: Diagnosis) -> Verdict:
    """The first finding as a headline, and the gap in the primary metric."""
    first, others = diagnosis.findings[0], len(diagnosis.findings) - 1
    headline = "Healthy: nothing is wrong with the BatchNorm statistics" if diagnosis.healthy else first.title
    sentences = [gap_sentence(diagnosis, diagnosis.primary)] if diagnosis.primary else []
    if others:
        sentences.append(f"There {'is' if others == 1 else 'are'} {plural(others, 'further finding')}.")
    return Verdict(state_of(first), headline, tuple(sentences))


def state_of(finding: Finding) -> str:
    """How serious a finding is: "healthy", "open", "note" or "fault"."""
    return _STATES.get(finding.kind, "fault")


def gap_sentence(diagnosis: Diagnosis, metric: str) -> str:
    """A metric in both modes, in words."""
    own, batch = (diagnosis.level(metric, condition) for condition in ("own", "batch"))
    before, after = (level.level(metric, error=False) for level in (own, batch))
    label, trained = metric_of(metric).label, "on the batch’s own statistics"
    name = label[:1].upper() + label[1:] if metric in METRICS else label  # a name of the user's own stays as it is
    if math.isnan(own.value) and math.isnan(batch.value):
        return f"{name} is not a number in either mode."
    if math.isnan(own.value):
        return f"{name} is not a number in evaluation mode; {trained} it is {after}."
    if math.isnan(batch.value):
        return f"{name} is not a number {trained}; in evaluation mode it is {before}."
    gap, direction = diagnosis.term(metric, "gap"), diagnosis.setting.get("direction")
    judged = "a difference of"
    if metric == diagnosis.primary and direction in ("higher", "lower") and abs(gap.value) > 2 * gap.error:
        judged = "worse by" if (gap.value < 0) == (direction == "higher") else "better by"
        gap = Measured(abs(gap.value), gap.error)
    return f"{name} is {before} in evaluation mode and {after} {trained}, as in training: {judged} {gap.change(metric)}."


def origin(setting: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """What a reader needs to make the diagnosis again, as pairs of a name and its texts.

    Args:
        setting: of a diagnosis; what it lacks is left out, and keys that are not known are shown as they are.
    """
    left = dict(setting)

    def text(key: str, shown: str = "{}") -> str:
        value = left.pop(key, None)
        return "" if value is None else shown.format(value)

    def counted(key: str, noun: str) -> str:
        value = left.pop(key, None)
        return plural(value, noun) if isinstance(value, int) else ""

    metric, direction = text("metric"), text("direction", "{} is better") or "which side is better was not said"
    swaps = left.pop("swap_passes", None)
    left.pop("remedies", None)
    facts = {
        "Command": [text("command")],
        "Model": [text("model"), counted("parameters", "parameter")],
        "Metric": [f"{metric_of(metric).label}; {direction}" if metric else ""],
        "Data": [counted("batches", "batch") + text("batch_size", " of {}"), counted("samples", "sample")],
        "Evaluation data": [counted("evaluation_samples", "sample")],
        "Cost": [text("passes", "{} forward passes over the batches"),
                 f"{swaps} of single batches for the swaps" if swaps else "", text("seconds", "{:.1f} s")],
        "Device": [text("device"), counted("threads", "thread")],
        "Seed": [text("seed")],
        "Libraries": [f"{name} {number}" for name, number in (left.pop("versions", None) or {}).items()],
    }  # fmt: skip
    facts |= {str(key).replace("_", " "): [str(value)] for key, value in left.items()}
    return [(name, [", ".join(kept)]) for name, parts in facts.items() if (kept := [part for part in parts if part])]


def remedies(setting: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """The remedies that were tried: each one's file, and what it gained on held-out batches.

    Args:
        setting: of a diagnosis, with `remedies` as the command records them.
    """
    return [
        (
            str(made.get("file", "not written")),
            ["written" if made.get("written") else "not written", *gains(made.get("gains") or []), *made.get("notes", [])],
        )
        for made in setting.get("remedies") or []
    ]


def gains(rows: Sequence[Mapping[Any, Any]]) -> list[str]:
    """What a remedy gains, a line a metric.

    Args:
        rows: of a remedy's table of gains.
    """
    return [
        f"{metric_of(row['metric']).label}: {Measured(row['before']).level(row['metric'])} to "
        f"{Measured(row['after']).level(row['metric'])}, {'change' if row['direction'] is None else 'gain'} "
        f"{Measured(row['gain'], row['error']).change(row['metric'])}"
        for row in rows
    ]
