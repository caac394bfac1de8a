"""The family of comparisons that a study declares before it runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bnstudy.analysis.comparable import KINDS, STORED
from bnstudy.analysis.power import ALPHA
from bnstudy.batchnorm.conventions import MATCHED_TOTAL
from bnstudy.errors import UserError

REFERENCE = "paper"
STORAGE = (("ema_unbiased", "ema_total"), ("ema_biased", "ema_total"))
"""Each stored variance against the one that the law of total variance asks for."""
TRAINING = ("normalize=unbiased", "normalize=biased")
"""Karpathy's normalising variance against the paper's."""
KEYS = ("kind", "weights", "metric", "statistic", "split")
"""Columns that say which number of a cell is compared."""


@dataclass(frozen=True)
class Family:
    """The comparisons that a study declares before it runs; Holm's adjustment goes over these rows and no others.

    Attributes:
        metric, split, statistic: which number is compared; default: on the test split, each convention's own statistic.
        margin: largest difference that does not matter, > 0, in the metric's units (accuracy 0-1); None: no
            equivalence tests.
        contrasts: arms compared with `paper`, or pairs (arm, reference); default: the four other conventions.
        kinds: which kinds of comparison belong to the family: "arm" (`contrasts`), "storage" (each stored variance against
            the total one, averaged over both trainings where both are there), "training" (the unbiased against the biased
            normalising variance). Default: arm.
        cells: values of cell columns that belong to the family, as {"batch_size": [2, 4], "model": "mlp"}; default: all.
        alpha: level of the family, in (0, 0.5).
        size: number of comparisons declared. The table of a half-finished study has fewer rows; those missing count as not
            rejected, so that its verdicts are no bolder than the finished study's. Default: the rows there are.

    Raises:
        UserError: a value that cannot be used.

    Source: docs/method.md, "Contrasts and verdicts".
    """

    metric: str
    margin: float | None = None
    contrasts: Sequence[str | Sequence[str]] = ("consistent_unbiased", "consistent_biased", "inverted", "total")
    kinds: Sequence[str] = ("arm",)
    split: str = "test"
    statistic: str = "own"
    cells: Mapping[str, Any] | None = None
    alpha: float = ALPHA
    size: int | None = None

    def __post_init__(self) -> None:
        """Check the values where they are declared, not after the run that they were declared for."""
        for key, top in (("margin", float("inf")), ("alpha", 0.5)):
            number = getattr(self, key)
            if key == "margin" and number is None:
                continue
            if isinstance(number, bool) or not isinstance(number, int | float) or not 0 < number < top:
                raise UserError(f"{key}: {number!r} cannot be used; give a number above 0 and below {top:g}")
        if strange := [kind for kind in self.kinds if kind not in KINDS] or ([] if self.kinds else ["none"]):
            raise UserError(f"kinds: {strange[0]!r} is no kind of comparison; use {', '.join(KINDS)}")
        pairs_of(self.contrasts)

    @classmethod
    def parse(cls, value: Family | Mapping[str, Any]) -> Family:
        """A family from the mapping in an experiment's YAML, whose keys are the attributes; UserError if it cannot be."""
        if isinstance(value, Family):
            return value
        accepted = [field.name for field in fields(cls)]
        if unknown := [key for key in value if key not in accepted]:
            raise UserError(f"family: unknown key '{unknown[0]}'; use {', '.join(accepted)}")
        if "metric" not in value:
            raise UserError("family: 'metric' is missing; a study declares it before it runs")
        return cls(**value)

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """The comparisons of the family, of every kind that it has."""
        pairs = {"arm": pairs_of(self.contrasts), "storage": list(STORAGE), "training": [TRAINING]}
        return [pair for kind in KINDS if kind in self.kinds for pair in pairs[kind]]

    def covers(self, conditions: pd.DataFrame) -> NDArray[np.bool_]:
        """Which rows of a frame with the columns of the cell and `KEYS` belong to the family, shape (rows,)."""
        statistic = conditions["kind"].map({"arm": self.statistic, "storage": STORED, "training": MATCHED_TOTAL})
        member = conditions["kind"].isin(self.kinds) & (conditions["statistic"] == statistic)
        member &= (conditions["metric"] == self.metric) & (conditions["split"] == self.split)
        # Of a storage comparison the mean over both trainings belongs to the family, or the only one that there is.
        cell = [str(column) for column in conditions if column not in KEYS]
        ranks = conditions["weights"].map({"both": 0, "biased": 1, "unbiased": 2}).fillna(0)
        best = ranks.groupby([conditions[key] for key in (*cell, "kind", "metric", "statistic", "split")], dropna=False)
        member &= ranks == best.transform("min")
        return member.to_numpy(dtype=bool) & self.includes(conditions)

    def includes(self, cells: pd.DataFrame) -> NDArray[np.bool_]:
        """Which rows of a frame with the columns of the cell are cells of the family, shape (rows,)."""
        member = np.ones(len(cells), dtype=bool)
        for key, accepted in (self.cells or {}).items():
            several = isinstance(accepted, Sequence) and not isinstance(accepted, str)
            member &= cells[key].isin(list(accepted) if several else [accepted]).to_numpy(dtype=bool)
        return member


def pairs_of(contrasts: Sequence[str | Sequence[str]]) -> list[tuple[str, str]]:
    """Contrasts as (arm, reference) pairs; a bare arm is compared with `paper`. UserError if one cannot be read."""
    listed = [contrasts] if isinstance(contrasts, str) else contrasts
    pairs = [
        (item, REFERENCE) if isinstance(item, str) else tuple(item) if isinstance(item, Sequence) else (item,)
        for item in listed
    ]
    for pair in pairs:
        if len(pair) != 2 or pair[0] == pair[1]:
            expected = f"an arm other than '{REFERENCE}', or a pair [arm, reference]"
            raise UserError(f"contrasts: {list(pair)} is no comparison; give {expected}")
    return [(str(arm), str(reference)) for arm, reference in pairs]
