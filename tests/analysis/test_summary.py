"""Means and intervals against scipy; the printed tables against what a reader should find there."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from bnstudy.analysis.gaps import gap_table
from bnstudy.analysis.schemas import TERMS, checked
from bnstudy.analysis.summary import QUANTITIES, printed_tables, summary_table
from bnstudy.batchnorm.conventions import CONVENTIONS
from tests.analysis.test_gaps import ALL, BOTH, counting, metrics_table


def some_gaps(seeds: int = 5) -> pd.DataFrame:
    return gap_table(metrics_table(counting(), BOTH, seeds=seeds), ALL)


def test_every_quantity_has_its_mean_and_t_interval_over_seeds() -> None:
    gaps = some_gaps()
    summary = checked("summary", summary_table(gaps))
    assert len(summary) == len(CONVENTIONS) * 2 * 3 * len(QUANTITIES)
    for row in summary.to_dict("records"):
        same = (
            (gaps["convention"] == row["convention"]) & (gaps["split"] == row["split"]) & (gaps["metric"] == row["metric"])
        )
        values = gaps.loc[same, row["quantity"]]
        assert row["mean"] == pytest.approx(values.mean())
        low, high = stats.t.interval(0.95, 4, loc=values.mean(), scale=values.sem())
        assert (row["low"], row["high"]) == pytest.approx((low, high))
        assert (row["seeds"], row["diverged"]) == (5, 0)


def test_a_diverged_seed_is_left_out_and_counted() -> None:
    gaps = some_gaps()
    whole = summary_table(gaps[gaps["seed"] != 3])
    gaps.loc[gaps["seed"] == 3, list(QUANTITIES)] = np.nan
    summary = checked("summary", summary_table(gaps))
    assert set(summary["seeds"]) == {4}
    assert set(summary["diverged"]) == {1}
    pd.testing.assert_frame_equal(summary.drop(columns="diverged"), whole.drop(columns="diverged"))
    gaps[list(QUANTITIES)] = np.nan
    summary = checked("summary", summary_table(gaps))
    assert summary["mean"].isna().all()
    assert set(summary["seeds"]) == {0}


def test_one_seed_has_a_mean_and_no_interval() -> None:
    summary = checked("summary", summary_table(some_gaps(1)))
    assert summary["mean"].notna().all()
    assert summary[["low", "high"]].isna().all(axis=None)
    (_, table), *_ = printed_tables(summary)
    assert not any("±" in text for text in table["paper"])


def test_no_gaps_give_an_empty_summary_that_is_still_a_table() -> None:
    summary = checked("summary", summary_table(some_gaps().iloc[:0]))
    assert len(summary) == 0
    assert list(printed_tables(summary)) == []


def test_seeds_of_several_blocks_are_averaged_together() -> None:
    one = metrics_table(counting(), {"b": "biased"}, seeds=2)
    two = metrics_table(counting(3), {"c": "biased"}, seeds=2)
    two["seed"] += 2
    summary = summary_table(gap_table(pd.concat([one, two]), {"b": ["paper"], "c": ["paper"]}))
    assert set(summary["seeds"]) == {4}


def test_a_study_prints_a_table_for_each_metric_and_question(tables: dict[str, pd.DataFrame]) -> None:
    printed = dict(printed_tables(tables["summary"]))
    assert list(printed) == [
        "mlp on digits: accuracy at inference, test split (%), 3 seeds",
        "mlp on digits: accuracy gap, training split (pp), 3 seeds",
        "mlp on digits: loss at inference, test split (nats), 3 seeds",
        "mlp on digits: loss gap, training split (nats), 3 seeds",
    ]
    for title, table in printed.items():
        assert list(table) == ["batch_size", *CONVENTIONS]
        assert list(table["batch_size"]) == [2, 8]
        decimals = 2 if "accuracy" in title else 3
        number = rf"-?\d+\.\d{{{decimals}}}"
        assert all(re.fullmatch(rf"{number} ± {number}", text) for name in CONVENTIONS for text in table[name])


def test_a_printed_number_is_the_mean_in_percent_and_half_the_interval(tables: dict[str, pd.DataFrame]) -> None:
    gaps = tables["gaps"]
    own = gaps[
        (gaps["convention"] == "inverted")
        & (gaps["split"] == "test")
        & (gaps["metric"] == "accuracy")
        & (gaps["batch_size"] == 2)
    ]["own"]
    half = stats.t.ppf(0.975, 2) * own.sem()
    table = next(table for title, table in printed_tables(tables["summary"]) if "accuracy at inference" in title)
    text = table.loc[table["batch_size"] == 2, "inverted"].item()
    assert text == f"{100 * own.mean():.2f} ± {100 * half:.2f}"


def test_a_diverged_seed_is_printed_beside_the_number_and_an_empty_cell_as_a_dash() -> None:
    gaps = some_gaps(3)
    gaps.loc[(gaps["seed"] == 0) & (gaps["convention"] == "paper"), list(QUANTITIES)] = np.nan
    gaps.loc[gaps["convention"] == "inverted", list(QUANTITIES)] = np.nan
    _, table = next(printed_tables(summary_table(gaps)))
    assert table["paper"].item().endswith(" (1 diverged)")
    assert table["inverted"].item() == "– (3 diverged)"


@pytest.mark.parametrize("values", [(0.1, 0.3), (np.nan, 2.0)])
def test_whatever_else_varies_has_rows_of_its_own(values: tuple[float, float]) -> None:
    parts, conventions = [], {}
    for index, value in enumerate(values):
        jobs = {f"{name}{index}": side for name, side in BOTH.items()}
        part = metrics_table(counting(index), jobs)
        part.insert(6, "momentum", value)
        parts.append(part)
        conventions |= {f"{name}{index}": names for name, names in ALL.items()}
    summary = summary_table(gap_table(pd.concat(parts), conventions))
    assert len(summary) == 2 * len(CONVENTIONS) * 2 * 3 * len(QUANTITIES)
    _, table = next(printed_tables(summary))
    assert len(table) == 2
    assert set(table["momentum"].dropna()) == {value for value in values if not np.isnan(value)}
    assert table[list(CONVENTIONS)].notna().all(axis=None)


def test_quantities_are_those_of_the_gaps_table() -> None:
    assert set(QUANTITIES) == {"own", "batch", "gap", *TERMS}
