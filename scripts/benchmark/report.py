"""A benchmark's outcome, as JSON for programs and Markdown for readers."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.benchmark.timing import Ratio, Spread


@dataclass(frozen=True)
class Target:
    """What a ratio has to be.

    Args:
        bound: the number.
        at_most: whether the ratio may be no more than that, or no less.
    """

    bound: float
    at_most: bool

    def met_by(self, ratio: Ratio) -> bool:
        """Whether the median keeps the bound; the interval is shown beside it and does not decide."""
        return ratio.value <= self.bound if self.at_most else ratio.value >= self.bound

    def __str__(self) -> str:
        return f"{'≤' if self.at_most else '≥'} {self.bound:.2f}"


@dataclass(frozen=True)
class Row:
    """One comparison.

    Args:
        case: on what.
        measured: what the ratio is of.
        ratio: its value.
        target: what it has to be; None for a figure that is shown only.
    """

    case: str
    measured: str
    ratio: Ratio
    target: Target | None = None

    @property
    def verdict(self) -> str:
        """Met, missed, or nothing without a target."""
        if self.target is None:
            return ""
        return "met" if self.target.met_by(self.ratio) else "missed"


@dataclass(frozen=True)
class Benchmark:
    """Everything that a benchmark found.

    Args:
        name: names its files.
        method: what was timed and how, in sentences.
        rows: the comparisons.
        seconds: by case and contender, what a unit of its work took (which unit, `method` says).
    """

    name: str
    method: str
    rows: Sequence[Row]
    seconds: Mapping[str, Mapping[str, Spread]]


def markdown(benchmark: Benchmark, conditions: Mapping[str, Any]) -> str:
    """The page: conditions, method, comparisons with target and measured side by side, then the times themselves."""
    judged = [row for row in benchmark.rows if row.target is not None]
    missed = sum(row.verdict == "missed" for row in judged)
    lines = [f"# Benchmark: {benchmark.name}", ""]
    lines += [f"- {key}: {value}" for key, value in conditions.items()]
    lines += ["", benchmark.method, "", f"{len(judged) - missed} of {len(judged)} targets met.", ""]
    lines += ["| case | measured | target | median | 95 % interval | rounds | verdict |", "|---|---|---|---|---|---|---|"]
    for row in benchmark.rows:
        found, target = row.ratio, "" if row.target is None else str(row.target)
        interval = f"{found.low:.3f} to {found.high:.3f}"
        cells = (row.case, row.measured, target, f"{found.value:.3f}", interval, str(found.rounds), row.verdict)
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "| case | contender | median, ms | quartiles, ms |", "|---|---|---|---|"]
    for case, contenders in benchmark.seconds.items():
        for name, found_seconds in contenders.items():
            median, lower, upper = (1e3 * value for value in dataclasses.astuple(found_seconds))
            lines.append(f"| {case} | {name} | {median:.4g} | {lower:.4g} to {upper:.4g} |")
    return "\n".join(lines) + "\n"


def write(benchmark: Benchmark, conditions: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write NAME.json and NAME.md.

    Args:
        benchmark: what was found.
        conditions: machine, versions, command: whatever the numbers depend on.
        folder: is made where it is missing.

    Returns:
        The two files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = [dataclasses.asdict(row) | {"verdict": row.verdict} for row in benchmark.rows]
    content = dataclasses.asdict(benchmark) | {"rows": rows, "conditions": dict(conditions)}
    files = [folder / f"{benchmark.name}.json", folder / f"{benchmark.name}.md"]
    files[0].write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    files[1].write_text(markdown(benchmark, conditions), encoding="utf-8")
    return files
