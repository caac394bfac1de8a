"""Which variance normalises a training batch and which one is stored for inference: the names, and Bessel's factor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

VARIANCES = ("biased", "unbiased")
"""Variances of one batch: those that can normalise it."""
STORED = (*VARIANCES, "total")
"""Variances that can be stored for inference."""


@dataclass(frozen=True)
class Convention:
    """A pair of choices: the variance that normalises the training batch, and the one accumulated for inference.

        s²_biased = Σ(x-μ_B)²/m          s²_unbiased = Σ(x-μ_B)²/(m-1)          σ² = E[s²_biased] + Var(μ_B)

    The last is the total variance: by the law of total variance it is the variance of all values together, however the
    samples of a batch depend on each other. s²_unbiased estimates it only where they are independent.

    Args:
        normalize: "biased" or "unbiased", the variance in the denominator of the training output.
        accumulate: "biased", "unbiased" or "total", the variance whose moving average is used at inference.

    Raises:
        ValueError: another choice, or "total" beside a batch that the unbiased variance normalises: σ² is the variance that
            the biased one misses a part of, and nobody asks for that pair.

    Source: Ioffe & Szegedy 2015, Algorithms 1 and 2 (`paper`); docs/method.md, "Conventions".
    """

    normalize: str
    accumulate: str

    def __post_init__(self) -> None:
        for role, choices in ((self.normalize, VARIANCES), (self.accumulate, STORED)):
            if role not in choices:
                raise ValueError(f"convention: {role!r} is no variance here; use {' or '.join(map(repr, choices))}")
        if (self.normalize, self.accumulate) == ("unbiased", "total"):
            raise ValueError("convention: 'total' goes with normalize='biased'; use ('biased', 'total')")

    @property
    def name(self) -> str:
        """The convention's name in tables and configuration."""
        return next(name for name, convention in CONVENTIONS.items() if convention == self)

    @property
    def own_statistic(self) -> str:
        """The inference statistic that this convention stores: "ema_biased", "ema_unbiased" or "ema_total"."""
        return f"ema_{self.accumulate}"

    def divisor(self, m: int) -> float:
        """k, by which the variance that normalises m values exceeds the biased one: 1, or Bessel's c.

        Times k, a stored estimate of the total variance matches what training divides by.

        Raises:
            ValueError: m = 1, where the unbiased variance normalises.
        """
        return bessel(m) if self.normalize == "unbiased" else 1.0

    @classmethod
    def parse(cls, value: str | Sequence[str] | Convention) -> Convention:
        """Read a convention from a name, an alias, or a pair (normalize, accumulate).

        Raises:
            ValueError: unknown; the message lists the names.
        """
        if isinstance(value, Convention):
            return value
        if isinstance(value, str):
            name = ALIASES.get(value, value)
            if name in CONVENTIONS:
                return CONVENTIONS[name]
        elif isinstance(value, Sequence) and len(value) == 2:
            return cls(*value)
        raise ValueError(
            f"convention: {value!r} is unknown; use {', '.join(CONVENTIONS)}, "
            f"an alias ({', '.join(ALIASES)}), or a pair (normalize, accumulate)"
        )


CONVENTIONS: dict[str, Convention] = {
    "paper": Convention("biased", "unbiased"),
    "consistent_unbiased": Convention("unbiased", "unbiased"),
    "consistent_biased": Convention("biased", "biased"),
    "inverted": Convention("unbiased", "biased"),
    "total": Convention("biased", "total"),
}
ALIASES: dict[str, str] = {"pytorch": "paper", "karpathy": "consistent_unbiased", "flax": "consistent_biased"}

RESCALED = "consistent_biased_rescaled"
"""The identity control, no convention of its own: `consistent_biased` with γ/√c and ε/c, which is the function that
`consistent_unbiased` computes with γ and ε (`bnstudy.training.networks.arms`)."""
ARMS: dict[str, Convention] = {**CONVENTIONS, RESCALED: CONVENTIONS["consistent_biased"]}
"""Every arm of a study by name: the conventions, and the control."""

EMA_STATISTICS = ("ema_biased", "ema_unbiased", "ema_total")
POPULATION_STATISTICS = ("population_biased", "population_unbiased", "population_total")
STATISTICS = ("batch", *EMA_STATISTICS, *POPULATION_STATISTICS)
MATCHED_TOTAL = "matched_population_total"
"""k·population_total, which matches the training divisor: k = c where the unbiased variance normalises, else 1."""


def bessel(m: int) -> float:
    """Bessel's factor c = m/(m-1), the ratio of the unbiased to the biased variance of m values.

    An empty batch (m = 0) has nothing to correct and gives 1.

    Raises:
        ValueError: m = 1, where the unbiased variance does not exist.
    """
    if m == 1:
        raise ValueError("m: 1 value has no unbiased variance; use 2 or more")
    return m / (m - 1) if m > 1 else 1.0
