"""Real tables pass their schemas; every kind of wrong table is told in one line."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

from bnstudy.analysis.schemas import TABLES, checked, describe_columns
from bnstudy.errors import UserError

Change = Callable[[pd.DataFrame], pd.DataFrame]


@pytest.mark.parametrize("name", TABLES)
def test_every_table_of_a_real_run_passes_unchanged(tables: dict[str, pd.DataFrame], name: str) -> None:
    assert_frame_equal(checked(name, tables[name].copy()), tables[name])
    assert len(tables[name]) > 0


@pytest.mark.parametrize("name", TABLES)
def test_a_missing_column_is_told_by_name(tables: dict[str, pd.DataFrame], name: str) -> None:
    for column in TABLES[name]:
        with pytest.raises(UserError, match=f"column '{column}' not in dataframe") as caught:
            checked(name, tables[name].drop(columns=column), "results/x.parquet")
        assert "\n" not in str(caught.value)
        assert str(caught.value).startswith(f"results/x.parquet: not a table of '{name}'")


def setting(column: str, value: object) -> Change:
    def change(table: pd.DataFrame) -> pd.DataFrame:
        table = table.copy()
        table[column] = [value, *table[column].iloc[1:]]
        return table

    return change


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("metrics", setting("accuracy", 1.5)),
        ("metrics", setting("accuracy", -0.1)),
        ("metrics", setting("loss", -1.0)),
        ("metrics", setting("ece", 2.0)),
        ("metrics", setting("split", "validation")),
        ("metrics", setting("statistic", "ema")),
        ("metrics", setting("seed", -1)),
        ("metrics", setting("seed", 0.5)),
        ("metrics", setting("seed", None)),
        ("metrics", setting("epoch", 0)),
        ("metrics", setting("n", 0)),
        ("metrics", setting("batch_size", "8")),
        ("metrics", setting("normalize", "sample")),
        ("metrics", setting("dataset", None)),
        ("metrics", lambda table: table.assign(accuracy="high")),
        ("layers", setting("m", 1)),
        ("layers", setting("statistic", "ema")),
        ("layers", setting("layer", None)),
        ("layers", setting("m_eff", -1.0)),
        ("layers", setting("biased_ratio", 1.1)),
        ("layers", setting("layer_index", -1)),
        ("layers", setting("growth", -1.0)),
        ("layers", setting("ratio_se", -1e-3)),
        ("gaps", setting("convention", "pytorch")),
        ("gaps", setting("metric", "f1")),
        ("gaps", setting("constant", "0")),
        ("generalisation", setting("convention", "")),
        ("summary", setting("quantity", "mean")),
        ("summary", setting("seeds", -1)),
        ("jobs", setting("seconds", -1.0)),
        ("jobs", setting("replicas", 0)),
        ("jobs", setting("unstable", -1)),
    ],
)
def test_a_value_that_cannot_be_is_told_in_one_line(tables: dict[str, pd.DataFrame], name: str, change: Change) -> None:
    with pytest.raises(UserError) as caught:
        checked(name, change(tables[name]))
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith(f"{name}: not a table of '{name}': ")
    assert text.endswith("build it again with `bnstudy report`")


def test_metrics_of_diverged_seeds_may_be_nan(tables: dict[str, pd.DataFrame]) -> None:
    metrics = tables["metrics"].copy()
    metrics.loc[metrics["seed"] == 0, ["accuracy", "loss", "ece"]] = np.nan
    checked("metrics", metrics)


def test_a_column_of_configuration_may_bear_a_known_name_and_lack_values(tables: dict[str, pd.DataFrame]) -> None:
    checked("metrics", tables["metrics"].assign(steps=np.nan, momentum="0.1"))


def test_an_empty_table_passes_and_a_table_without_columns_does_not(tables: dict[str, pd.DataFrame]) -> None:
    for name, table in tables.items():
        assert len(checked(name, table.iloc[:0])) == 0
        with pytest.raises(UserError):
            checked(name, pd.DataFrame())


def test_every_column_of_every_table_is_described(tables: dict[str, pd.DataFrame]) -> None:
    for name, table in tables.items():
        meanings = describe_columns(name)
        assert set(table) <= set(meanings)
        assert all(meaning and "\n" not in meaning for meaning in meanings.values())
