"""What new running statistics are worth: evaluation mode with the old and the new ones, on held-out batches."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import pandas as pd
from torch import Tensor, nn

from bnstudy.diagnosis import modes
from bnstudy.diagnosis.batches import Batch, Source, answer
from bnstudy.diagnosis.measure import Step
from bnstudy.diagnosis.rules.case import CERTAIN
from bnstudy.diagnosis.scoring import Means, Metric, chance, score, smallest_effect
from bnstudy.errors import UserError


def held(index: int) -> bool:
    """Whether a batch is held out: 0110 1001 …, the Thue-Morse sequence, one of each pair.

    Not every second one: where batches of two domains alternate, each half would have only one of them.

    Args:
        index: the batch's place, from 0.
    """
    return index.bit_count() % 2 == 1


@dataclass(frozen=True)
class Half(Source):
    """One of each pair of batches.

    Args:
        second: whether those that are held out.
        sums: takes a checksum of the held-out ones at the end of each pass: equal as long as the batches are.
    """

    second: bool = False
    sums: list[float] = field(default_factory=list)

    @property
    def expected(self) -> int | None:
        """How many batches there will be, where that can be told beforehand."""
        whole = super().expected
        return None if whole is None else sum(held(index) == self.second for index in range(whole))

    def __iter__(self) -> Iterator[Batch]:
        total, count = 0.0, 0
        for count, batch in enumerate(super().__iter__(), start=1):
            out = held(count - 1)
            if out:
                total += _sum(batch.inputs)
            if out == self.second:
                yield batch
        if self.second and count == 1:
            raise UserError(
                "held_out: a single batch leaves none to measure the gain on; give two or more, or held-out ones"
            )
        self.sums.append(total)


def _sum(value: object) -> float:
    if isinstance(value, Tensor):
        return float(value.double().sum())
    parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    return sum(_sum(part) for part in parts)


def on_held_out(
    model: nn.Module, new: modes.Statistics, source: Source, metrics: Mapping[str, Metric], step: Step
) -> dict[str, Means]:
    """The metrics in evaluation mode with the stored and the new statistics, on the same batches.

    Args:
        model: within `modes.untouched`.
        new: the new statistics, by layer; the others keep theirs.
        source: held-out batches.
        metrics: by name.
        step: called after every pass, two a batch.

    Returns:
        By metric, the means of "before" and "after".
    """
    means = {name: Means(["before", "after"]) for name in metrics}
    for batch in source:
        outputs = []
        for statistics in ({}, new):
            with modes.evaluation(model, statistics):
                outputs.append(answer(model, batch, source.key))
            step()
        for name, metric in metrics.items():
            means[name].add([score(name, metric, each, batch.targets) for each in outputs], batch.samples)
    return means


def gains_table(means: Mapping[str, Means], directions: Mapping[str, str | None]) -> pd.DataFrame:
    """A row a metric: metric, direction, before, after, gain, error.

    Args:
        means: as `on_held_out` gives them.
        directions: by metric, "higher" or "lower" is better, or None.

    Returns:
        gain is after − before, or its opposite where lower is better; error is its standard error, paired over batches.
    """
    rows = []
    for name, values in means.items():
        before, after = (values.contrast(**{side: 1.0}).value for side in ("before", "after"))
        sign = -1.0 if directions[name] == "lower" else 1.0
        gain = values.contrast(after=sign, before=-sign)
        rows.append((name, directions[name], before, after, gain.value, gain.error))
    table = pd.DataFrame(rows, columns=["metric", "direction", "before", "after", "gain", "error"])
    return table.assign(direction=pd.Series([row[1] for row in rows], dtype=object))  # so that None stays None


def harmful(metric: str, values: Means, direction: str | None) -> bool:
    """Whether a metric gets worse by more than the smallest effect of interest, and not by luck; or turns into NaN.

    Luck is excluded by a paired t-test over batches at the rate `CERTAIN`.

    Args:
        metric: its name.
        values: the means of "before" and "after".
        direction: which side is better; where it is None, only NaN is worse.
    """
    before, after = (values.contrast(**{side: 1.0}).value for side in ("before", "after"))
    if math.isnan(after):
        return not math.isnan(before)
    worse = values.contrast(after=1.0, before=-1.0)
    size = -worse.value if direction == "higher" else worse.value
    least = smallest_effect(metric, max(abs(before), abs(after)))
    return direction is not None and size > least and chance(worse, values.batches) < CERTAIN
