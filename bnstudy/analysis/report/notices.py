"""What a reader must know before trusting a report: what is missing, failed, diverged or mixed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from bnstudy.analysis.figures.subject import Subject, Tables
from bnstudy.analysis.figures.units import plural
from bnstudy.analysis.report.answer import null_arm_warning

_EXPECTED = ("jobs", "metrics", "gaps", "generalisation", "summary", "contrasts", "layers")
_ORIGIN = {"sources": "versions or commits of the code", "versions": "sets of library versions", "machines": "machines"}


@dataclass(frozen=True)
class Trouble:
    """Runs that are not there, by name.

    Args:
        missing: jobs that have not run, or are in a form that this version cannot read.
        failed: message by job.
        diverged: sentence by job.
    """

    missing: list[str]
    failed: dict[str, str]
    diverged: dict[str, str]


def trouble(provenance: Mapping[str, Any]) -> Trouble:
    """Every missing, failed and diverged run."""
    diverged = {}
    for job, steps in (provenance.get("diverged") or {}).items():
        diverged[str(job)] = ", ".join(f"seed {seed} at step {step}" for seed, step in steps.items())
    failed = {str(job): str(message) for job, message in (provenance.get("failed") or {}).items()}
    return Trouble([str(job) for job in provenance.get("missing") or []], failed, diverged)


def notices(tables: Tables, provenance: Mapping[str, Any], subject: Subject) -> list[str]:
    """Paragraphs for the head of the report, the gravest first."""
    found, told = trouble(provenance), []
    null = null_arm_warning(tables, subject)
    if null:
        told.append(null)
    planned = {job for cell in provenance.get("cells") or [] for job in cell.get("jobs", [])}
    if found.missing or found.failed:
        parts = [f"{len(found.missing)} missing"] * bool(found.missing) + [f"{len(found.failed)} failed"] * bool(
            found.failed
        )
        total = f" of {len(planned)}" if planned else ""
        told.append(
            f"This report is partial: {' and '.join(parts)}{total} jobs. It shows what is there; every one that is not is "
            f"named under “How it was run”."
        )
    if found.diverged:
        seeds = sum(len(steps) for steps in (provenance.get("diverged") or {}).values())
        told.append(
            f"{plural(seeds, 'seed')} diverged in {plural(len(found.diverged), 'job')}. They are left out of means, and of "
            f"every arm of a comparison; where more than a tenth is lost, its verdict is inconclusive."
        )
    if _all_diverged(tables):
        told.append("Every seed that finished diverged: there is no number to compare, and the figures say so.")
    if len(provenance.get("seeds") or []) == 1:
        told.append("There is one seed only, so there are no intervals and no verdicts: read the numbers as examples.")
    mixed = [f"{len(provenance[key])} {what}" for key, what in _ORIGIN.items() if len(provenance.get(key) or []) > 1]
    if mixed:
        told.append(
            f"The runs are mixed: they come from {', '.join(mixed)}, all listed under “How it was run”. Rounding can differ "
            f"between them."
        )
    absent = [name for name in _EXPECTED if name not in tables or tables[name].empty]
    if absent:
        names = ", ".join(absent)
        told.append(
            f"No rows in: {names}. What would be drawn or told from {'it' if len(absent) == 1 else 'them'} is left out."
        )
    declared = (provenance.get("declared") or {}).get("metric")
    if declared and declared != subject.metric.name:
        told.append(
            f"The declared metric, {declared}, was not measured in these runs; {subject.metric.label} stands in for it."
        )
    return told


def _all_diverged(tables: Tables) -> bool:
    owners = tables.get("generalisation", pd.DataFrame())
    return bool(len(owners)) and bool(owners[["train", "test"]].isna().all().all())
