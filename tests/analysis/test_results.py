"""results/NAME: what is written is what is loaded, and says how it came about."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

import bnstudy
from bnstudy.analysis.provenance import provenance_lines, provenance_of
from bnstudy.analysis.results import load, write_results
from bnstudy.analysis.schemas import TABLES
from bnstudy.analysis.subject import subject_of
from bnstudy.errors import UserError
from bnstudy.sweeps.store import LAYOUT, Store, write_json

Tables = dict[str, pd.DataFrame]


@pytest.fixture
def results(tmp_path: Path, store: Store, tables: Tables) -> Path:
    """results/ with the tiny study in it."""
    write_results(tmp_path / "tiny", tables, provenance_of(store, "tiny"))
    return tmp_path


def test_what_is_written_is_loaded_unchanged(results: Path, tables: Tables) -> None:
    loaded = bnstudy.load("tiny", results, "nowhere")
    assert set(loaded) == set(tables) == set(TABLES)
    for name, table in tables.items():
        assert_frame_equal(loaded[name], table, check_exact=True)


def test_without_results_the_raw_runs_give_the_same_tables(tmp_path: Path, store: Store, tables: Tables) -> None:
    loaded = load("tiny", tmp_path, store.root)
    for name, table in tables.items():
        assert_frame_equal(loaded[name], table, check_exact=True)


def test_every_file_is_named_and_complete(tmp_path: Path, store: Store, tables: Tables) -> None:
    written = write_results(tmp_path / "tiny", tables, provenance_of(store, "tiny"))
    assert sorted(written) == sorted((tmp_path / "tiny").iterdir())
    assert {path.name for path in written} == {
        *(f"{name}.parquet" for name in TABLES),
        "summary.csv",
        "gaps.csv",
        "provenance.json",
    }
    csv = pd.read_csv(tmp_path / "tiny" / "gaps.csv")
    assert_frame_equal(csv, tables["gaps"], check_dtype=False, rtol=1e-12)


def test_written_twice_it_is_the_same_to_the_byte(results: Path, store: Store, tables: Tables) -> None:
    before = {path.name: path.read_bytes() for path in (results / "tiny").iterdir()}
    write_results(results / "tiny", tables, provenance_of(store, "tiny"))
    assert {path.name: path.read_bytes() for path in (results / "tiny").iterdir()} == before


def test_provenance_is_told_a_fact_a_line(store: Store, tables: Tables) -> None:
    provenance = provenance_of(store, "tiny")
    lines = provenance_lines(provenance, subject_of(tables, provenance))
    assert lines[:2] == [
        "Command: bnstudy run +experiments=tiny",
        "Primary number: test accuracy under each convention's own statistic",
    ]
    assert "Runs: 12 runs in 8 jobs; 8 cells; seeds 0…2" in lines
    assert f"Code: bnstudy 0.1.0, commit {'a' * 40} with uncommitted changes" in lines


@pytest.mark.parametrize(
    ("seeds", "text"), [([0, 1, 2], "0…2"), ([5], "5"), ([0, 1, 4, 7, 8, 9], "0…1, 4, 7…9"), ([], "none")]
)
def test_neighbouring_seeds_are_told_together(seeds: list[int], text: str) -> None:
    lines = provenance_lines({"seeds": seeds}, subject_of({}, {}))
    assert f"Runs: 0 runs in 0 jobs; 0 cells; seeds {text}" in lines


def test_provenance_names_runs_seeds_and_what_is_missing_or_failed(tmp_path: Path, store: Store) -> None:
    shutil.copytree(store.root, tmp_path / "copy")
    copy = Store(tmp_path / "copy")
    whole = provenance_of(copy, "tiny")
    assert (whole["trainings"], whole["runs"], whole["seeds"]) == (8, 12, [0, 1, 2])
    assert (whole["missing"], whole["failed"], whole["diverged"]) == ([], {}, {})
    assert len(whole["sources"]) == len(whole["versions"]) == len(whole["machines"]) == 1
    first, second, third, fourth = copy.job_names()[:4]
    (copy.jobs / first / "job.json").unlink()
    copy.save(second, {}, {"status": "failed", "message": "ValueError: x", "seeds": [0]})
    write_json(copy.jobs / third / "job.json", {"layout": LAYOUT + 1, "status": "done"})
    record = copy.record(fourth)
    assert record is not None
    write_json(copy.jobs / fourth / "job.json", record | {"diverged": {"0": 7}})
    partial = provenance_of(copy, "tiny")
    assert partial["trainings"] == 5
    assert first in partial["missing"]
    assert partial["failed"] == {second: "ValueError: x"}
    lines = provenance_lines(partial, subject_of({}, partial))
    assert f"Job {first}: missing: not run, or not readable by this version" in lines
    assert f"Job {second}: failed: ValueError: x" in lines
    assert f"Job {fourth}: diverged: seed 0 at step 7" in lines


def test_mixed_origins_are_told(tmp_path: Path, store: Store) -> None:
    shutil.copytree(store.root, tmp_path / "copy")
    copy = Store(tmp_path / "copy")
    job = copy.job_names()[0]
    record = copy.record(job)
    assert record is not None
    write_json(copy.jobs / job / "job.json", record | {"source": {"bnstudy": "9", "commit": None, "dirty": None}})
    provenance = provenance_of(copy, "tiny")
    code = next(line for line in provenance_lines(provenance, subject_of({}, provenance)) if line.startswith("Code: "))
    assert code.startswith("Code: bnstudy ")
    assert code.endswith("; 1 more in provenance.json")


def test_a_job_of_another_layout_is_missing_from_the_provenance_of_numbers(tmp_path: Path, store: Store) -> None:
    shutil.copytree(store.root, tmp_path / "copy")
    copy = Store(tmp_path / "copy")
    job = copy.job_names()[0]
    write_json(copy.jobs / job / "job.json", {"layout": LAYOUT + 1, "status": "done"})
    assert job in provenance_of(copy, "tiny")["missing"]


def refusal(name: str, results: Path, outputs: Path | str = "nowhere") -> str:
    with pytest.raises(UserError) as caught:
        load(name, results, outputs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_study_that_is_nowhere_is_told_with_both_places(tmp_path: Path) -> None:
    text = refusal("nothing", tmp_path, tmp_path / "outputs")
    assert text.startswith("nothing: no study of that name in ")
    assert str(tmp_path) in text
    assert str(tmp_path / "outputs") in text


@pytest.mark.parametrize("name", sorted(set(TABLES)))
def test_a_damaged_file_is_told_by_name(results: Path, name: str) -> None:
    path = results / "tiny" / f"{name}.parquet"
    path.write_bytes(path.read_bytes()[:100])
    assert refusal("tiny", results) == f"{path}: missing or damaged; build it again with `bnstudy report tiny`"


def test_a_wrong_value_is_told_with_its_file(results: Path, tables: Tables) -> None:
    path = results / "tiny" / "metrics.parquet"
    tables["metrics"].assign(accuracy=7.0).to_parquet(path, index=False)
    assert refusal("tiny", results).startswith(f"{path}: not a table of 'metrics': ")


def test_a_folder_that_cannot_be_written_is_told_in_one_line(tmp_path: Path, store: Store, tables: Tables) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"^results_dir: '.*file/tiny' cannot be written \(.*\); use another folder$"):
        write_results(tmp_path / "file" / "tiny", tables, provenance_of(store, "tiny"))


def test_tables_of_an_older_study_of_that_name_do_not_come_back(results: Path, store: Store, tables: Tables) -> None:
    baselines = {name: table for name, table in tables.items() if name not in ("distances", "layers")}
    write_results(results / "tiny", baselines, provenance_of(store, "tiny"))
    assert not {"distances", "layers"} & set(load("tiny", results, "nowhere"))


def test_a_page_that_an_older_version_wrote_does_not_outlive_its_numbers(
    results: Path, store: Store, tables: Tables
) -> None:
    (results / "tiny" / "summary.md").write_text("# tiny")
    write_results(results / "tiny", tables, provenance_of(store, "tiny"))
    assert not (results / "tiny" / "summary.md").exists()


def test_provenance_is_written_as_readable_json(results: Path, store: Store) -> None:
    stored = json.loads((results / "tiny" / "provenance.json").read_text())
    assert stored == json.loads(json.dumps(provenance_of(store, "tiny")))
