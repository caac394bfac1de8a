"""Where a report's numbers come from: raw runs, or results/NAME alone; what is damaged is told in one line."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

from bnstudy.analysis.provenance import provenance_of
from bnstudy.analysis.report.write import write_report
from bnstudy.analysis.results import reported, write_results
from bnstudy.errors import UserError
from bnstudy.sweeps.store import Store, write_json

Tables = dict[str, pd.DataFrame]


@pytest.fixture
def results(tmp_path: Path, store: Store, tables: Tables) -> Path:
    """results/ with the tiny study in it."""
    write_results(tmp_path / "results" / "tiny", tables, provenance_of(store, "tiny"))
    return tmp_path / "results"


def refusal(name: str, results: Path, outputs: Path) -> str:
    with pytest.raises(UserError) as caught:
        reported(name, results, outputs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_results_alone_give_what_the_raw_runs_give(results: Path, store: Store, tmp_path: Path) -> None:
    raw, origin = reported("tiny", tmp_path / "nowhere", store.root)
    kept, same = reported("tiny", results, tmp_path / "nothing")
    assert same["study"] == origin["study"] == "tiny"
    for name, table in raw.items():
        assert_frame_equal(kept[name], table)


def test_a_real_study_is_reported_with_its_answer(tmp_path: Path, store: Store, tables: Tables) -> None:
    write_report(tmp_path, tables, provenance_of(store, "tiny"))
    text = (tmp_path / "report.html").read_text()
    assert "8 declared comparisons of test accuracy" in text
    assert "12 runs in 8 jobs" in text


def test_an_empty_folder_is_told_with_both_places(tmp_path: Path) -> None:
    (tmp_path / "tiny").mkdir()
    assert refusal("tiny", tmp_path, tmp_path / "outputs").startswith("tiny: no study of that name in ")


def test_a_damaged_file_of_a_job_is_told_by_name(tmp_path: Path, store: Store) -> None:
    shutil.copytree(store.root, tmp_path / "copy")
    path = tmp_path / "copy" / "jobs" / store.job_names()[0] / "metrics.parquet"
    path.write_bytes(path.read_bytes()[:99])
    text = refusal("tiny", tmp_path, tmp_path / "copy")
    assert text.startswith(f"{path.parent.name}: damaged: metrics.parquet has 99 bytes instead of ")
    assert text.endswith("; `bnstudy run +experiments=tiny` trains it again")


def test_a_damaged_file_of_the_results_is_told_by_name(results: Path, tmp_path: Path) -> None:
    path = results / "tiny" / "summary.parquet"
    path.write_bytes(b"PAR1")
    assert refusal("tiny", results, tmp_path / "nothing").startswith(f"{path}: damaged: it has 4 bytes instead of ")


def test_damaged_provenance_is_told_by_name(results: Path, tmp_path: Path) -> None:
    path = results / "tiny" / "provenance.json"
    path.write_text("{")
    assert refusal("tiny", results, tmp_path / "nothing").startswith(f"{path}: damaged")


def test_a_study_none_of_whose_jobs_is_done_is_told(tmp_path: Path, store: Store) -> None:
    copy = Store(tmp_path / "copy")
    study = store.study("tiny")
    assert study is not None
    write_json(copy.studies / "tiny.json", study)
    assert refusal("tiny", tmp_path, copy.root).startswith("tiny: none of its jobs is done")


def test_provenance_without_its_facts_is_damaged(results: Path, tmp_path: Path) -> None:
    path = results / "tiny" / "provenance.json"
    for content in ("{}", '{"command": "x", "sources": [], "versions": [{}], "machines": [{}]}'):
        path.write_text(content)
        assert refusal("tiny", results, tmp_path / "nothing").startswith(f"{path}: damaged")
