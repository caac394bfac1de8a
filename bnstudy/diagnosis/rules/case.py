"""Everything measured of a model, and the two questions that rules ask of a difference: is it real, and is it large?"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from scipy import stats
from torch import nn

from bnstudy.analysis.figures.units import amount, metric_of
from bnstudy.diagnosis.evidence import Evidence
from bnstudy.diagnosis.measure import Levels, Reference
from bnstudy.diagnosis.normlayers import NormLayer
from bnstudy.diagnosis.scoring import Measured

CERTAIN = 0.001
"""Error rate of a finding: the chance that luck alone makes it, over all layers that it looks at."""
LIKELY = 0.05
"""Error rate of a harm whose cause is established by itself, at `CERTAIN`: only its size is then in question."""
_SMALLEST = {"accuracy": 0.001, "loss": 0.005, "bce": 0.005}
FEWEST = 8
"""Batches below which standard errors are too rough for a verdict of health."""


def smallest_effect(metric: str, level: float) -> float:
    """The smallest effect of interest: 0.1 pp of accuracy, 0.005 nats of a loss; of other metrics a hundredth of the level.

    Args:
        metric: its name.
        level: its size, the larger of two that are compared.
    """
    return _SMALLEST.get(metric, 0.01 * level)


@dataclass(frozen=True)
class Effect:
    """A difference of a metric between two conditions.

    Args:
        metric: its name.
        measured: the difference and its paired standard error.
        own_error: the larger standard error of the two sides by themselves: what these data know of the metric at all.
        harm: by how much the first condition is worse; the size where no direction is known.
        p: the chance that luck alone makes it; 1 where one batch leaves no error.
        material: whether it exceeds twice `own_error`, so that it stands out from the metric's own sampling error, and the
            smallest effect of interest.
    """

    metric: str
    measured: Measured
    own_error: float
    harm: float
    p: float
    material: bool

    @property
    def significant(self) -> bool:
        """Whether luck is excluded, at the rate `CERTAIN`."""
        return self.p < CERTAIN

    @property
    def weight(self) -> float:
        """Its size in units of the metric's own error, for ranking."""
        if math.isnan(self.measured.value):
            return math.inf
        return abs(self.measured.value) / self.own_error if self.own_error > 0 else math.inf

    @property
    def text(self) -> str:
        """The difference with its error, in the metric's units."""
        shown, metric = self.measured, metric_of(self.metric)
        if math.isnan(shown.value):
            return "no number (NaN)"
        size = amount(shown.value, metric)
        return size if math.isnan(shown.error) else f"{size} ± {amount(shown.error, metric, unit=False)}"


@dataclass(frozen=True, eq=False)
class Case:
    """A model on its batches.

    Args:
        model: the model.
        layers: all its BatchNorm layers.
        seen: the first sweep.
        found: what it says of each layer that ran, in order.
        levels: the second sweep.
        directions: by metric, "higher", "lower" (which is better) or None.
        kept_in_evaluation: layers that `model.train()` leaves in evaluation mode.
        evaluation: the same for the evaluation batches; None without.
    """

    model: nn.Module
    layers: list[NormLayer]
    seen: Reference
    found: list[Evidence]
    levels: Levels
    directions: Mapping[str, str | None]
    kept_in_evaluation: list[NormLayer]
    evaluation: Case | None = None

    @property
    def metrics(self) -> list[str]:
        """Names of the metrics, the first the primary one."""
        return list(self.levels.means)

    @property
    def stored_unbiased(self) -> str:
        """The condition of the stored statistics as k·ema_unbiased: `own` itself where that is what the layers have."""
        return "ema_unbiased" if "ema_unbiased" in self.levels.distances else "own"

    def effect(self, metric: str, first: str, second: str) -> Effect:
        """The difference first − second of a metric.

        Args:
            metric: its name.
            first, second: conditions.
        """
        measured = self.levels.contrast(metric, **{first: 1.0, second: -1.0})
        sides = [self.levels.contrast(metric, **{side: 1.0}) for side in (first, second)]
        errors = [side.error for side in sides if not math.isnan(side.error)]
        scale = max((abs(side.value) for side in sides if math.isfinite(side.value)), default=0.0)
        own_error = max([*errors, 1e-5 * scale])  # a thousandth of a percent is rounding, not an effect
        if metric == "accuracy":
            own_error = max(own_error, 1 / self.seen.samples)  # one sample: an accuracy of 1 has no measured error
        direction = self.directions[metric]
        if direction is None:  # what lies closer to training mode is the better one
            near, far = (
                0.0 if side == "batch" else abs(self.levels.contrast(metric, **{side: 1.0, "batch": -1.0}).value)
                for side in (second, first)
            )
            harm = far - near
        else:
            harm = measured.value * (-1 if direction == "higher" else 1)
        floor = max(2 * own_error, smallest_effect(metric, scale))
        broken = math.isnan(measured.value)
        return Effect(
            metric,
            measured,
            own_error,
            math.inf if broken else harm,
            0.0 if broken else self._chance(measured),
            broken or abs(measured.value) > floor,
        )

    def worst(self, first: str, second: str, both_ways: bool = False, rate: float = CERTAIN) -> Effect | None:
        """The weightiest real and large harm of running under `first` rather than `second`, over the metrics.

        Args:
            first, second: conditions.
            both_ways: also take a benefit for one.
            rate: how real; `LIKELY` where another test has shown that something is wrong.
        """
        effects = [self.effect(metric, first, second) for metric in self.metrics]
        real = [one for one in effects if one.p < rate and one.material and (both_ways or one.harm > 0)]
        return max(real, key=lambda one: one.weight, default=None)

    def _chance(self, measured: Measured) -> float:
        if not math.isfinite(measured.error):
            return 1.0
        if measured.error == 0:
            return 1.0 if measured.value == 0 else 0.0
        return float(2 * stats.t.sf(abs(measured.value / measured.error), self.seen.batches - 1))
