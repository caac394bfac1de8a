"""Everything measured of a model, and the two questions that rules ask of a difference: is it real, and is it large?"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from bnstudy.analysis.wording import listed
from bnstudy.diagnosis.evidence import Evidence
from bnstudy.diagnosis.measure import Levels, Reference
from bnstudy.diagnosis.measured import Effect
from bnstudy.diagnosis.normlayers import NormLayer
from bnstudy.diagnosis.result import Finding
from bnstudy.diagnosis.scoring import chance, smallest_effect

CERTAIN = 0.001
"""Error rate of a finding: the chance that luck alone makes it, over all layers that it looks at."""
LIKELY = 0.05
"""Error rate of a harm whose cause is established by itself, at `CERTAIN`: only its size is then in question."""
FEWEST = 8
"""Batches below which standard errors are too rough for a verdict of health."""
RECALIBRATE = "Measure the statistics again on training batches: `bnstudy diagnose … --recalibrate OUT`"


@dataclass(frozen=True)
class Difference(Effect):
    """A metric under one condition less the same under another.

    Args:
        own_error: the larger standard error of the two sides by themselves: what these data know of the metric at all.
        harm: by how much the first condition is worse; the size where no direction is known.
        p: the chance that luck alone makes it; 1 where one batch leaves no error.
        material: whether it exceeds twice `own_error`, so that it stands out from the metric's own sampling error, and the
            smallest effect of interest.
    """

    own_error: float
    harm: float
    p: float
    material: bool

    @property
    def certain(self) -> bool:
        """Whether luck is excluded."""
        return self.p < CERTAIN

    def reversed(self) -> Effect:
        """The second condition less the first."""
        return Effect(self.metric, -self.value, self.error)

    @property
    def weight(self) -> float:
        """Its size in units of the metric's own error, for ranking."""
        return abs(self.value) / self.own_error if self.own_error > 0 and not math.isnan(self.value) else math.inf


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
        on_data: layers whose inputs depend on no weight; looked for where a channel is constant.
        evaluation: the same for the evaluation batches; None without.
    """

    model: nn.Module
    layers: list[NormLayer]
    seen: Reference
    found: list[Evidence]
    levels: Levels
    directions: Mapping[str, str | None]
    kept_in_evaluation: list[NormLayer]
    on_data: list[NormLayer]
    evaluation: Case | None = None

    @property
    def metrics(self) -> list[str]:
        """Names of the metrics, the first the primary one."""
        return list(self.levels.means)

    @property
    def stored_unbiased(self) -> str:
        """The condition of the stored statistics as k·ema_unbiased: `own` itself where that is what the layers have."""
        return "ema_unbiased" if "ema_unbiased" in self.levels.distances else "own"

    def others_with_statistics(self) -> list[str]:
        """A sentence for each layer that is no BatchNorm, changes with the mode and keeps buffers of its own."""
        kept = {name for name, module in self.model.named_modules() if any(map(torch.is_tensor, module._buffers.values()))}
        return [
            f"{name} keeps running statistics of its own, which evaluation mode uses and no BatchNorm rule can judge: "
            "whether they were ever updated and fit the data is to be looked at first."
            for name in self.seen.changing
            if name.rpartition(" (")[0] in kept
        ][:4]

    def effect(self, metric: str, first: str, second: str) -> Difference:
        """The difference first − second of a metric between two conditions."""
        measured = self.levels.contrast(metric, **{first: 1.0, second: -1.0})
        sides = [self.levels.contrast(metric, **{side: 1.0}) for side in (first, second)]
        scale = max((abs(side.value) for side in sides if math.isfinite(side.value)), default=0.0)
        # A thousandth of a percent is rounding, not an effect.
        own_error = max([*(side.error for side in sides if not math.isnan(side.error)), 1e-5 * scale])
        if metric == "accuracy":
            own_error = max(own_error, 1 / self.seen.samples)  # one sample: an accuracy of 1 has no measured error
        direction = self.directions[metric]
        if direction is None:  # what lies closer to training mode is the better one
            far, near = (
                0.0 if side == "batch" else abs(self.levels.contrast(metric, **{side: 1.0, "batch": -1.0}).value)
                for side in (first, second)
            )
            harm = far - near
        else:
            harm = -measured.value if direction == "higher" else measured.value
        if math.isnan(measured.value):
            return Difference(metric, measured.value, measured.error, own_error, math.inf, 0.0, True)
        material = abs(measured.value) > max(2 * own_error, smallest_effect(metric, scale))
        p = chance(measured, self.seen.batches)
        return Difference(metric, measured.value, measured.error, own_error, harm, p, material)

    def worst(self, first: str, second: str, both_ways: bool = False, rate: float = CERTAIN) -> Difference | None:
        """The weightiest real and large harm of running under `first` rather than `second`, over the metrics.

        Args:
            first, second: conditions.
            both_ways: also take a benefit for one.
            rate: how real; `LIKELY` where another test has shown that something is wrong.
        """
        effects = [self.effect(metric, first, second) for metric in self.metrics]
        real = [effect for effect in effects if effect.p < rate and effect.material and (both_ways or effect.harm > 0)]
        return max(real, key=lambda effect: effect.weight, default=None)


def finding(
    kind: str, layers: list[Evidence], effect: Effect | None, summary: str, evidence: list[str], remedy: str
) -> Finding:
    """A finding about layers."""
    return Finding(kind, summary, tuple(evidence), remedy, tuple(one.layer.name for one in layers), effect)


def named(layers: list[Evidence], verb: str = "", many: str = "") -> str:
    """Layers within a sentence, or with a verb (for one layer, and for many) at its start."""
    names = [repr(one.layer.name) for one in layers]
    text = f"{'layer' if len(names) == 1 else 'layers'} {listed(names, 4)}"
    return f"{text[:1].upper()}{text[1:]} {verb if len(names) == 1 else many}" if verb else text
