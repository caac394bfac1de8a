"""Studies made of random numbers, for the figures and the report: as many cells as one likes, and nothing trained."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from bnstudy.analysis.comparable import comparable
from bnstudy.analysis.gaps import gap_table, generalisation_table, last_epoch
from bnstudy.analysis.schemas import PROBED
from bnstudy.analysis.summary import summary_table
from bnstudy.analysis.verdicts import study_contrasts
from bnstudy.batchnorm.conventions import CONVENTIONS, MATCHED_TOTAL, STATISTICS

Tables = dict[str, pd.DataFrame]
Study = tuple[Tables, dict[str, Any]]
FOUR = ("paper", "consistent_unbiased", "consistent_biased", "inverted")


def study(
    models: Sequence[str] = ("mlp",),
    sizes: Sequence[int] = (2, 8, 32),
    seeds: int = 6,
    conventions: Sequence[str] = FOUR,
    baselines: Sequence[str] = (),
    metrics: Sequence[str] = ("accuracy", "loss"),
    epochs: int = 2,
    layers: int = 3,
    name: str = "made up",
    diverged: Sequence[int] = (),
    effect: float = 0.02,
    varying: dict[str, Sequence[Any]] | None = None,
    **declared: Any,
) -> Study:
    """Tables and provenance of a study whose inverted arm is off by `effect`; seeds named in `diverged` have no numbers."""
    random = np.random.default_rng(0)
    rows, probes, cells, owners = [], [], [], {}
    extra = varying or {}
    for model, size, values in itertools.product(models, sizes, itertools.product(*extra.values())):
        columns = dict(zip(extra, values, strict=True))
        trainings = {(CONVENTIONS[one].normalize, "batch") for one in conventions} | {("biased", norm) for norm in baselines}
        base = {metric: random.normal(0.7, 0.01, (seeds, epochs, 2)) for metric in metrics}
        for normalize, norm in sorted(trainings):
            job = f"{model}-{size}-{normalize}-{norm}-{'-'.join(map(str, values))}"
            cell = {"dataset": "digits", "model": model, "norm": norm, "normalize": normalize, "batch_size": size, **columns}
            mine = [one for one in conventions if CONVENTIONS[one].normalize == normalize] if norm == "batch" else ["none"]
            owners[job] = mine
            fields = {"dataset.name": "digits", "model.name": model, "model.norm": norm, "batch_size": size, **columns}
            for one in mine:
                sides = {"variance.normalize": normalize}
                sides["variance.accumulate"] = CONVENTIONS[one].accumulate if one != "none" else "unbiased"
                cells.append({"training": job, "jobs": [job], "fields": fields | sides})
            statistics = ("online", *STATISTICS, MATCHED_TOTAL) if norm == "batch" else ("none",)
            for seed, epoch, (at, split), statistic in itertools.product(
                range(seeds), range(epochs), enumerate(("train", "test")), statistics
            ):
                shift = effect * (normalize == "unbiased" and statistic == "ema_biased") - 0.1 / size * (
                    statistic == "batch"
                )
                numbers = {metric: base[metric][seed, epoch, at] + shift + random.normal(0, 0.002) for metric in metrics}
                numbers = {metric: np.nan if seed in diverged else value for metric, value in numbers.items()}
                rows.append({"job": job, **cell, "seed": seed, "epoch": epoch + 1, "split": split, "statistic": statistic,
                             "n": 100, **numbers})  # fmt: skip
            if norm == "batch":
                probes += _probed(random, {"job": job, **cell}, size, seeds, layers)
    frame = pd.DataFrame(rows)
    tables: Tables = {"metrics": frame, "gaps": gap_table(frame, owners)}
    tables["generalisation"] = generalisation_table(frame, owners)
    tables["summary"] = summary_table(tables["gaps"], tables["generalisation"])
    tables["jobs"] = frame.drop_duplicates("job")[["job", *cell]].assign(
        training=lambda jobs: jobs["job"],
        first_seed=0,
        last_seed=seeds - 1,
        replicas=seeds,
        steps=10,
        seconds=1.5,
        diverged=0,
        unstable=0,
    )
    asked = {
        "question": "Which one?",
        "hypothesis": "None.",
        "split": "test",
        "statistic": "own",
        "alpha": 0.05,
        "contrasts": FOUR[1:],
        **declared,
    }
    compared = comparable(last_epoch(frame), owners).assign(unstable=False)
    tables["contrasts"] = study_contrasts(compared, asked, cells)
    tables["layers"] = pd.DataFrame(probes)
    return tables, {
        "study": name,
        "command": "bnstudy run +experiments=made_up",
        "declared": asked,
        "sources": [{"bnstudy": "0.1.0", "commit": "a" * 40, "dirty": False}],
        "versions": [{"python": "3.12.1", "torch": "2.11.0"}],
        "machines": [{"processor": "abacus", "cores": 2, "system": "Linux", "threads": 1}],
        "trainings": len(owners),
        "runs": len(owners) * seeds,
        "seeds": list(range(seeds)),
        "cpu_seconds": 12.5,
        "missing": [],
        "failed": {},
        "diverged": {job: {str(seed): 3 for seed in diverged} for job in owners} if diverged else {},
        "cells": cells,
    }


def _probed(random: np.random.Generator, cell: dict[str, Any], size: int, seeds: int, layers: int) -> list[dict[str, Any]]:
    found = []
    for seed, layer, accumulate in itertools.product(range(seeds), range(layers), ("biased", "unbiased")):
        m = float(size * 4**layer)
        m_eff = max(1.2, m * random.normal(0.8, 0.02))
        q, c = m_eff / (m_eff - 1), m / (m - 1)
        ratio = q * (c if cell["normalize"] == "unbiased" else 1) / (c if accumulate == "unbiased" else 1)
        names = ("biased_ratio", "variation", "train_moment", "eval_moment", "growth")
        numbers = dict.fromkeys(names, 0.1) | {"m_eff": m_eff, "ratio": ratio, "predicted_ratio": ratio}
        errors = {f"{name}_se": 0.001 for name in PROBED}
        found.append({**cell, "seed": seed, "layer": f"layer{layer}.bn", "layer_index": layer,
                      "statistic": f"population_{accumulate}", "batches": 200, "m": m, **numbers, **errors})  # fmt: skip
    return found


def with_null_arm(study: Study, difference: float = 0.0002, verdict: str = "equivalent") -> Study:
    """The same study with the null arm beside its contrasts."""
    tables, provenance = study
    contrasts = tables["contrasts"]
    primary = contrasts[contrasts["in_family"] & (contrasts["arm"] == "inverted")]
    bounds = ["difference", "ci_low", "ci_high", "equivalence_low", "equivalence_high"]
    null = primary.assign(
        arm="consistent_biased_rescaled", reference="consistent_unbiased", in_family=False, verdict=verdict,
        **dict(zip(bounds, (difference, -difference, 3 * difference, 0.0, 2 * difference), strict=True)),
    )  # fmt: skip
    return tables | {"contrasts": pd.concat([contrasts, null], ignore_index=True)}, provenance
