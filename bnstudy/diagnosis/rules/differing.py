"""Findings about a second set of batches: whether evaluation sees what training saw."""

from __future__ import annotations

import math

import torch
from scipy import stats
from torch import Tensor

from bnstudy.analysis.figures.units import plural
from bnstudy.diagnosis.evidence import Evidence
from bnstudy.diagnosis.result import Finding
from bnstudy.diagnosis.rules.case import CERTAIN, LIKELY, Case


def data_differ(case: Case) -> list[Finding]:
    """Evaluation batches whose statistics are not the training batches', where that makes evaluation worse.

    Worse than what: than the same network on statistics of the evaluation batches themselves, which would be
    no better if both sets were alike.
    """
    other = case.evaluation
    if other is None:
        return []
    effect = other.worst("own", "population_pooled", rate=LIKELY)
    if effect is None:
        return []
    pairs = [(one, there) for one in case.found for there in other.found if there.layer is one.layer]
    apart = [(one, there, _apart(one, there)) for one, there in pairs]
    differing = [(one, distance) for one, there, (distance, p) in apart if p < CERTAIN / len(apart)]
    if not differing:
        return []
    worst = sorted(differing, key=lambda pair: -pair[1])[:3]
    first = differing[0][0]
    lines = [
        f"{one.layer.name}: the two sets' statistics lie {math.sqrt(distance):.3g} apart"
        + (f", what is stored {_stored(one)} from the training batches'." if one.stored is not None else ".")
        for one, distance in worst
    ]
    place = "the first BatchNorm layer" if first.position == 0 else f"layer {first.layer.name!r}"
    return [
        Finding(
            "data_differ",
            f"The evaluation batches are not like the training batches: {plural(len(differing), 'layer')} of {len(apart)} "
            "see other "
            f"statistics, from {place} on. Evaluation uses what training stored, and {effect.metric} changes by "
            f"{effect.text} "
            "compared with statistics of the evaluation batches.",
            tuple(lines),
            "Compare the preprocessing and augmentation of the two: scaling, normalisation constants, colour order, "
            "resizing, "
            "train-only augmentation. If the difference is meant, measure the statistics on evaluation data (AdaBN).",
            tuple(one.layer.name for one, _ in differing),
            effect.measured.value,
            effect.measured.error,
            effect.metric,
        )
    ]


def _apart(one: Evidence, other: Evidence) -> tuple[float, float]:
    """Squared Fisher distance of the two sets' statistics, and the chance that luck makes it.

    Luck: the spread of each set's mean over its batches; the distance of means and variances, in units of it, averages 1
    over channels, and the most careful case is that all channels are alike (an F of 1 degree of freedom).
    """
    usable = one.alive & other.alive
    if one.inputs.m != other.inputs.m and one.position > 0:
        return 0.0, 1.0  # behind a BatchNorm layer statistics depend on the size of the batch
    if not bool(usable.any()):
        return 0.0, 1.0
    scale = one.inputs.population.pooled.double().cpu()[usable]
    distance, ratios = torch.zeros(()), []
    for first, second, unit, share in (
        (one.inputs.means.double(), other.inputs.means.double(), scale.sqrt(), 1.0),
        (_about_the_mean(one), _about_the_mean(other), scale, 0.5),
    ):
        a, b = (part[:, usable] / unit for part in (first, second))
        shift = (a.mean(0) - b.mean(0)).square()
        distance = distance + share * shift.mean()
        ratios.append(float((shift / (_error(a) + _error(b)).clamp(min=1e-12)).mean()))
    freedom = min(len(one.inputs.means), len(other.inputs.means)) - 1
    return float(distance), float(min(1.0, 2 * min(stats.f.sf(ratio, 1, max(freedom, 1)) for ratio in ratios)))


def _about_the_mean(one: Evidence) -> Tensor:
    """Variance of each batch about the mean of all, whose expectation does not depend on the size of the batch."""
    means = one.inputs.means.double()
    return one.inputs.variances.double() + (means - means.mean(0)).square()


def _error(values: Tensor) -> Tensor:
    return values.var(0, correction=1) / len(values)


def _stored(one: Evidence) -> str:
    return f"{math.sqrt(one.stored.distance):.3g}" if one.stored is not None else "–"
