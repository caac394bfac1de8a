"""The tables of real tiny studies, against the raw runs they come from."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

from bnstudy.analysis.results import load
from bnstudy.analysis.schemas import CELL, TABLES
from bnstudy.analysis.tables import recorded_study, study_tables
from bnstudy.batchnorm.conventions import CONVENTIONS
from bnstudy.errors import UserError
from bnstudy.sweeps.store import LAYOUT, Store, read_json, write_json
from bnstudy.training.config import DatasetConfig
from tests.analysis.studies import run_study
from tests.tiny import tiny


def test_a_study_has_all_tables_with_the_cell_first(tables: dict[str, pd.DataFrame]) -> None:
    assert set(tables) == set(TABLES)
    for name in ("metrics", "layers", "gaps", "generalisation"):
        assert list(tables[name].columns[: 1 + len(CELL)]) == ["job", *CELL]
    assert list(tables["summary"].columns[: len(CELL)]) == list(CELL)


def test_metrics_are_the_raw_rows_with_their_cell(store: Store, tables: dict[str, pd.DataFrame]) -> None:
    metrics = tables["metrics"]
    assert set(metrics["job"]) == set(store.job_names())
    assert not metrics.duplicated(["job", "seed", "epoch", "split", "statistic"]).any()
    for job in store.job_names():
        fields = store.record(job)["fields"]  # type: ignore[index]
        own = metrics[metrics["job"] == job].reset_index(drop=True)
        assert_frame_equal(own.drop(columns=list(CELL)), store.table(job, "metrics"))
        cell = own[list(CELL)].drop_duplicates().iloc[0].to_dict()
        assert cell == {
            "dataset": "digits",
            "model": "mlp",
            "norm": "batch",
            "normalize": fields["variance.normalize"],
            "batch_size": fields["batch_size"],
        }


def test_the_jobs_table_counts_blocks_and_seeds(tables: dict[str, pd.DataFrame]) -> None:
    jobs = tables["jobs"]
    assert len(jobs) == 2 * 2 * 2  # batch sizes, normalising sides, blocks
    assert (
        sorted(zip(jobs["first_seed"], jobs["last_seed"], jobs["replicas"], strict=True))
        == [(0, 1, 2)] * 4 + [(2, 2, 1)] * 4
    )
    assert (jobs["diverged"] == 0).all()
    assert jobs.groupby("training")["replicas"].sum().tolist() == [3] * 4


def test_gaps_and_generalisation_have_every_convention_and_seed_once(tables: dict[str, pd.DataFrame]) -> None:
    keys = ["batch_size", "convention", "seed", "metric"]
    assert not tables["gaps"].duplicated([*keys, "split"]).any()
    assert not tables["generalisation"].duplicated(keys).any()
    for name in ("gaps", "generalisation"):
        assert set(tables[name]["convention"]) == set(CONVENTIONS)
        assert set(tables[name]["seed"]) == {0, 1, 2}
    assert set(tables["summary"]["seeds"]) == {3}


def test_the_same_study_gives_the_same_tables(store: Store, tables: dict[str, pd.DataFrame]) -> None:
    again = study_tables(store, "tiny")
    for name, table in tables.items():
        assert_frame_equal(again[name], table, check_exact=True)


def test_a_study_run_twice_in_two_places_gives_the_same_numbers_to_the_bit(tmp_path: Path) -> None:
    cells = [tiny("inverted", epochs=1, model__depth=1, seeds=2)]
    first, second = (study_tables(run_study(tmp_path / name, cells), "tiny") for name in ("a", "b"))
    for name in TABLES:
        drop = ["seconds"] if name == "jobs" else []
        assert_frame_equal(first[name].drop(columns=drop), second[name].drop(columns=drop), check_exact=True)


def test_two_conventions_of_one_study_report_only_themselves(tmp_path: Path) -> None:
    cells = [tiny(name, epochs=1, model__depth=1, seeds=2) for name in ("paper", "inverted")]
    tables = study_tables(run_study(tmp_path, cells), "tiny")
    assert set(tables["gaps"]["convention"]) == {"paper", "inverted"}


def test_a_study_of_baselines_alone_has_tables_without_gaps(tmp_path: Path) -> None:
    cells = [tiny(epochs=1, model__depth=1, seeds=2, model__norm=norm) for norm in ("group", "none")]
    store = run_study(tmp_path, cells)
    tables = study_tables(store, "tiny")
    assert set(tables) == set(TABLES) - {"layers"}
    assert len(tables["gaps"]) == 0
    assert set(tables["summary"]["quantity"]) == {"own"}
    assert len(tables["generalisation"]) == 2 * 2 * 3
    assert set(tables["generalisation"]["norm"]) == {"group", "none"}
    loaded = load("tiny", tmp_path / "results", store.root)
    assert set(loaded) == set(tables)


def test_baselines_and_conventions_stand_in_one_study(tmp_path: Path) -> None:
    cells = [tiny(name, epochs=1, model__depth=1, seeds=2) for name in ("paper", "consistent_biased")]
    cells += [tiny(epochs=1, model__depth=1, seeds=2, model__norm="layer")]
    tables = study_tables(run_study(tmp_path, cells), "tiny")
    assert set(tables["gaps"]["norm"]) == {"batch"}
    found = set(zip(tables["generalisation"]["norm"], tables["generalisation"]["convention"], strict=True))
    assert found == {("batch", "paper"), ("batch", "consistent_biased"), ("layer", "none")}


def test_a_study_of_two_tasks_has_the_metrics_of_each(tmp_path: Path) -> None:
    data = DatasetConfig("friedman1", samples=100)
    cells = [tiny(epochs=1, model__depth=1, seeds=2), tiny(epochs=1, model__depth=1, seeds=2, dataset=data)]
    tables = study_tables(run_study(tmp_path, cells), "tiny")
    found = {(row.dataset, row.metric) for row in tables["gaps"].itertuples()}
    assert found == {
        ("digits", "accuracy"),
        ("digits", "loss"),
        ("digits", "ece"),
        ("friedman1", "r2"),
        ("friedman1", "mse"),
    }
    assert tables["gaps"]["gap"].notna().all()


VARIED = {
    "momentum": (0.1, None),
    "norm_batch_size": (None, 4),
    "steps": (5, 9),
    "steps beside epochs": (None, 9),
    "drop_last": (True, False),
    "optimizer__lr": (0.05, 0.1),
    "optimizer__name": ("sgd", "adamw"),
    "precision": ("float32", "float64"),
    "epochs": (1, 2),
}


@pytest.mark.parametrize("case", VARIED)
def test_whatever_varies_in_a_study_is_a_column_and_a_row_of_the_summary(tmp_path: Path, case: str) -> None:
    key = case.split()[0]
    cells = [tiny(**({"epochs": 1, "model__depth": 1, "seeds": 2} | {key: value})) for value in VARIED[case]]
    store = run_study(tmp_path, cells)
    tables = study_tables(store, "tiny")
    column = key.replace("__", "_")
    for name in ("metrics", "gaps", "generalisation", "summary"):
        found = {None if pd.isna(value) else value for value in tables[name][column]}
        assert found == set(VARIED[case]), name
    assert set(tables["summary"]["seeds"]) == {2}
    assert len(tables["jobs"]) == 2
    assert sorted(load("tiny", tmp_path / "none", store.root)) == sorted(tables)


def test_lists_that_vary_are_columns_of_text(tmp_path: Path) -> None:
    base = {"epochs": 1, "model__depth": 1, "seeds": 2, "optimizer__name": "adamw"}
    cells = [tiny(**base, optimizer__betas=betas) for betas in ([0.9, 0.999], [0.8, 0.9])]
    tables = study_tables(run_study(tmp_path, cells), "tiny")
    assert set(tables["summary"]["optimizer_betas"]) == {"[0.9, 0.999]", "[0.8, 0.9]"}


def test_a_study_that_is_half_done_has_the_tables_of_what_is_there(tmp_path: Path) -> None:
    cells = [tiny(epochs=1, model__depth=1, seeds=4)]
    store = run_study(tmp_path, cells)
    gone = store.job_names()[0]
    (store.jobs / gone / "job.json").unlink()
    tables = study_tables(store, "tiny")
    assert gone not in set(tables["metrics"]["job"])
    assert set(tables["summary"]["seeds"]) == {2}


def test_a_diverged_study_has_tables_of_nan_and_counts_its_losses(tmp_path: Path) -> None:
    cells = [tiny(epochs=1, model__depth=1, seeds=2, optimizer__lr=1e30, optimizer__scaling="none")]
    tables = study_tables(run_study(tmp_path, cells), "tiny")
    assert tables["jobs"]["diverged"].item() == 2
    assert tables["gaps"]["gap"].isna().all()
    assert len(tables["gaps"]) == 2 * 2 * 3
    assert set(tables["summary"]["diverged"]) == {2}


def message(store: Store, name: str = "tiny") -> str:
    with pytest.raises(UserError) as caught:
        study_tables(store, name)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_is_not_there_is_told_in_one_line(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert message(store, "nothing").startswith("nothing: no study of that name")
    with pytest.raises(UserError, match="no study of that name"):
        recorded_study(store, "nothing")
    store = run_study(tmp_path, [tiny(epochs=1, model__depth=1, seeds=1)])
    (job,) = store.job_names()
    record = store.record(job)
    assert record is not None
    for other in (record | {"status": "failed", "message": "ValueError: x"}, record | {"layout": LAYOUT + 1}):
        write_json(store.jobs / job / "job.json", other)
        assert message(store).startswith("tiny: none of its jobs is done")


def test_a_damaged_or_wrong_raw_table_is_told_in_one_line(tmp_path: Path) -> None:
    store = run_study(tmp_path, [tiny(epochs=1, model__depth=1, seeds=1)])
    (job,) = store.job_names()
    path = store.jobs / job / "metrics.parquet"
    good = pd.read_parquet(path)
    good.assign(accuracy=2.0).to_parquet(path, index=False)
    assert message(store).startswith(f"{job}: damaged: metrics.parquet has ")
    record = read_json(path.parent / "job.json") or {}
    write_json(path.parent / "job.json", {key: value for key, value in record.items() if key != "files"})
    assert message(store).startswith("metrics: not a table of 'metrics': ")
    path.write_bytes(b"PAR1")
    assert message(store).startswith(f"{job}: damaged: metrics.parquet is no table; ")


def test_a_studys_record_is_plain_json(store: Store) -> None:
    assert json.loads((store.studies / "tiny.json").read_text())["study"] == "tiny"


def test_a_study_with_probes_in_some_cells_and_none_in_others_has_the_rows_of_those(tmp_path: Path) -> None:
    cells = [tiny(epochs=1, model__depth=1, seeds=2, probe_batches=batches) for batches in (4, 0)]
    layers = study_tables(run_study(tmp_path, cells), "tiny")["layers"]
    assert set(layers["batches"]) == set(layers["probe_batches"]) == {4}
    assert len(layers) == 2 * 6
