"""The four terms of the gap recover known truth, on the second moment of one BatchNorm layer of a frozen network."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest

from bnstudy.analysis.gaps import gap_table
from bnstudy.analysis.schemas import CELL, TERMS
from bnstudy.batchnorm.conventions import CONVENTIONS
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
    matched = layers.assign(mse=layers["eval_moment"] / k, statistic="matched_" + layers["statistic"])  # x̂² goes with 1/v
    batch = layers[layers["statistic"] == "ema_biased"].assign(statistic="batch")
    rows = pd.concat([plain, matched, batch.assign(mse=batch["train_moment"])])
    cell: dict[str, Any] = dict(zip(CELL, ("gaussian", "mlp", "batch", normalize, M), strict=True))
    metrics = rows[["seed", "statistic", "mse"]].assign(job="one", epoch=1, split="train", n=1, **cell)
    names = [name for name, convention in CONVENTIONS.items() if convention.normalize == normalize]
    return gap_table(metrics, {"one": names})


def average_noise() -> float:
    """E[x̂²] under the moving average of μ_B and s²_unbiased of Gaussian batches, by simulation."""
    random, steps = np.random.default_rng(0), 120
    weights = ALPHA * (1 - ALPHA) ** np.arange(steps)
    mean = random.normal(size=(100_000, steps)) @ weights / math.sqrt(M)
    variance = random.chisquare(M - 1, size=(100_000, steps)) @ weights / (M - 1)
    return float(((1 + mean**2) / variance).mean())


@pytest.mark.parametrize("normalize", ["biased", "unbiased"])
def test_the_terms_recover_their_truth_on_gaussian_data(gaussian: Dataset, normalize: str) -> None:
    c, noise = M / (M - 1), average_noise()
    k = c if normalize == "unbiased" else 1.0
    gaps = moment_gaps(gaussian, normalize)
    for name, own in gaps.groupby("convention"):
        accumulated = noise if CONVENTIONS[str(name)].accumulate == "unbiased" else c * noise
        # σ² = E[s²_unbiased] for independent samples, so that only the constant and the average's noise are left.
        truth = {"bessel": accumulated - noise / k, "lag": (noise - 1) / k, "pooling": 0.0, "noise": 0.0}
        truth["gap"] = sum(truth.values())
        assert len(own) == SEEDS
        for term in (*TERMS, "gap"):
            error = own[term].std(ddof=1) / math.sqrt(SEEDS)
            assert error < 0.02
            assert abs(own[term].mean() - truth[term]) < 4 * error + 1e-6, (name, term)
        if name == "inverted":  # the largest of them: not to be had by wide intervals
            assert own["bessel"].mean() > 20 * own["bessel"].std(ddof=1) / math.sqrt(SEEDS)
