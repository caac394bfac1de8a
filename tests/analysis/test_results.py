"""results/NAME: what is written is what is loaded, and says how it came about."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

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
    assert "Runs: 12 runs in 8 jobs; 10 cells; seeds 0…2" in lines
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
    text = refusal("tiny", results)
    assert text.startswith(f"{path}: damaged: it has 100 bytes instead of ")
    assert "; build it again with `bnstudy report tiny` where its raw runs are" in text
    path.unlink()
    assert refusal("tiny", results).startswith(f"{path}: damaged: it is missing; ")


def without_digests(results: Path) -> None:
    """What older results have."""
    path = results / "tiny" / "provenance.json"
    write_json(path, {key: value for key, value in json.loads(path.read_text()).items() if key != "files"})


def test_older_results_without_digests_are_loaded_and_checked_against_their_provenance(
    results: Path, tables: Tables, tmp_path: Path
) -> None:
    without_digests(results)
    for name, table in load("tiny", results).items():
        assert_frame_equal(table, tables[name], check_exact=True)
    for name in ("metrics", "gaps", "jobs", "layers"):
        path = results / "tiny" / f"{name}.parquet"
        whole = path.read_bytes()
        tables[name].assign(job="0123456789ab-s0-1").to_parquet(path, index=False)
        assert refusal("tiny", results).startswith(f"{path}: damaged: it has other jobs than its provenance.json; ")
        path.write_bytes(whole[: len(whole) // 2])
        assert refusal("tiny", results).startswith(f"{path}: damaged: it is no table; ")
        path.write_bytes(whole)
    tables["jobs"][1:].to_parquet(results / "tiny" / "jobs.parquet", index=False)
    assert "jobs.parquet: damaged: it has other jobs" in refusal("tiny", results)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "it is no JSON"), ("[]", "it is no record"), ("{}", "it lacks 'study'"),
        ('{"study": "tiny"}', "it lacks 'cells'"),
        ('{"study": "other", "cells": []}', "it is of 'other'"), ('{"study": "tiny", "cells": [3]}', "it has no record"),
        ('{"study": "tiny", "cells": [], "files": []}', "it has no sound 'files'"),
    ],
)  # fmt: skip
def test_damaged_provenance_is_told_before_any_table_is_read(results: Path, content: str, reason: str) -> None:
    path = results / "tiny" / "provenance.json"
    path.write_text(content)
    assert refusal("tiny", results).startswith(f"{path}: damaged: {reason}")


def test_a_wrong_value_is_told_with_its_file(results: Path, tables: Tables) -> None:
    path = results / "tiny" / "metrics.parquet"
    tables["metrics"].assign(accuracy=7.0).to_parquet(path, index=False)
    assert refusal("tiny", results).startswith(f"{path}: damaged: it has ")
    without_digests(results)
    assert refusal("tiny", results).startswith(f"{path}: not a table of 'metrics': ")


def test_a_folder_that_cannot_be_written_is_told_in_one_line(tmp_path: Path, store: Store, tables: Tables) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"^results_dir: '.*file/tiny' cannot be written \(.*\); use another folder$"):
        write_results(tmp_path / "file" / "tiny", tables, provenance_of(store, "tiny"))


def test_tables_of_an_older_study_of_that_name_do_not_come_back(results: Path, store: Store, tables: Tables) -> None:
    baselines = {name: table for name, table in tables.items() if name != "layers"}
    write_results(results / "tiny", baselines, provenance_of(store, "tiny"))
    assert "layers" not in load("tiny", results, "nowhere")


def test_a_page_that_an_older_version_wrote_does_not_outlive_its_numbers(
    results: Path, store: Store, tables: Tables
) -> None:
    page = results / "tiny" / "summary.md"
    page.write_text("# tiny\n\n## How it was run\n\n- Command: `x`\n")
    write_results(results / "tiny", tables, provenance_of(store, "tiny"))
    assert not page.exists()
    page.write_text("# tiny\n\nNotes of my own\n")
    write_results(results / "tiny", tables, provenance_of(store, "tiny"))
    assert page.exists()


def test_a_table_that_is_no_longer_written_goes_unless_somebody_has_changed_it(
    results: Path, store: Store, tables: Tables
) -> None:
    fewer = {name: table for name, table in tables.items() if name != "layers"}
    (results / "tiny" / "layers.parquet").write_bytes(b"of somebody else")
    (results / "tiny" / "notes.parquet").write_bytes(b"mine")
    write_results(results / "tiny", fewer, provenance_of(store, "tiny"))
    assert not (results / "tiny" / "folds.parquet").exists()
    assert (results / "tiny" / "layers.parquet").read_bytes() == b"of somebody else"
    assert (results / "tiny" / "notes.parquet").read_bytes() == b"mine"
    assert set(load("tiny", results)) == set(fewer)


@pytest.mark.parametrize("written", [{"study": "other"}, {"frameworks": {}}])
def test_a_folder_of_other_results_is_not_written_over(
    tmp_path: Path, store: Store, tables: Tables, written: dict[str, Any]
) -> None:
    write_json(tmp_path / "tiny" / "provenance.json", written)
    with pytest.raises(UserError, match=r"^name: 'tiny' is taken; .* holds other results, so use another name$"):
        write_results(tmp_path / "tiny", tables, provenance_of(store, "tiny"))
    assert [path.name for path in (tmp_path / "tiny").iterdir()] == ["provenance.json"]


def test_provenance_is_written_as_readable_json(results: Path, store: Store) -> None:
    stored = json.loads((results / "tiny" / "provenance.json").read_text())
    files = stored.pop("files")
    assert stored == json.loads(json.dumps(provenance_of(store, "tiny")))
    assert set(files) == {f"{name}.parquet" for name in TABLES}
    for name, facts in files.items():
        data = (results / "tiny" / name).read_bytes()
        assert (facts["bytes"], facts["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
