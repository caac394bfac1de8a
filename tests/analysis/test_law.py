"""The sentences on the law say what the tables hold, and nothing where these hold nothing."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from bnstudy.analysis.report.law import law_of
from bnstudy.analysis.subject import subject_of
from tests.analysis.synthetic import study


def planted(first: float, deeper: float, size: int = 4) -> pd.DataFrame:
    """Layers of two seeds: E[s²_biased]/σ² in the first of three layers and in the others, a little apart between seeds."""
    rows = [
        {"job": "a", "norm": "batch", "batch_size": size, "seed": seed, "layer_index": index, "m": size,
         "statistic": "population_total", "biased_ratio": (first if index == 0 else deeper) + 0.002 * seed}
        for seed in (0, 1) for index in range(3)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_the_first_sentence_says_how_far_each_stored_variance_is_off_in_the_first_layer_and_deeper() -> None:
    tables, provenance = study()
    (sentence, *_) = law_of({"layers": planted(0.75, 0.998)}, subject_of(tables, provenance))
    first, deeper = sentence.split("; ")
    assert "in the first layer the unbiased variance is 0.1 % too large" in first
    assert "the biased variance is 24.9 % too small" in first
    assert "in deeper layers the unbiased variance is 33.2 % too large" in deeper
    assert "the biased variance is 0.1 % too small" in deeper
    half = stats.t.ppf(0.975, 1) * np.std([0.75, 0.752], ddof=1) / np.sqrt(2) * 100
    low, high = re.search(r"24\.9 % too small \(([\d.]+) to ([\d.]+)\)", first).groups()  # type: ignore[union-attr]
    assert [float(low), float(high)] == pytest.approx([24.9 - half, 24.9 + half], abs=0.06)


def test_batches_of_two_and_three_are_not_spoken_of() -> None:
    tables, provenance = study(sizes=(2, 3))
    assert law_of({"layers": planted(0.5, 0.999, size=2)}, subject_of(tables, provenance)) == []
    assert not any("batch size" in sentence for sentence in law_of(tables, subject_of(tables, provenance)))


def test_the_cost_of_storage_is_the_worst_cell_of_the_comparisons_in_the_metrics_own_direction() -> None:
    tables, provenance = study(sizes=(4, 16), conventions=("paper", "consistent_biased"))
    contrasts = tables["contrasts"].copy()
    rows = (contrasts["kind"] == "storage") & (contrasts["metric"] == "accuracy") & (contrasts["split"] == "test")
    contrasts.loc[rows, "difference"] = 0.01
    worst = rows & (contrasts["arm"] == "ema_unbiased") & (contrasts["batch_size"] == 4)
    contrasts.loc[worst, ["difference", "ci_low", "ci_high", "verdict"]] = [-0.08, -0.1, -0.06, "different"]
    (sentence,) = [text for text in law_of({"contrasts": contrasts}, subject_of(tables, provenance)) if "storing" in text]
    assert "storing the unbiased variance costs most for mlp on digits, batch size 4" in sentence
    assert "(−8.00 pp, −10.00 to −6.00; different)" in sentence
    assert "storing the biased variance is nowhere worse" in sentence


def test_a_study_of_both_trainings_says_whether_the_normalising_variance_matters() -> None:
    tables, provenance = study(sizes=(4, 16))
    (sentence,) = [text for text in law_of(tables, subject_of(tables, provenance)) if "normalises" in text]
    rows = tables["contrasts"].query("kind == 'training' and metric == 'accuracy' and split == 'test'")
    different = rows["verdict"].isin(["different", "different but negligible"]).sum()
    assert f"{f'in {different}' if different else 'in none'} of 2 cells" in sentence
    one, about = study(sizes=(4,), conventions=("paper", "consistent_biased"))
    assert not any("normalises the training batch" in text for text in law_of(one, subject_of(one, about)))
