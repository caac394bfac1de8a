"""Plant every fault many times and ask the diagnosis what it is."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch

from bnstudy.diagnosis.diagnose import diagnose
from bnstudy.errors import UserError
from scripts.gallery.case import Fault
from scripts.gallery.faults import FAULTS, HEALTHY, fault
from scripts.gallery.networks import KINDS_OF_MODEL

EVERYTHING = tuple(each.name for each in (HEALTHY, *FAULTS))
Row = dict[str, Any]
Progress = Callable[[int, int], None]
"""Called with the number of diagnoses done and of all."""


@dataclass(frozen=True)
class Gallery:
    """What the diagnosis said.

    Args:
        draws: a row a diagnosis: fault, model, draw, planted (in words), expected and found (kinds, most important first,
            separated by commas), right (the first finding is an expected one), summary of the first finding, its effect,
            error and metric, own and batch (values of the diagnosis' first metric), planting and seconds (time of either).
        layers: a row a layer and diagnosis: fault, model, draw, position (in order of execution), the diagnosis' columns.
        terms: a row a metric, term and diagnosis: fault, model, draw, the diagnosis' columns.
    """

    draws: pd.DataFrame
    layers: pd.DataFrame
    terms: pd.DataFrame


@dataclass(frozen=True)
class Told:
    """A draw's row of `Gallery.draws`, and its rows of the other tables."""

    row: Row
    layers: pd.DataFrame
    terms: pd.DataFrame


def run_gallery(
    draws: int = 10,
    models: Sequence[str] = KINDS_OF_MODEL,
    faults: Sequence[str] = EVERYTHING,
    *,
    workers: int = 1,
    seed: int = 0,
    progress: Progress = lambda done, total: None,
) -> Gallery:
    """Plant, diagnose and compare.

    Args:
        draws: of each fault in each model; draw d is made with seed `seed` + d, whatever is drawn beside it.
        models: "mlp", "resnet" or both.
        faults: names; "healthy" is one of them. Default: all.
        workers: processes, of one thread each; 1 works in this one.
        seed: of the first draw.
        progress: called as diagnoses are done.

    Returns:
        Rows in the order of faults, models and draws.

    Raises:
        UserError: an unknown fault or model, or a number below 1.

    Source: docs/architecture.md, "Diagnosis".
    """
    for name, number in (("draws", draws), ("workers", workers)):
        if number < 1:
            raise UserError(f"{name}: {number} is too few; use 1 or more")
    unknown = [name for name in models if name not in KINDS_OF_MODEL]
    if unknown:
        raise UserError(f"models: '{unknown[0]}' is not in the gallery; choose among {', '.join(KINDS_OF_MODEL)}")
    chosen = [fault(name) for name in faults]
    # Faults that are planted in the same trained model stay together: it is trained once.
    jobs = [
        (kind, number, [each.name for each in chosen if kind in each.models]) for kind in models for number in range(draws)
    ]
    total = sum(len(names) for *_, names in jobs)
    told: list[Told] = []
    if workers == 1:
        for kind, number, names in jobs:
            for name in names:
                told.append(diagnosed(fault(name), kind, number, seed))
                progress(len(told), total)
    else:
        with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_one_thread) as pool:
            for future in as_completed([pool.submit(_job, *job, seed) for job in jobs]):
                told += future.result()
                progress(len(told), total)
    place = {(name, kind): number for number, (name, kind) in enumerate((n, k) for n in faults for k in models)}
    told.sort(key=lambda one: (place[one.row["fault"], one.row["model"]], one.row["draw"]))
    layers, terms = ([getattr(one, table) for one in told] for table in ("layers", "terms"))
    return Gallery(
        pd.DataFrame([one.row for one in told]),
        pd.concat(layers, ignore_index=True),
        pd.concat(terms, ignore_index=True),
    )


def diagnosed(planted: Fault, kind: str, draw: int, seed: int = 0) -> Told:
    """One draw of a fault, diagnosed.

    Args:
        planted: the fault.
        kind: of model.
        draw: its number.
        seed: of draw 0.

    Returns:
        Its part of the `Gallery`.
    """
    begun = time.perf_counter()
    case = planted.plant(kind, seed + draw)
    ready = time.perf_counter()
    said = diagnose(case.model, case.batches, evaluation_batches=case.evaluation_batches)
    first, metric = said.findings[0], said.setting["metric"]
    value = said.levels[said.levels.metric == metric].set_index("condition")["value"]
    row: Row = {
        "fault": planted.name,
        "model": kind,
        "draw": draw,
        "planted": case.planted,
        "expected": ", ".join(planted.expected),
        "found": ", ".join(finding.kind for finding in said.findings),
        "right": first.kind in planted.expected,
        "summary": first.summary,
        "effect": None if first.effect is None else first.effect.value,
        "error": None if first.effect is None else first.effect.error,
        "metric": None if first.effect is None else first.effect.metric,
        "own": value.get("own"),
        "batch": value.get("batch"),
        "planting": ready - begun,
        "seconds": time.perf_counter() - ready,
    }
    key: dict[str, Any] = {"fault": planted.name, "model": kind, "draw": draw}
    layers = said.layers.assign(**key, position=range(len(said.layers)))
    return Told(row, layers, said.terms.assign(**key))


def _job(kind: str, draw: int, names: Sequence[str], seed: int) -> list[Told]:
    return [diagnosed(fault(name), kind, draw, seed) for name in names]


def _one_thread() -> None:
    torch.set_num_threads(1)
