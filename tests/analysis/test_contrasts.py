"""Oracles: arithmetic by hand, the array-level statistics for single rows, Holm's rule written out, simulated truth."""

import gc
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pandas.testing
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pandera.errors import SchemaError
from scipy.stats import binom

from bnstudy.analysis.contrasts import contrast_table as any_contrasts
from bnstudy.analysis.contrasts import contrasts_schema
from bnstudy.analysis.families import Family
from bnstudy.analysis.statistics import compare
from bnstudy.errors import UserError

CELL = ["dataset", "batch_size", "norm_batch_size"]
ARMS = ["paper", "consistent_unbiased", "consistent_biased", "inverted"]
FAMILY = {"metric": "accuracy", "margin": 0.005, "contrasts": ARMS[1:]}


def contrast_table(frame: pd.DataFrame, *arguments: Any, **options: Any) -> pd.DataFrame:
    """The table of comparisons between conventions, each under its own training."""
    return any_contrasts(frame.assign(kind="arm", weights="own"), *arguments, **options)


@pytest.fixture(autouse=True)
def frozen_heap() -> Iterator[None]:
    """Make the garbage collection in every call of statsmodels' multipletests cheap: 0.1 s each, two for every table."""
    gc.freeze()
    yield
    gc.unfreeze()


def results(seeds: int = 16, generator: int = 0, spread: float = 0.003, arms: list[str] = ARMS) -> pd.DataFrame:
    """Tidy results of two cells, two metrics, two statistics and two splits; under `batch` the arms are one network."""
    index = pd.MultiIndex.from_product(
        [[2, 4], ["accuracy", "loss"], ["own", "batch"], ["train", "test"], range(seeds), arms],
        names=["batch_size", "metric", "statistic", "split", "seed", "convention"],
    )
    frame = index.to_frame(index=False).assign(dataset="digits", norm_batch_size=None)
    rng = np.random.default_rng(generator)
    seed = rng.normal(0.8, 0.02, seeds)[frame["seed"]]
    frame["value"] = seed + np.where(frame["statistic"] == "own", rng.normal(0, spread, len(frame)), 0.0)
    return frame


def where(frame: pd.DataFrame, **conditions: Any) -> pd.Series:
    """Mask of the rows with these values."""
    mask = pd.Series(True, index=frame.index)
    for key, value in conditions.items():
        mask &= frame[key] == value
    return mask


def seedwise(frame: pd.DataFrame, **conditions: Any) -> np.ndarray:
    """Values in the order of the seeds."""
    return frame[where(frame, **conditions)].sort_values("seed")["value"].to_numpy()


def stepped_down(pvalues: np.ndarray, size: int) -> np.ndarray:
    """Holm 1979: the k-th smallest p times (size - k), k from 0, never below the one before, at most 1."""
    order = np.argsort(pvalues)
    adjusted, largest = np.empty_like(pvalues), 0.0
    for k, position in enumerate(order):
        largest = max(largest, min(1.0, (size - k) * pvalues[position]))
        adjusted[position] = largest
    return adjusted


def test_a_row_holds_the_paired_difference_of_its_two_arms() -> None:
    frame = pd.DataFrame({
        "model": "mlp", "metric": "accuracy", "statistic": "own", "split": "test",
        "convention": ["paper"] * 4 + ["inverted"] * 4, "seed": [0, 1, 2, 3, 3, 2, 1, 0],
        "value": [0.90, 0.80, 0.85, 0.95, 0.99, 0.87, 0.84, 0.91],
    })  # fmt: skip
    row = contrast_table(frame, ["model"]).squeeze()
    assert (row["arm"], row["reference"], row["n"]) == ("inverted", "paper", 4)
    # Differences by seed 0.01, 0.04, 0.02, 0.04: mean 0.0275, standard deviation 0.015, t(0.975; 3) = 3.1824463.
    assert row["difference"] == pytest.approx(0.0275)
    assert row["ci_high"] - row["difference"] == pytest.approx(3.1824463 * 0.015 / 2)
    assert row["verdict"] == "different"


def test_every_arm_is_compared_with_paper_in_every_cell_metric_statistic_and_split() -> None:
    frame = results()
    table = contrast_table(frame, CELL, family=FAMILY)
    assert len(table) == 2 * 3 * 2 * 2 * 2
    for row in table.to_dict("records"):
        conditions = {key: row[key] for key in ("batch_size", "metric", "statistic", "split")}
        pair = [seedwise(frame, convention=row[name], **conditions) for name in ("arm", "reference")]
        expected = compare(*pair, margin=row["margin"], tests=6 if row["in_family"] else 1)
        for name in ("difference", "ci_low", "equivalence_high", "p", "p_equivalence", "mde", "seeds_needed"):
            np.testing.assert_allclose(row[name], getattr(expected, name), rtol=1e-12, err_msg=name)
    assert (table.loc[where(table, statistic="batch"), "verdict"] == "identical").all()


def test_holm_goes_over_the_declared_family_and_no_other_row() -> None:
    frame = results(seeds=8)
    frame.loc[where(frame, convention="inverted", statistic="own"), "value"] += 0.004
    table = contrast_table(frame, CELL, family={**FAMILY, "contrasts": ["inverted", "consistent_biased"]})
    chosen = where(table, metric="accuracy", statistic="own", split="test") & (table["arm"] != "consistent_unbiased")
    pandas.testing.assert_series_equal(table["in_family"], chosen, check_names=False)
    inside, outside = table[chosen], table[~chosen]
    assert len(inside) == 4
    for name in ("p", "p_equivalence"):
        np.testing.assert_allclose(inside[f"{name}_holm"], stepped_down(inside[name].to_numpy(), 4))
        assert outside[f"{name}_holm"].isna().all()
    different = outside["verdict"].isin(["different", "different but negligible"])
    pandas.testing.assert_series_equal(different, outside["p"] < 0.05, check_names=False)


def test_only_the_metric_with_a_margin_can_be_equivalent() -> None:
    table = contrast_table(results(), CELL, family=FAMILY)
    assert table.loc[table["metric"] == "loss", ["margin", "p_equivalence"]].isna().all(axis=None)
    assert set(table.loc[where(table, metric="accuracy", statistic="own"), "verdict"]) == {"equivalent"}
    both = contrast_table(results(), CELL, family=FAMILY, margins={"loss": 0.1, "accuracy": 0.9})
    assert set(both["margin"]) == {0.005, 0.1}  # the family's own margin is the declared one


def test_a_family_can_be_some_cells() -> None:
    for cells in ({"batch_size": [4]}, {"batch_size": 4, "dataset": "digits"}):
        table = contrast_table(results(), CELL, family={**FAMILY, "cells": cells})
        assert table["in_family"].sum() == 3
        assert set(table.loc[table["in_family"], "batch_size"]) == {4}


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_a_diverged_seed_leaves_every_arm_metric_and_split_of_its_cell(broken: float) -> None:
    frame = results()
    hit = where(frame, batch_size=4, metric="loss", statistic="own", split="train", convention="inverted", seed=3)
    frame.loc[hit, "value"] = broken
    table = contrast_table(frame, CELL, family=FAMILY)
    affected = where(table, batch_size=4, statistic="own")
    assert set(table.loc[affected, "n"]) == {15}
    assert set(table.loc[affected, "diverged"]) == {1}
    assert set(table.loc[~affected, "n"]) == {16}
    assert (table.loc[~affected, "diverged"] == 0).all()
    assert (table.loc[affected, "verdict"] == "inconclusive").sum() < affected.sum()  # one in sixteen is bearable
    without = contrast_table(frame[frame["seed"] != 3], CELL, family=FAMILY)
    columns = ["difference", "ci_low", "p"]
    pandas.testing.assert_frame_equal(table.loc[affected, columns], without.loc[affected, columns])


def test_more_than_a_tenth_of_diverged_pairs_leaves_the_cell_inconclusive() -> None:
    frame = results(seeds=8)
    frame.loc[where(frame, batch_size=4, convention="inverted", seed=3), "value"] = np.nan
    table = contrast_table(frame, CELL, family=FAMILY)
    assert set(table.loc[table["batch_size"] == 4, "verdict"]) == {"inconclusive"}
    assert "equivalent" in set(table.loc[table["batch_size"] == 2, "verdict"])


def test_a_row_without_a_verdict_counts_in_the_family_as_not_rejected() -> None:
    frame = results(seeds=8)
    frame.loc[where(frame, batch_size=4, convention="inverted"), "value"] += 1.0  # a tiny p, were it to count
    frame.loc[where(frame, batch_size=4, convention="inverted", seed=3), "value"] = np.nan
    table = contrast_table(frame, CELL, family=FAMILY)
    family = table[table["in_family"]]
    dead, alive = family[family["batch_size"] == 4], family[family["batch_size"] == 2]
    assert dead["p"].min() < 1e-10
    assert dead[["p_holm", "p_equivalence_holm"]].isna().all(axis=None)
    for name in ("p", "p_equivalence"):
        np.testing.assert_allclose(alive[f"{name}_holm"], stepped_down(alive[name].to_numpy(), 6))


def test_a_seed_that_one_arm_lacks_is_a_lost_pair_of_that_arm_only() -> None:
    frame = results(seeds=8)
    frame = frame[~where(frame, convention="inverted", seed=7)]
    table = contrast_table(frame, CELL)
    lacking = table["arm"] == "inverted"
    assert table.loc[lacking, ["n", "diverged", "missing"]].drop_duplicates().to_numpy().tolist() == [[7, 0, 1]]
    assert table.loc[~lacking, ["n", "diverged", "missing"]].drop_duplicates().to_numpy().tolist() == [[8, 0, 0]]
    assert set(table.loc[lacking, "verdict"]) == {"inconclusive"}


def test_a_half_finished_study_keeps_the_size_of_its_family() -> None:
    finished, early = results(), results(arms=ARMS[:2])
    early = early[early["batch_size"] == 2]
    table = contrast_table(early, CELL, family={**FAMILY, "size": 6})
    row = table[table["in_family"] & (table["n"] > 0)].squeeze()
    assert row["p_equivalence_holm"] == pytest.approx(min(1, 6 * row["p_equivalence"]))
    paper, unbiased = (seedwise(early, convention=c, metric="accuracy", statistic="own", split="test") for c in ARMS[:2])
    assert row["mde"] == pytest.approx(compare(unbiased, paper, tests=6).mde)
    waiting = table[table["in_family"] & (table["n"] == 0)]
    assert waiting[["arm", "missing", "verdict"]].to_numpy().tolist() == [
        ["consistent_biased", 16, "inconclusive"],
        ["inverted", 16, "inconclusive"],
    ]
    with pytest.raises(UserError, match="size: 5 comparisons declared, but the family has 6"):
        contrast_table(finished, CELL, family={**FAMILY, "size": 5})


def test_any_two_arms_can_be_compared() -> None:
    frame = results()
    twin = frame[frame["convention"] == "consistent_unbiased"].assign(convention="reparametrised")
    twin["value"] += np.random.default_rng(1).normal(0, 1e-6, len(twin))
    pair = ["reparametrised", "consistent_unbiased"]
    frame = pd.concat([frame, twin])
    alone = contrast_table(frame, CELL, contrasts=[pair], margins={"accuracy": 1e-5})
    assert set(zip(alone["arm"], alone["reference"], strict=True)) == {tuple(pair)}
    assert set(alone.loc[alone["metric"] == "accuracy", "verdict"]) == {"equivalent"}
    declared = contrast_table(frame, CELL, family={**FAMILY, "contrasts": [pair]})
    assert declared.loc[declared["in_family"], "arm"].tolist() == ["reparametrised"] * 2
    assert set(declared.loc[~declared["in_family"], "reference"]) == {"paper", "consistent_unbiased"}


def test_missing_cell_values_are_cells_like_any_other() -> None:
    ghost = results().assign(norm_batch_size=8)
    table = contrast_table(pd.concat([results(generator=1), ghost]), CELL, family=FAMILY)
    assert len(table) == 2 * len(contrast_table(ghost, CELL))
    assert table["norm_batch_size"].isna().sum() == len(table) / 2
    assert not table["difference"].isna().any()


def test_the_order_of_the_rows_of_results_changes_nothing() -> None:
    frame, keys = results(), ["batch_size", "metric", "statistic", "split", "arm"]
    tables = [
        contrast_table(rows, CELL, family=FAMILY).sort_values(keys, ignore_index=True)
        for rows in (frame, frame.sample(frac=1, random_state=0))
    ]
    pandas.testing.assert_frame_equal(*tables, rtol=1e-9)


def test_nothing_to_compare_gives_an_empty_table_with_its_columns() -> None:
    for frame in (results(arms=["paper"]), results(arms=["inverted"]), results().iloc[:0]):
        table = contrast_table(frame, CELL)
        assert table.empty
        assert list(table.columns) == list(contrasts_schema(CELL).columns)


@settings(max_examples=12, deadline=None)
@given(generator=st.integers(0, 2**32 - 1), seeds=st.integers(3, 9), spread=st.sampled_from([0.001, 0.003, 0.01]))
def test_swapped_arms_and_other_units_keep_every_verdict(generator: int, seeds: int, spread: float) -> None:
    frame = results(seeds, generator, spread, ARMS[:2])
    forth = contrast_table(frame, CELL, family={**FAMILY, "contrasts": [ARMS[1]]})
    back = contrast_table(frame, CELL, family={**FAMILY, "contrasts": [ARMS[:2]]}, contrasts=[])
    np.testing.assert_array_equal(forth["difference"], -back["difference"])
    np.testing.assert_array_equal(forth["ci_low"], -back["ci_high"])
    assert forth["verdict"].tolist() == back["verdict"].tolist()
    percent = contrast_table(
        frame.assign(value=128 * frame["value"]),
        CELL,
        family={"metric": "accuracy", "margin": 128 * 0.005, "contrasts": [ARMS[1]]},
    )
    assert forth["verdict"].tolist() == percent["verdict"].tolist()
    assert not (forth["p_holm"] < forth["p"]).any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"margin": 0}, r"margin: 0 cannot be used; give a number above 0 and below inf"),
        ({"margin": "0.5 pp"}, r"margin: '0.5 pp' cannot be used"),
        ({"alpha": 5}, r"alpha: 5 cannot be used; give a number above 0 and below 0.5"),
        ({"contrasts": ["paper"]}, r"contrasts: \['paper', 'paper'\] is no comparison; give an arm other than 'paper'"),
        ({"contrasts": [["a", "b", "c"]]}, r"contrasts: \['a', 'b', 'c'\] is no comparison"),
        ({"margins": 0.1}, r"family: unknown key 'margins'; use metric, margin"),
        ({"metric": "acuracy"}, r"family: metric 'acuracy' was not measured; use accuracy, loss"),
        ({"split": "validation"}, r"family: split 'validation' was not measured; use train, test"),
        ({"cells": {"model": ["mlp"]}}, r"family: cells: 'model' does not make cells; use dataset, batch_size"),
    ],
)
def test_a_family_that_cannot_be_used_says_what_would_be(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        contrast_table(results(seeds=3), CELL, family={**FAMILY, **change})


def test_a_family_without_a_margin_can_say_different_and_never_equivalent() -> None:
    table = contrast_table(results(), CELL, family={key: value for key, value in FAMILY.items() if key != "margin"})
    assert table.loc[table["in_family"], ["p_equivalence", "margin"]].isna().all().all()
    assert not set(table["verdict"]) & {"equivalent", "different but negligible"}


def test_a_family_without_a_metric_is_no_declaration() -> None:
    with pytest.raises(UserError, match="family: 'metric' is missing; a study declares it before it runs"):
        Family.parse({"margin": 0.1})


def test_results_that_cannot_be_arranged_say_which_column() -> None:
    frame = results(seeds=3)
    with pytest.raises(UserError, match="frame: column 'value' is missing"):
        contrast_table(frame.drop(columns="value"), CELL)
    with pytest.raises(UserError, match="frame: column 'convention' has empty values"):
        contrast_table(frame.assign(convention=frame["convention"].where(frame["seed"] > 0)), CELL)
    with pytest.raises(UserError, match=r"cell: dataset leave more than one value for \{.*; name every column that varies"):
        contrast_table(frame, ["dataset"])


def test_the_table_survives_parquet_and_its_schema_refuses_nonsense(tmp_path: Path) -> None:
    table = contrast_table(results(), CELL, family=FAMILY)
    table.to_parquet(tmp_path / "contrasts.parquet")
    again = contrasts_schema(CELL).validate(pd.read_parquet(tmp_path / "contrasts.parquet"))
    pandas.testing.assert_frame_equal(table, again)
    row = table["in_family"].idxmax()
    for column, value in (
        ("verdict", "significant"), ("p", 1.5), ("ci_low", 9.0), ("p_holm", 0.0), ("n", -1), ("margin", 0.0),
        ("in_family", False),
    ):  # fmt: skip
        with pytest.raises(SchemaError):
            contrasts_schema(CELL).validate(table.assign(**{column: table[column].mask(table.index == row, value)}))
    with pytest.raises(SchemaError):
        contrasts_schema(CELL).validate(pd.concat([table, table], ignore_index=True))
    assert all(column.description for column in contrasts_schema(CELL).columns.values())


def test_statistics_do_without_torch() -> None:
    code = "import sys, bnstudy.analysis.contrasts; sys.exit('torch' in sys.modules or 'wandb' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=False).returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize("n", [8, 16])
def test_whole_studies_with_diverged_seeds_err_no_more_than_stated(n: int) -> None:
    draws, apart, alike = 400, 0, 0
    for draw in range(draws):
        frame = results(n, generator=1000 * n + draw)
        if n == 16:
            frame.loc[where(frame, batch_size=4, convention="inverted", seed=5), "value"] = np.nan
        frame.loc[where(frame, convention="inverted", statistic="own"), "value"] += 0.005
        table = contrast_table(frame, CELL, family=FAMILY)
        family, true = table[table["in_family"]], table[table["in_family"]]["arm"] == "inverted"
        apart += family.loc[~true, "verdict"].isin(["different", "different but negligible"]).any()
        alike += family.loc[true, "verdict"].isin(["equivalent", "different but negligible"]).any()
    bound = binom.ppf(1 - 1e-4, draws, 0.05)
    assert apart <= bound
    assert alike <= bound
