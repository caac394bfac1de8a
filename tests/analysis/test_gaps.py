"""A gap is the sum of its three terms, on synthetic numbers and on a real run; the oracle is a dictionary of numbers."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bnstudy.analysis.gaps import gap_table, generalisation_table, last_epoch
from bnstudy.analysis.schemas import TERMS, checked
from bnstudy.batchnorm.conventions import CONVENTIONS, MATCHED_TOTAL, STATISTICS

INFERENCE = (*STATISTICS, MATCHED_TOTAL)
CELL = {"dataset": "digits", "model": "mlp", "norm": "batch", "batch_size": 4}


def metrics_table(
    values: Any, jobs: dict[str, str], seeds: int = 2, metrics: tuple[str, ...] = ("accuracy", "loss", "ece"), **cell: Any
) -> pd.DataFrame:
    """A `metrics` table of two epochs; `values` gives the next number, `jobs` the normalising side of each job."""
    rows = []
    for (job, side), seed, epoch, split in itertools.product(jobs.items(), range(seeds), (1, 2), ("train", "test")):
        names: tuple[str, ...] = ("ema_biased", "ema_unbiased", "batch") if epoch == 1 else INFERENCE
        for statistic in (*names, "online") if split == "train" else names:
            own = {"job": job, **CELL, "normalize": side, **cell, "seed": seed, "epoch": epoch, "split": split}
            rows.append(own | {"statistic": statistic, "n": 100} | {metric: values() for metric in metrics})
    return pd.DataFrame(rows)


def counting(start: float = 0.0) -> Any:
    random = np.random.default_rng(int(start))
    return lambda: float(random.random())


def lookup(table: pd.DataFrame, metric: str, **where: Any) -> float:
    rows = table[np.logical_and.reduce([table[key] == value for key, value in where.items()])]
    assert len(rows) == 1
    return float(rows[metric].iloc[0])


BOTH = {"b": "biased", "u": "unbiased"}
ALL = {"b": ["paper", "consistent_biased", "total"], "u": ["consistent_unbiased", "inverted"]}


@settings(max_examples=12)
@given(st.data())
def test_the_three_terms_add_up_to_the_gap_and_are_the_designs_differences(data: st.DataObject) -> None:
    finite = st.floats(-1e3, 1e3)
    pool = data.draw(st.lists(finite, min_size=30, max_size=30))
    numbers = itertools.cycle(pool)
    metrics = metrics_table(lambda: next(numbers), BOTH, seeds=1, metrics=("loss",))
    gaps = gap_table(metrics, ALL)
    assert len(gaps) == len(CONVENTIONS) * 2
    np.testing.assert_allclose(gaps[list(TERMS)].sum(axis=1), gaps["gap"], rtol=0, atol=1e-11)
    for row in gaps.to_dict("records"):
        where = {"job": row["job"], "seed": row["seed"], "split": row["split"], "epoch": 2}
        stored = CONVENTIONS[row["convention"]].accumulate
        own, twin, total, batch = (
            lookup(metrics, row["metric"], **where, statistic=statistic)
            for statistic in (f"ema_{stored}", f"population_{stored}", MATCHED_TOTAL, "batch")
        )
        expected = [own - twin, twin - total, total - batch]
        assert [row[term] for term in TERMS] == expected
        assert (row["own"], row["batch"], row["gap"]) == (own, batch, own - batch)


def test_a_real_runs_terms_add_up_to_its_gaps(tables: dict[str, pd.DataFrame]) -> None:
    gaps = tables["gaps"]
    assert len(gaps) == 2 * len(CONVENTIONS) * 3 * 2 * 3  # batch sizes, conventions, seeds, splits, metrics
    np.testing.assert_allclose(gaps[list(TERMS)].sum(axis=1), gaps["gap"], rtol=0, atol=1e-13)
    np.testing.assert_allclose(gaps["own"] - gaps["batch"], gaps["gap"], rtol=0, atol=0)
    assert (gaps["gap"].abs() > 0).any()


def test_what_stores_the_total_variance_has_no_error_of_the_constant(tables: dict[str, pd.DataFrame]) -> None:
    """`total` stores what is right and divides by the biased variance: its population twin is 1·population_total."""
    gaps = tables["gaps"]
    assert (gaps.loc[gaps["convention"] == "total", "constant"] == 0).all()
    others = gaps[(gaps["convention"] != "total") & (gaps["metric"] == "loss")]
    assert (others.groupby("convention")["constant"].agg(lambda terms: (terms != 0).all())).all()


def test_conventions_on_one_side_share_the_noise(tables: dict[str, pd.DataFrame]) -> None:
    gaps = tables["gaps"]
    keys = ["batch_size", "seed", "split", "metric"]
    for pair in (("paper", "consistent_biased"), ("paper", "total"), ("consistent_unbiased", "inverted")):
        first, second = (gaps[gaps["convention"] == name].sort_values(keys).reset_index(drop=True) for name in pair)
        columns = [*keys, "normalize", "noise", "batch"]
        pd.testing.assert_frame_equal(first[columns], second[columns])


def test_a_convention_is_reported_only_where_its_own_side_normalised() -> None:
    everything = {job: list(CONVENTIONS) for job in BOTH}
    gaps = gap_table(metrics_table(counting(), BOTH), everything)
    sides = {(row.convention, row.normalize) for row in gaps.itertuples()}
    assert sides == {(name, convention.normalize) for name, convention in CONVENTIONS.items()}


def test_only_the_conventions_asked_for_are_reported() -> None:
    gaps = gap_table(metrics_table(counting(), BOTH), {"b": ["paper"], "u": []})
    assert set(gaps["convention"]) == {"paper"}


def test_only_the_last_epoch_counts() -> None:
    metrics = metrics_table(counting(), {"b": "biased"})
    assert set(last_epoch(metrics)["epoch"]) == {2}
    early = metrics.copy()
    early.loc[early["epoch"] == 1, ["accuracy", "loss", "ece"]] = 99.0
    conventions = {"b": ["paper"]}
    pd.testing.assert_frame_equal(gap_table(metrics, conventions), gap_table(early, conventions))


def test_jobs_of_different_length_each_have_their_own_last_epoch() -> None:
    long = metrics_table(counting(), {"long": "biased"})
    long["epoch"] += 5
    gaps = gap_table(
        pd.concat([long, metrics_table(counting(), {"short": "biased"})]), {"long": ["paper"], "short": ["paper"]}
    )
    assert set(gaps["job"]) == {"long", "short"}
    assert len(gaps) == 2 * 2 * 2 * 3


def test_a_baseline_has_no_gap_and_a_generalisation() -> None:
    metrics = metrics_table(counting(), {"g": "biased"}, norm="group")
    metrics = metrics[metrics["statistic"] == "online"].copy()
    none = pd.concat([metrics.assign(statistic="none"), metrics.assign(statistic="none", split="test"), metrics])
    gaps = gap_table(none, {"g": ["none"]})
    assert len(gaps) == 0
    assert len(checked("gaps", gaps)) == 0
    generalisation = generalisation_table(none, {"g": ["none"]})
    assert set(generalisation["convention"]) == {"none"}
    assert len(generalisation) == 2 * 3
    assert (generalisation["gap"] == 0).all()


def test_a_baseline_beside_conventions_disturbs_nothing() -> None:
    ours = metrics_table(counting(), BOTH)
    baseline = metrics_table(counting(1), {"g": "biased"}, norm="group")
    baseline = baseline[baseline["statistic"] == "online"]
    baseline = pd.concat([baseline.assign(statistic="none", split=split) for split in ("train", "test")])
    gaps = gap_table(pd.concat([ours, baseline], ignore_index=True), ALL | {"g": ["none"]})
    pd.testing.assert_frame_equal(gaps, gap_table(ours, ALL))


def test_a_diverged_seed_and_a_diverged_job_keep_their_rows_as_nan() -> None:
    metrics = metrics_table(counting(), BOTH)
    numbers = ["accuracy", "loss", "ece"]
    metrics.loc[(metrics["job"] == "b") & (metrics["seed"] == 1), numbers] = np.nan
    metrics.loc[metrics["job"] == "u", numbers] = np.nan
    gaps = checked("gaps", gap_table(metrics, ALL))
    assert len(gaps) == len(CONVENTIONS) * 2 * 2 * 3
    lost = (gaps["job"] == "u") | (gaps["seed"] == 1)
    assert gaps.loc[lost, ["gap", "own", *TERMS]].isna().all(axis=None)
    assert gaps.loc[~lost, ["gap", "own", *TERMS]].notna().all(axis=None)
    generalisation = generalisation_table(metrics, ALL)
    whole = (generalisation["job"] == "b") & (generalisation["seed"] == 0)
    assert (generalisation["gap"].notna() == whole).all()


def test_a_study_in_which_everything_diverged_keeps_its_rows() -> None:
    metrics = metrics_table(lambda: float("nan"), BOTH)
    gaps = checked("gaps", gap_table(metrics, ALL))
    assert len(gaps) == len(CONVENTIONS) * 2 * 2 * 3
    assert gaps["gap"].isna().all()
    assert set(gaps["metric"]) == {"accuracy", "loss", "ece"}


def test_a_study_of_two_tasks_gives_each_data_set_its_own_metrics() -> None:
    digits = metrics_table(counting(), {"d": "biased"})
    diabetes = metrics_table(counting(1), {"r": "biased"}, metrics=("r2", "mse"), dataset="diabetes")
    both = pd.concat([digits, diabetes], ignore_index=True)
    conventions = {"d": ["paper"], "r": ["paper"]}
    gaps = gap_table(both, conventions)
    found = {(row.dataset, row.metric) for row in gaps.itertuples()}
    assert found == {("digits", "accuracy"), ("digits", "loss"), ("digits", "ece"), ("diabetes", "r2"), ("diabetes", "mse")}
    assert gaps["gap"].notna().all()
    generalisation = generalisation_table(both, conventions)
    assert {(row.dataset, row.metric) for row in generalisation.itertuples()} == found
    both.loc[both["dataset"] == "digits", ["accuracy", "loss", "ece"]] = np.nan  # every digits run diverged
    gaps = gap_table(both, conventions)
    lost = gaps[gaps["dataset"] == "digits"]
    assert {"accuracy", "loss", "ece"} <= set(lost["metric"])
    assert lost["gap"].isna().all()


def test_generalisation_is_train_minus_test_under_the_conventions_own_statistic() -> None:
    metrics = metrics_table(counting(), BOTH)
    table = generalisation_table(metrics, ALL)
    assert len(table) == len(CONVENTIONS) * 2 * 3
    for row in table.to_dict("records"):
        own = f"ema_{CONVENTIONS[row['convention']].accumulate}"
        train, test = (
            lookup(metrics, row["metric"], job=row["job"], seed=row["seed"], split=split, epoch=2, statistic=own)
            for split in ("train", "test")
        )
        assert (row["train"], row["test"], row["gap"]) == (train, test, train - test)


def test_a_further_column_that_is_empty_for_some_cells_loses_no_row() -> None:
    metrics = metrics_table(counting(), BOTH)
    metrics.insert(6, "norm_batch_size", np.where(metrics["job"] == "b", np.nan, 2.0))
    assert len(gap_table(metrics, ALL)) == len(CONVENTIONS) * 2 * 2 * 3
    generalisation = generalisation_table(metrics, ALL)
    assert len(generalisation) == len(CONVENTIONS) * 2 * 3
    assert generalisation.loc[generalisation["job"] == "b", "norm_batch_size"].isna().all()
    assert (generalisation.loc[generalisation["job"] == "u", "norm_batch_size"] == 2).all()


@pytest.mark.parametrize("order", [1, -1])
def test_the_order_of_the_rows_does_not_matter(order: int) -> None:
    metrics = metrics_table(counting(), BOTH)
    shuffled = metrics.sample(frac=1, random_state=2)[::order]
    pd.testing.assert_frame_equal(
        gap_table(shuffled, ALL)[sorted(gap_table(metrics, ALL))], gap_table(metrics, ALL)[sorted(gap_table(metrics, ALL))]
    )
