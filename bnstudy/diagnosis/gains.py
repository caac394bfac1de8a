"""What new running statistics are worth: evaluation mode with the old and the new ones, on held-out batches."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import pandas as pd

from bnstudy.diagnosis.batches import Batch, Source, tensors
from bnstudy.diagnosis.rules.case import CERTAIN, LIKELY
from bnstudy.diagnosis.scoring import Means, chance, smallest_effect
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
                total += sum(float(tensor.double().sum()) for tensor in tensors(batch.inputs))
            if out == self.second:
                yield batch
        if self.second and count == 1:
            raise UserError(
                "held_out: a single batch leaves none to measure the gain on; give two or more, or held-out ones"
            )
        self.sums.append(total)


def gains_table(means: Mapping[str, Means], directions: Mapping[str, str | None]) -> pd.DataFrame:
    """A row a metric: metric, direction, before, after, gain, error.

    Args:
        means: by metric, of "before" and "after".
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


def harmful(means: Mapping[str, Means], directions: Mapping[str, str | None]) -> tuple[str, ...]:
    """The metrics that get worse by more than the smallest effect of interest, and not by luck; or turn into NaN.

    It is for new statistics to show that they are better: harm counts that a paired t-test over batches gives a chance below
    0.05 of being luck; below 0.001 where another metric gains as surely.

    Args:
        means, directions: as for `gains_table`; where a direction is None, only NaN is worse.
    """
    gains = {name: _gain(name, values, directions[name]) for name, values in means.items()}
    better = any(gain > 0 and p < CERTAIN for gain, p in gains.values())
    return tuple(name for name, (gain, p) in gains.items() if gain < 0 and p < (CERTAIN if better else LIKELY))


def _gain(metric: str, values: Means, direction: str | None) -> tuple[float, float]:
    """How much better a metric gets, 0 where it is less than the smallest effect of interest; and the chance of luck."""
    before, after = (values.contrast(**{side: 1.0}).value for side in ("before", "after"))
    if math.isnan(after) or math.isnan(before):
        return float(math.isnan(before)) - float(math.isnan(after)), 0.0
    difference = values.contrast(after=1.0, before=-1.0)
    size = 0.0 if abs(difference.value) <= smallest_effect(metric, max(abs(before), abs(after))) else difference.value
    sign = {"higher": 1.0, "lower": -1.0, None: 0.0}[direction]
    return sign * size, chance(difference, values.batches)
