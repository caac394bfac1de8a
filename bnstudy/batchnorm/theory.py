"""What theory predicts for the scale of a normalised activation, in training and at inference."""

from __future__ import annotations

import math
from dataclasses import dataclass

from bnstudy.batchnorm.conventions import POPULATION_STATISTICS, Convention, bessel


@dataclass(frozen=True)
class Prediction:
    """Second moment of x̂ under batch statistics and under a stored one, ε → 0.

    Args:
        train: E[x̂²] in training.
        evaluation: E[x̂²] at inference.
    """

    train: float
    evaluation: float

    @property
    def ratio(self) -> float:
        """Inference over training; 1 means that nothing shifts."""
        return self.evaluation / self.train


def independence_factor(m_eff: float) -> float:
    """The factor q = 1/(1 - 1/m_eff) by which σ² exceeds E[s²_biased]; c for independent samples, 1 for infinitely many.

    Raises:
        ValueError: m_eff of 1 or less, where the batch mean is all there is.
    """
    if not m_eff > 1:
        raise ValueError(f"m_eff: {m_eff:g} samples have no variance of their own; use more than 1")
    return 1.0 if math.isinf(m_eff) else m_eff / (m_eff - 1)


def predict(
    convention: Convention, m: int, m_eff: float | None = None, statistic: str = "own", momentum: float | None = None
) -> Prediction:
    """Second moment of the normalised activation under one convention.

    With c = m/(m-1) and q = 1/(1 - 1/m_eff), σ² = q·E[s²_biased]:

        train   1 where the biased variance normalises, 1/c where the unbiased one does
        eval    σ² / stored variance: q for a stored E[s²_biased], q/c for E[s²_unbiased], 1 for a pooled variance

    A moving average is noisy, which raises the inference moment: for independent Gaussian samples by about
    (1 + α/((2-α)·m))·(1 + 2α/((2-α)·(m-1))).

    Args:
        convention: who normalises and accumulates.
        m: values per channel in a batch.
        m_eff: number of independent samples that a batch is worth. Default: m.
        statistic: "own" (what the convention stores) or a population statistic of any convention.
        momentum: α, to include the noise of a moving average under "own"; None leaves it out.

    Returns:
        The prediction.

    Raises:
        ValueError: m below 2, an m_eff of 1 or less, an unknown statistic.

    Source: docs/method.md, "Theory, layer by layer".
    """
    c = bessel(m) if m >= 2 else bessel(1)
    q = independence_factor(m if m_eff is None else m_eff)
    variance = convention.accumulate if statistic == "own" else statistic.removeprefix("population_")
    moments = {"biased": q, "unbiased": q / c, "pooled": 1.0}
    if variance not in moments or (statistic != "own" and statistic not in POPULATION_STATISTICS):
        raise ValueError(f"statistic: {statistic!r} has no prediction; use own, {', '.join(POPULATION_STATISTICS)}")
    evaluation = moments[variance]
    if momentum is not None and statistic == "own":
        share = momentum / (2 - momentum)
        evaluation *= (1 + share / m) * (1 + 2 * share / (m - 1))
    return Prediction(1.0 if convention.normalize == "biased" else 1 / c, evaluation)
