"""What a study found about the law: which stored variance is right in which layer, and what another one costs."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bnstudy.analysis.figures.panels import seeds_phrase
from bnstudy.analysis.figures.storage import normalised, storage_rows
from bnstudy.analysis.statistics import mean_interval
from bnstudy.analysis.subject import Subject, Tables
from bnstudy.analysis.wording import amount, fixed, plural

LEAST = 4
"""Smallest batch that is spoken of: at 2 and 3 values E[1/s²] or its variance is infinite."""
_STORED = {"ema_unbiased": "unbiased", "ema_biased": "biased"}


def law_of(tables: Tables, subject: Subject) -> list[str]:
    """Sentences on what fits in the first layer and in deeper ones, on the cost of storing another, and on training.

    Args:
        tables: of the study; what is absent has no sentence.
        subject: what the study asks.

    Source: docs/method.md, "Theory, layer by layer" and "Contrasts and verdicts".
    """
    contrasts = tables.get("contrasts", pd.DataFrame())
    sentences = [_layers(tables.get("layers", pd.DataFrame()))]
    if len(contrasts) and "kind" in contrasts:
        sentences += [_storage(contrasts, subject), _training(contrasts, subject)]
    return [sentence for sentence in sentences if sentence]


def _layers(layers: pd.DataFrame) -> str:
    """How much too large or small the unbiased and the biased variance are, at the smallest batch of four or more."""
    if layers.empty:
        return ""
    once = layers[(layers["statistic"] == "population_total") & (layers["norm"] == "batch") & layers["biased_ratio"].notna()]
    # Layers of one network that all have the same m are spoken of where there are such: images have fewer and fewer pixels.
    alike = once.groupby("job")["m"].transform("nunique") == 1
    key, what = ("m", "m =") if alike.any() else ("batch_size", "batch size")
    once = once[alike] if alike.any() else once
    sizes = sorted(size for size in once[key].unique() if size >= LEAST)
    if not sizes:
        return ""
    once = once[once[key] == sizes[0]]
    once = once.assign(c=once["m"] / (once["m"] - 1), first=once["layer_index"] == 0)
    parts = []
    for first, rows in once.groupby("first", sort=False):
        by_seed = rows.assign(unbiased=rows["c"] * rows["biased_ratio"], biased=rows["biased_ratio"])
        means = by_seed.groupby(["job", "seed"])[["unbiased", "biased"]].mean()
        told = [f"the {name} variance is {_off(means[name].to_numpy())}" for name in ("unbiased", "biased")]
        parts.append((not first, f"in {'the first layer' if first else 'deeper layers'} {' and '.join(told)}"))
    seeds = plural(int(once.groupby("job")["seed"].nunique().max()), "seed")
    return (
        f"Against the total variance, which is right whatever samples depend on, at {what} {sizes[0]} "
        f"{'; '.join(text for _, text in sorted(parts))} (95 % intervals, {seeds} a training)."
    )


def _off(ratios: NDArray[np.float64]) -> str:
    """How far a stored variance is off, with its interval over seeds."""
    mean, low, high = (100 * (float(end[0]) - 1) for end in mean_interval(ratios[:, None]))
    if not np.isfinite(low):
        low = high = mean
    way = "too large" if mean > 0 else "too small"
    ends = sorted(abs(end) for end in (low, high)) if low * high > 0 else [low, high]
    return f"{fixed(abs(mean), 1)} % {way} ({fixed(ends[0], 1)} to {fixed(ends[1], 1)})"


def _storage(contrasts: pd.DataFrame, subject: Subject) -> str:
    """The largest cost of each stored variance against the total one."""
    metric = subject.metric
    rows = storage_rows(contrasts, metric.name, "test")
    rows = rows[rows["difference"].notna() & (rows["batch_size"] >= LEAST)]
    if rows.empty or metric.direction is None:
        return ""
    sign = 1 if metric.direction == "higher" else -1
    parts = []
    for arm, own in rows.groupby("arm", sort=False):
        worst = own.loc[[(sign * own["difference"]).idxmin()]].iloc[0]
        cell = _cell(worst, subject)
        if sign * worst["difference"] >= 0:
            parts.append(f"storing the {_STORED[str(arm)]} variance is nowhere worse")
            continue
        low, high = (amount(float(worst[end]), metric, unit=False) for end in ("ci_low", "ci_high"))
        effect = f"{amount(float(worst['difference']), metric)}, {low} to {high}"
        parts.append(f"storing the {_STORED[str(arm)]} variance costs most {cell} ({effect}; {worst['verdict']})")
    return (
        f"In {metric.label} on the same weights, trained with {normalised(rows)}, against storing the total variance, "
        f"{' and '.join(parts)}; "
        f"{seeds_phrase(rows['n'])}."
    )


def _training(contrasts: pd.DataFrame, subject: Subject) -> str:
    """Whether the variance that normalises a training batch matters, whatever is stored."""
    rows = contrasts[(contrasts["kind"] == "training") & (contrasts["metric"] == subject.metric.name)]
    rows = rows[(rows["split"] == "test") & (rows["batch_size"] >= LEAST) & rows["difference"].notna()]
    if rows.empty:
        return ""
    different = int(rows["verdict"].isin(["different", "different but negligible"]).sum())
    largest = rows.loc[[rows["difference"].abs().idxmax()]].iloc[0]
    low, high = (amount(float(largest[end]), subject.metric, unit=False) for end in ("ci_low", "ci_high"))
    found = "in none" if not different else f"in {different}"
    return (
        f"Which variance normalises the training batch makes a difference in {subject.metric.label} {found} of "
        f"{plural(len(rows), 'cell')} under the total variance that matches; the largest estimate, unbiased − biased, "
        f"is {amount(float(largest['difference']), subject.metric)} ({low} to {high}) {_cell(largest, subject)}."
    )


def _cell(row: pd.Series[Any], subject: Subject) -> str:
    return f"for {where({str(key): value for key, value in row.items()}, subject)}"


def where(row: dict[str, Any], subject: Subject) -> str:
    """A cell in words: "mlp on digits, batch size 4"."""
    parts = [f"{row['model']} on {row['dataset']}, batch size {row['batch_size']}"]
    for column in subject.varying:
        value = row.get(column)
        missing = value is None or (isinstance(value, float) and math.isnan(value))
        if column in row and not missing:
            parts.append(f"{column.replace('_', ' ')} {f'{value:g}' if isinstance(value, float) else value}")
    return ", ".join(parts)
