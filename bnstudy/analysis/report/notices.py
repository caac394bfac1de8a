"""What a reader must know before trusting a report: what is missing, failed, diverged or mixed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from bnstudy.analysis.report.answer import null_arm_warning
from bnstudy.analysis.subject import Subject, Tables
from bnstudy.analysis.wording import plural

_EXPECTED = ("jobs", "metrics", "gaps", "generalisation", "summary", "contrasts", "layers")
_ORIGIN = {"sources": "versions or commits of the code", "versions": "sets of library versions", "machines": "machines"}


def notices(tables: Tables, provenance: Mapping[str, Any], subject: Subject) -> list[str]:
    """Paragraphs for the head of the report, the gravest first."""
    missing, failed, diverged = (provenance.get(key) or {} for key in ("missing", "failed", "diverged"))
    paragraphs = []
    null = null_arm_warning(tables, subject)
    if null:
        paragraphs.append(null)
    planned = {job for cell in provenance.get("cells") or [] for job in cell.get("jobs", [])}
    if missing or failed:
        parts = [f"{len(jobs)} {fate}" for jobs, fate in ((missing, "missing"), (failed, "failed")) if jobs]
        total = f" of {len(planned)}" if planned else ""
        paragraphs.append(
            f"This report is partial: {' and '.join(parts)}{total} jobs. It shows the finished ones and "
            f"names the others under “How it was run”."
        )
    if diverged:
        seeds = sum(len(steps) for steps in diverged.values())
        paragraphs.append(
            f"{plural(seeds, 'seed')} diverged in {plural(len(diverged), 'job')}. They are left out of means, and of "
            f"every arm of a comparison; a comparison that loses more than a tenth of its pairs is inconclusive."
        )
    if exploded := _unstable(tables):
        paragraphs.append(exploded)
    if rebuilt := provenance.get("rebuilt"):
        paragraphs.append(f"These results were rebuilt {rebuilt}.")
    if _all_diverged(tables):
        paragraphs.append("Every seed that finished diverged: there is no number to compare, and the figures say so.")
    if len(provenance.get("seeds") or []) == 1:
        paragraphs.append("There is one seed only, so there are no intervals and no verdicts: read the numbers as examples.")
    mixed = [f"{len(provenance[key])} {what}" for key, what in _ORIGIN.items() if len(provenance.get(key) or []) > 1]
    if mixed:
        paragraphs.append(
            f"The runs are mixed: they come from {', '.join(mixed)}, all listed under “How it was run”. "
            "Their rounding can differ."
        )
    absent = [name for name in _EXPECTED if name not in tables or tables[name].empty]
    if absent:
        needed = "that table" if len(absent) == 1 else "those tables"
        paragraphs.append(f"No rows in: {', '.join(absent)}. Figures and sentences made from {needed} are left out.")
    declared = (provenance.get("declared") or {}).get("metric")
    if declared and declared != subject.metric.name:
        paragraphs.append(
            f"The declared metric, {declared}, was not measured in these runs; {subject.metric.label} stands in for it."
        )
    return paragraphs


def _all_diverged(tables: Tables) -> bool:
    owners = tables.get("generalisation", pd.DataFrame())
    return bool(len(owners)) and bool(owners[["train", "test"]].isna().all().all())


def _unstable(tables: Tables) -> str:
    """Which networks exploded although their losses stayed finite; "" where none did."""
    jobs = tables.get("jobs", pd.DataFrame())
    if jobs.empty or "unstable" not in jobs or not jobs["unstable"].any():
        return ""
    by_size = jobs[jobs["unstable"] > 0].groupby("batch_size")["unstable"].sum()
    where = ", ".join(f"{count} at batch size {size}" for size, count in by_size.items())
    return (
        f"{plural(int(by_size.sum()), 'network')} are unstable ({where}): the inputs of a layer grew more than a hundred "
        f"times, or a layer's second moment at inference is above a hundred, though every loss was finite. They take part "
        f"in means; each comparison says how many of its pairs they are, and what its verdict is without them."
    )
