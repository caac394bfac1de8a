"""The three terms of the gap recover known truth, on the second moment of one BatchNorm layer of a frozen network."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest

from bnstudy.analysis.gaps import gap_table
from bnstudy.analysis.schemas import CELL, TERMS
from bnstudy.batchnorm.conventions import CONVENTIONS, MATCHED_TOTAL
from bnstudy.training.config import DatasetConfig, ModelConfig
from bnstudy.training.data import Dataset, load_dataset
from bnstudy.training.measuring import measure_block
from tests.tiny import tiny

M, ALPHA, SEEDS = 4, 0.1, 16


@pytest.fixture(scope="module")
def gaussian() -> Dataset:
    """5,120 samples of 64 independent standard-normal features, 4,096 of them to train on."""
    return load_dataset(DatasetConfig("gaussian"))


def moment_gaps(gaussian: Dataset, normalize: str) -> pd.DataFrame:
    """The `gaps` table of E[x̂²], in the place of a metric, from the probes of trainings too slow to move a weight."""
    config = tiny(
        "paper" if normalize == "biased" else "inverted",
        dataset=DatasetConfig("gaussian"),
        model=ModelConfig(depth=1, width=64),
        batch_size=M,
        steps=200,
        optimizer__lr=1e-30,
        precision="float64",
        eps=1e-9,
    )
    layers = pd.DataFrame(measure_block(config, gaussian, range(SEEDS)).layers)
    k = M / (M - 1) if normalize == "unbiased" else 1.0
    plain = layers.assign(mse=layers["eval_moment"])
    total = layers[layers["statistic"] == "population_total"]
    matched = total.assign(mse=total["eval_moment"] / k, statistic=MATCHED_TOTAL)  # x̂² goes with 1/v
    batch = layers[layers["statistic"] == "ema_biased"].assign(statistic="batch")
    rows = pd.concat([plain, matched, batch.assign(mse=batch["train_moment"])])
    cell: dict[str, Any] = dict(zip(CELL, ("gaussian", "mlp", "batch", normalize, M), strict=True))
    metrics = rows[["seed", "statistic", "mse"]].assign(job="one", epoch=1, split="train", n=1, **cell)
    names = [name for name, convention in CONVENTIONS.items() if convention.normalize == normalize]
    return gap_table(metrics, {"one": names})


def average_noise(stored: str) -> float:
    """E[x̂²] under the moving averages of Gaussian batches over that without their noise, by simulation."""
    random, steps = np.random.default_rng(0), 120
    weights = ALPHA * (1 - ALPHA) ** np.arange(steps)
    means = random.normal(size=(100_000, steps)) / math.sqrt(M)
    mean = means @ weights
    variance = random.chisquare(M - 1, size=(100_000, steps)) @ weights / (M - 1)  # times 1/c and 1/q: no difference
    if stored == "total":
        spread = ((means - mean[:, None]) ** 2) @ weights / (1 - ALPHA / (2 - ALPHA))
        variance = variance * (M - 1) / M + spread
    return float(((1 + mean**2) / variance).mean())


@pytest.mark.parametrize("normalize", ["biased", "unbiased"])
def test_the_terms_recover_their_truth_on_gaussian_data(gaussian: Dataset, normalize: str) -> None:
    c = M / (M - 1)
    k = c if normalize == "unbiased" else 1.0
    gaps = moment_gaps(gaussian, normalize)
    for name, own in gaps.groupby("convention"):
        stored = CONVENTIONS[str(name)].accumulate
        # σ² = E[s²_unbiased] for independent samples: the moment is 1 under it and c under the biased variance.
        moment = c if stored == "biased" else 1.0
        truth = {"lag": moment * (average_noise(stored) - 1), "constant": moment - 1 / k, "noise": 0.0}
        truth["gap"] = sum(truth.values())
        assert len(own) == SEEDS
        for term in (*TERMS, "gap"):
            error = own[term].std(ddof=1) / math.sqrt(SEEDS)
            assert error < 0.02
            assert abs(own[term].mean() - truth[term]) < 4 * error + 1e-6, (name, term)
        if name == "inverted":  # the largest of them: not to be had by wide intervals
            assert own["constant"].mean() > 20 * own["constant"].std(ddof=1) / math.sqrt(SEEDS)
