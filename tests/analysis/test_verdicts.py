"""A study's contrasts: against SciPy, from real runs, with what its YAML declared."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from bnstudy.analysis.tables import recorded_study, study_tables
from bnstudy.analysis.verdicts import check_metric, declared_family
from bnstudy.batchnorm.conventions import CONVENTIONS
from bnstudy.errors import UserError
from bnstudy.sweeps.config import StudyConfig
from bnstudy.sweeps.plan import Cell, cell_fields
from bnstudy.sweeps.store import Store, write_json
from tests.analysis.studies import run_study
from tests.tiny import tiny

SIZES = (2, 8)
STUDY = StudyConfig(metric="loss", margin=0.05)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    cells = [tiny(name, batch_size=size, seeds=4, study=STUDY) for size in SIZES for name in CONVENTIONS]
    return run_study(tmp_path_factory.mktemp("store"), cells)


@pytest.fixture(scope="module")
def tables(store: Store) -> dict[str, pd.DataFrame]:
    return study_tables(store, "tiny")


def seeds_of(gaps: pd.DataFrame, size: int, convention: str, quantity: str = "own") -> Any:
    chosen = gaps.query("batch_size == @size and convention == @convention and split == 'test' and metric == 'loss'")
    return chosen.sort_values("seed")[quantity].to_numpy()


def test_differences_and_p_values_are_the_paired_t_tests_over_seeds(tables: dict[str, pd.DataFrame]) -> None:
    rows = tables["contrasts"].query("metric == 'loss' and split == 'test' and arm == 'inverted' and reference == 'paper'")
    assert len(rows) == len(SIZES) * 3  # own, batch, gap
    for _, row in rows.iterrows():
        arm, paper = (seeds_of(tables["gaps"], row["batch_size"], name, row["statistic"]) for name in ("inverted", "paper"))
        expected = stats.ttest_rel(arm, paper)
        interval = expected.confidence_interval(0.95)
        np.testing.assert_allclose(row["difference"], (arm - paper).mean(), rtol=1e-12)
        np.testing.assert_allclose(row["p"], expected.pvalue, rtol=1e-9)
        np.testing.assert_allclose([row["ci_low"], row["ci_high"]], [interval.low, interval.high], rtol=1e-9)


def test_the_family_is_what_the_study_declared_and_holm_goes_over_it(tables: dict[str, pd.DataFrame]) -> None:
    table = tables["contrasts"]
    family = table[table["in_family"]]
    assert len(family) == 4 * len(SIZES)
    assert (family[["metric", "statistic", "split"]].drop_duplicates().to_numpy() == [["loss", "own", "test"]]).all()
    np.testing.assert_allclose(family["p_holm"], multipletests(family["p"], method="holm")[1], rtol=1e-12)
    assert (family["margin"] == 0.05).all()
    assert table.loc[table["metric"] != "loss", "margin"].isna().all()


def test_conventions_on_one_side_are_identical_where_training_alone_speaks(tables: dict[str, pd.DataFrame]) -> None:
    rows = tables["contrasts"].query("arm == 'consistent_biased' and statistic == 'batch'")
    assert (rows["verdict"] == "identical").all()
    assert (rows["difference"] == 0).all()


def test_half_a_study_is_no_bolder_than_the_whole(tmp_path: Path) -> None:
    cells = [tiny(name, batch_size=size, seeds=4, study=STUDY) for size in SIZES for name in CONVENTIONS]
    whole = study_tables(run_study(tmp_path / "whole", cells), "tiny")["contrasts"]
    half = run_study(tmp_path / "half", [cell for cell in cells if cell.batch_size == 2])
    half.save_study("tiny", recorded_study(Store(tmp_path / "whole"), "tiny"))
    table = study_tables(half, "tiny")["contrasts"]
    family = table[table["in_family"]]
    both = whole.merge(family, on=["batch_size", "arm", "reference", "metric", "statistic", "split"], suffixes=("", "_half"))
    assert len(both) == 4
    np.testing.assert_array_equal(both["p_half"], both["p"])
    assert (both["p_holm_half"] >= both["p_holm"] - 1e-15).all()
    smallest = family.loc[family["p"].idxmin()]
    assert smallest["p_holm"] == pytest.approx(min(1.0, 8 * smallest["p"]))  # eight were declared, four are there


def test_baselines_stand_beside_the_conventions_as_arms(tmp_path: Path) -> None:
    study = StudyConfig(metric="accuracy", contrasts=["consistent_biased", "norm=group"])
    names = ("paper", "consistent_biased")
    cells = [tiny(name, model__norm=norm, epochs=1, study=study) for norm in ("batch", "group") for name in names]
    table = study_tables(run_study(tmp_path, cells), "tiny")["contrasts"]
    family = table[table["in_family"]]
    assert family["arm"].tolist() == ["consistent_biased", "norm=group"]
    assert (family["n"] == 3).all()
    assert (table.loc[table["arm"] == "norm=group", "statistic"] == "own").all()


def test_the_size_of_the_family_counts_the_cells_declared() -> None:
    cells = recorded(*(tiny(name, batch_size=size) for name in CONVENTIONS for size in (2, 4, 8)))
    study = dataclasses.asdict(StudyConfig(metric="accuracy", family={"batch_size": [2, 4]}, contrasts=["inverted"]))
    assert declared_family(study, cells).size == 2


def test_a_contrast_given_twice_counts_once() -> None:
    cells = recorded(tiny("paper"), tiny("inverted"))
    assert declared_family(dataclasses.asdict(StudyConfig(contrasts=["inverted", "inverted"])), cells).size == 1


def test_an_arm_that_no_cell_has_is_not_waited_for() -> None:
    cells = recorded(tiny("paper"), tiny("inverted"))
    assert [tuple(pair) for pair in declared_family(dataclasses.asdict(StudyConfig()), cells).contrasts] == [
        ("inverted", "paper")
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"margin": -1.0}, r"study.margin: -1.0 cannot be used"),
        ({"alpha": 0.7}, r"study.alpha: 0.7 cannot be used"),
        ({"split": "validation"}, r"study.split: 'validation' is unknown; use 'train' or 'test'"),
        ({"statistic": "mean"}, r"study.statistic: 'mean' is unknown; use 'own' or 'batch' or 'gap'"),
        ({"contrasts": ["consistent_unbaised"]}, r"study.contrasts: 'consistent_unbaised' is no arm; use paper, consistent"),
        ({"contrasts": ["norm=gruop"]}, r"study.contrasts: 'norm=gruop' is no arm; use paper"),
        ({"contrasts": [["paper", "paper"]]}, r"study.contrasts: \['paper', 'paper'\] is no comparison"),
        ({"family": {"batchsize": 2}}, r"study.family: 'batchsize' names no cells of this study; use dataset, model"),
        ({"family": {"batch_size": [2, 3]}}, r"study.family: batch_size: 3 is not in this study; use 8"),
    ],
)
def test_what_cannot_be_declared_is_refused_with_what_could(change: dict[str, Any], message: str) -> None:
    study = dataclasses.asdict(StudyConfig()) | change
    cells = recorded(tiny("paper"), tiny("inverted"))
    if "family" in change and isinstance(change["family"].get("batch_size"), list):
        study["family"] = {"batch_size": [8, 3]}
    with pytest.raises(UserError, match=message):
        declared_family(study, cells)


def test_a_metric_that_is_not_measured_on_the_data_is_refused() -> None:
    check_metric(tiny(study__metric=None))
    check_metric(tiny(study__metric="loss"))
    with pytest.raises(UserError, match=r"^study.metric: 'r2' is not measured on 'digits'; use 'accuracy' or .*, or null$"):
        check_metric(tiny(study__metric="r2"))


def recorded(*configs: Any) -> list[dict[str, Any]]:
    return [
        {"training": config.variance.normalize + str(config.batch_size), "fields": cell_fields(Cell(config, "", ()))}
        for config in configs
    ]


def final_rows(store: Store, size: int, side: str) -> pd.DataFrame:
    """The raw numbers of one training after its last epoch, a row a seed, a column a statistic; test loss."""
    parts = []
    for job in store.job_names():
        fields = store.record(job)["fields"]  # type: ignore[index]
        if (fields["batch_size"], fields["variance.normalize"]) == (size, side):
            parts.append(store.table(job, "metrics"))
    rows = pd.concat(parts)
    rows = rows[(rows["epoch"] == rows["epoch"].max()) & (rows["split"] == "test")]
    return rows.pivot(index="seed", columns="statistic", values="loss")


def expect_paired(row: pd.Series, arm: Any, reference: Any, size: int, margin: float | None = None) -> None:
    """A row of the table is SciPy's paired t test, TOST from two one-sided ones, and the verdict by hand."""
    test = stats.ttest_rel(arm, reference)
    assert row["difference"] == pytest.approx(np.mean(arm - reference), rel=1e-9)
    assert row["p"] == pytest.approx(test.pvalue, rel=1e-9)
    different = row["p_holm"] < 0.05 if row["in_family"] else test.pvalue < 0.05
    negligible = False
    if margin is not None:
        above = stats.ttest_1samp(arm - reference, -margin, alternative="greater").pvalue
        below = stats.ttest_1samp(arm - reference, margin, alternative="less").pvalue
        assert row["p_equivalence"] == pytest.approx(max(above, below), rel=1e-9)
        negligible = (row["p_equivalence_holm"] if row["in_family"] else max(above, below)) < 0.05
    words = {(True, True): "different but negligible", (True, False): "different", (False, True): "equivalent"}
    assert row["verdict"] == words.get((bool(different), bool(negligible)), "inconclusive")
    assert row["n"] == size


def test_storage_comparisons_are_paired_tests_on_the_same_weights(store: Store, tables: dict[str, pd.DataFrame]) -> None:
    table = tables["contrasts"].query("kind == 'storage' and metric == 'loss' and split == 'test'")
    assert len(table) == len(SIZES) * 2 * 3  # two pairs; either training, and both
    for size in SIZES:
        raw = {side: final_rows(store, size, side) for side in ("biased", "unbiased")}
        raw["both"] = (raw["biased"] + raw["unbiased"]) / 2
        for weights, values in raw.items():
            for arm in ("ema_unbiased", "ema_biased"):
                (row,) = table[(table["batch_size"] == size) & (table["weights"] == weights) & (table["arm"] == arm)].iloc
                assert (row["reference"], row["statistic"]) == ("ema_total", "stored")
                expect_paired(row, values[arm], values["ema_total"], 4, 0.05)


def test_the_training_comparison_is_under_the_total_variance_that_matches(
    store: Store, tables: dict[str, pd.DataFrame]
) -> None:
    table = tables["contrasts"].query("kind == 'training' and metric == 'loss' and split == 'test'")
    assert len(table) == len(SIZES)
    for _, row in table.iterrows():
        assert (row["arm"], row["reference"]) == ("normalize=unbiased", "normalize=biased")
        sides = [final_rows(store, row["batch_size"], side)["matched_population_total"] for side in ("unbiased", "biased")]
        expect_paired(row, *sides, 4, 0.05)


def test_a_study_declares_which_kinds_are_its_family_and_holm_goes_over_all_of_them(store: Store, tmp_path: Path) -> None:
    record = recorded_study(store, "tiny")
    asked = record["study_fields"] | {"kinds": ["storage", "training"]}
    other = Store(store.root)
    other.save_study("kinds", record | {"study_fields": asked})
    table = study_tables(other, "kinds")["contrasts"]
    family = table[table["in_family"]]
    assert len(family) == len(SIZES) * (2 + 1)
    assert set(family["kind"]) == {"storage", "training"}
    assert set(family.loc[family["kind"] == "storage", "weights"]) == {"both"}
    np.testing.assert_allclose(family["p_holm"], multipletests(family["p"], method="holm")[1], rtol=1e-12)
    arms = table[(table["kind"] == "arm") & (table["metric"] == "loss")]
    assert arms["p_holm"].isna().all()


def test_a_study_of_one_training_compares_storage_on_its_weights(tmp_path: Path) -> None:
    study = StudyConfig(metric="loss", kinds=["storage", "training"])
    cells = [tiny(name, seeds=4, study=study) for name in ("paper", "total")]
    table = study_tables(run_study(tmp_path, cells), "tiny")["contrasts"]
    family = table[table["in_family"]]
    assert family["weights"].tolist() == ["biased", "biased"]
    assert "training" not in set(table["kind"])


def test_the_test_splits_own_error_is_that_of_the_mean_over_seeds_paired_by_sample(
    store: Store, tables: dict[str, pd.DataFrame]
) -> None:
    (row,) = (
        tables["contrasts"]
        .query(
            "kind == 'storage' and weights == 'biased' and metric == 'loss' and split == 'test' and arm == 'ema_unbiased' "
            "and batch_size == 8"
        )
        .iloc
    )
    folds = []
    for job in store.job_names():
        fields = store.record(job)["fields"]  # type: ignore[index]
        if (fields["batch_size"], fields["variance.normalize"]) == (8, "biased"):
            folds.append(store.table(job, "folds").pivot(index="fold", columns="statistic", values="loss"))
    mean = sum(folds) / len(folds)  # blocks of two seeds each
    difference = mean["ema_unbiased"] - mean["ema_total"]
    assert row["sampling_error"] == pytest.approx(difference.std() / np.sqrt(len(difference)), rel=1e-9)
    others = tables["contrasts"]
    assert others.loc[others["split"] == "train", "sampling_error"].isna().all()
    assert others.loc[(others["split"] == "test") & (others["metric"] != "ece"), "sampling_error"].notna().all()


def test_verdicts_come_with_and_without_the_seeds_that_exploded(store: Store) -> None:
    spoilt = Store(store.root)
    record = recorded_study(store, "tiny")
    spoilt.save_study("tiny", record)
    (job,) = [
        name for name in store.job_names()
        if (fields := store.record(name)["fields"])["batch_size"] == 2  # type: ignore[index]
        and fields["variance.normalize"] == "biased" and 0 in store.record(name)["seeds"]  # type: ignore[index]
    ]  # fmt: skip
    kept = store.record(job)
    assert kept is not None
    try:
        write_json(store.jobs / job / "job.json", kept | {"unstable": [0]})
        table = study_tables(store, "tiny")["contrasts"].query("metric == 'loss' and split == 'test'")
    finally:
        write_json(store.jobs / job / "job.json", kept)
    assert (table.loc[table["batch_size"] == 2, "unstable"] == 1).all()
    assert (table.loc[table["batch_size"] == 8, "unstable"] == 0).all()
    raw = final_rows(store, 2, "biased")
    (row,) = table.query("kind == 'storage' and weights == 'biased' and arm == 'ema_unbiased' and batch_size == 2").iloc
    expect_paired(row, raw["ema_unbiased"], raw["ema_total"], 4, 0.05)
    left = (raw["ema_unbiased"] - raw["ema_total"]).drop(index=0)
    p = stats.ttest_1samp(left, 0).pvalue
    equivalent = max(stats.ttest_1samp(left, -0.05, alternative="greater").pvalue,
                     stats.ttest_1samp(left, 0.05, alternative="less").pvalue) < 0.05  # fmt: skip
    words = {(True, True): "different but negligible", (True, False): "different", (False, True): "equivalent"}
    assert row["verdict_stable"] == words.get((bool(p < 0.05), bool(equivalent)), "inconclusive")
