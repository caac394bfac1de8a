"""Findings about a second set of batches: whether evaluation sees what training saw."""

from __future__ import annotations

import math

import torch
from scipy import stats
from torch import Tensor

from bnstudy.analysis.wording import plural
from bnstudy.diagnosis.evidence import Evidence
from bnstudy.diagnosis.result import Finding
from bnstudy.diagnosis.rules.case import CERTAIN, LIKELY, Case, finding


def data_differ(case: Case) -> list[Finding]:
    """Evaluation batches whose statistics are not the training batches', where that makes evaluation worse.

    Worse than what: than the same network on statistics of the evaluation batches themselves, which would be
    no better if both sets were alike.
    """
    other = case.evaluation
    effect = None if other is None else other.worst("own", "population_total", rate=LIKELY)
    if other is None or effect is None:
        return []
    pairs = [(one, there) for one in case.found for there in other.found if there.layer is one.layer]
    judged = [(one, *_apart(one, there)) for one, there in pairs]
    differing = [(one, distance) for one, distance, p in judged if p < CERTAIN / len(judged)]
    if not differing:
        return []
    lines = []
    for one, distance in sorted(differing, key=lambda pair: -pair[1])[:3]:
        line = f"{one.layer.name}: the two sets' statistics lie {math.sqrt(distance):.3g} apart"
        own = (
            "" if one.stored is None else f", what is stored {math.sqrt(one.stored.distance):.3g} from the training batches'"
        )
        lines.append(f"{line}{own}.")
    first = differing[0][0]
    place = "the first BatchNorm layer" if first.position == 0 else f"layer {first.layer.name!r}"
    summary = (
        f"The evaluation batches are not like the training batches: {plural(len(differing), 'layer')} of {len(judged)} see "
        f"other statistics, from {place} on. Evaluation uses what training stored, and {effect.clause} compared with "
        "statistics of the evaluation batches."
    )
    remedy = (
        "Compare the preprocessing and augmentation of the two: scaling, normalisation constants, colour order, resizing, "
        "train-only augmentation. If the difference is meant, measure the statistics on evaluation data (AdaBN)."
    )
    return [finding("data_differ", [one for one, _ in differing], effect, summary, lines, remedy)]


def _apart(one: Evidence, other: Evidence) -> tuple[float, float]:
    """Squared Fisher distance of the two sets' statistics, and the chance that luck makes it.

    Luck: the spread of each set's mean over its batches; the distance of means and variances, in units of it, averages 1
    over channels, and the most careful case is that all channels are alike (an F of 1 degree of freedom).
    """
    usable = one.alive & other.alive
    # Behind a BatchNorm layer statistics depend on the size of the batch.
    if (one.inputs.m != other.inputs.m and one.position > 0) or not bool(usable.any()):
        return 0.0, 1.0
    scale = one.inputs.population.total.double().cpu()[usable]
    distance, ratios = torch.zeros(()), []
    for first, second, unit, share in (
        (one.inputs.means.double(), other.inputs.means.double(), scale.sqrt(), 1.0),
        (_about_the_mean(one), _about_the_mean(other), scale, 0.5),
    ):
        a, b = (part[:, usable] / unit for part in (first, second))
        shift = (a.mean(0) - b.mean(0)).square()
        error = a.var(0, correction=1) / len(a) + b.var(0, correction=1) / len(b)
        distance = distance + share * shift.mean()
        ratios.append(float((shift / error.clamp(min=1e-12)).mean()))
    freedom = min(len(one.inputs.means), len(other.inputs.means)) - 1
    return float(distance), float(min(1.0, 2 * min(stats.f.sf(ratio, 1, max(freedom, 1)) for ratio in ratios)))


def _about_the_mean(one: Evidence) -> Tensor:
    """Variance of each batch about the mean of all, whose expectation does not depend on the size of the batch."""
    means = one.inputs.means.double()
    return one.inputs.variances.double() + (means - means.mean(0)).square()
