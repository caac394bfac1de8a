"""The offline mirror: real wandb, read back by wandb's own reader."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bnstudy.batchnorm.conventions import CONVENTIONS
from bnstudy.sweeps.store import Store
from bnstudy.tracking.ledger import Ledger
from bnstudy.tracking.mirror import StudyMirror
from bnstudy.tracking.record import run_id
from bnstudy.tracking.writing import NotWrittenError, is_finished, write_runs
from tests.analysis.studies import run_study
from tests.tiny import tiny
from tests.tracking.reading import read_run, run_files

SENTINEL = "5ecret" * 8


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StudyMirror]:
    """Two conventions that share a training, two seeds of which one diverges, and a baseline; mirrored."""
    root = tmp_path_factory.mktemp("store")
    configs = [tiny(name, model__depth=1, seeds=2, probe_batches=4) for name in ("paper", "consistent_biased")]
    configs += [tiny(model__norm="none", seeds=2), tiny(batch_size=4, seeds=2, optimizer__lr=1e30, model__depth=1)]
    store = run_study(root, configs)
    patch = pytest.MonkeyPatch()
    patch.setenv("WANDB_API_KEY", SENTINEL)
    patch.setenv("WANDB_RUN_ID", "of-somebody-else")
    patch.setenv("TOKEN_OF_NOBODYS_BUSINESS", SENTINEL)
    mirror = StudyMirror(store, "tiny")
    ledger = Ledger(root, "tiny")
    for job in mirror.jobs():
        assert write_runs(ledger, job, mirror.runs(job)) == len(mirror.runs(job))
    yield mirror
    patch.undo()


def same(left: Any, right: Any) -> bool:
    """Equality to the last digit, where NaN equals NaN and a tuple equals its list."""
    if isinstance(left, dict):
        return isinstance(right, dict) and left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, float) and math.isnan(left):
        return isinstance(right, float) and math.isnan(right)
    return bool(left == right)


def of_table(key: str) -> bool:
    """Whether a key is W&B's reference to a logged table or a figure's table, not a number."""
    return key.partition(".")[0] == "layers" or key.startswith("figures/")


def test_wandbs_own_reader_gives_back_config_history_and_summary_to_the_last_digit(study: StudyMirror) -> None:
    read = {run.run["run_id"]: run for run in map(read_run, run_files(study.store.root, "tiny"))}
    runs = {run.id: run for job in study.jobs() for run in study.runs(job)}
    assert read.keys() == runs.keys()
    assert len(runs) == 8
    for name, run in runs.items():
        found = read[name]
        assert found.finished
        config = {key: value for key, value in found.run["config"]["update"].items() if not key.startswith("_")}
        assert same(config, run.config)
        history = [row for row in found.history if not any(map(of_table, row))]
        assert len(history) == len(run.history)
        assert all(same(row, expected) for row, expected in zip(history, run.history, strict=True))
        assert same({key: value for key, value in found.summary.items() if not of_table(key)}, run.summary)
        assert (found.run["run_group"], found.run["job_type"]) == (run.group, run.job_type)
        assert found.run["tags"] == ["tiny"]
        assert "host" not in found.run
        defined = {metric.get("name") or metric["glob_name"] for metric in found.metrics}
        assert {"epoch", "step", "test/*", "train/*"} <= defined


def test_what_is_mirrored_is_what_the_store_holds(study: StudyMirror) -> None:
    job = study.jobs()[0]
    metrics = study.store.table(job, "metrics").set_index(["seed", "epoch", "split", "statistic"])["accuracy"]
    for run in study.runs(job):
        own = CONVENTIONS[run.job_type].own_statistic
        seed = run.config["seed"]
        assert [row["epoch"] for row in run.history] == [1, 2]
        for row in run.history:
            for split in ("train", "test"):
                assert row[f"{split}/eval_mode/accuracy"] == metrics[seed, row["epoch"], split, own]
                assert row[f"{split}/train_mode/accuracy"] == metrics[seed, row["epoch"], split, "batch"]
            assert row["train/online/accuracy"] == metrics[seed, row["epoch"], "train", "online"]
        terms = [run.summary[f"decomposition/test/accuracy/{term}"] for term in ("lag", "constant", "noise")]
        gap = metrics[seed, 2, "test", own] - metrics[seed, 2, "test", "batch"]
        assert run.summary["decomposition/test/accuracy/gap"] == gap == run.summary["test/gap/accuracy"]
        assert math.isclose(sum(terms), gap, abs_tol=1e-12)
        assert run.config["accumulate"] == CONVENTIONS[run.job_type].accumulate
        assert run.summary["unstable"] is False


def test_a_diverged_seed_is_mirrored_with_the_step_at_which_it_diverged(study: StudyMirror) -> None:
    runs = [run for job in study.jobs() for run in study.runs(job) if run.config["optimizer_lr"] == 1e30]
    assert len(runs) == 2
    assert all(run.summary["diverged_at_step"] >= 1 for run in runs)
    assert all(math.isnan(run.history[-1]["test/eval_mode/accuracy"]) for run in runs)


def test_a_baseline_has_one_mode_and_no_gap(study: StudyMirror) -> None:
    baseline = [run for job in study.jobs() for run in study.runs(job) if run.job_type == "none"]
    assert len(baseline) == 2
    assert "norm=none" in baseline[0].group
    assert not any("gap" in key or "train_mode" in key for run in baseline for row in run.history for key in row)


def test_one_run_of_a_training_carries_the_table_of_layers(study: StudyMirror) -> None:
    carrying = [run for run in study.runs(study.jobs()[0]) if run.tables]
    assert [(run.job_type, run.config["seed"]) for run in carrying] == [("paper", 0)]
    columns, rows = carrying[0].tables["layers"]
    assert {"layer", "statistic", "ratio", "predicted_ratio"} <= set(columns)
    assert len(rows) == len(study.store.table(study.jobs()[0], "layers"))
    assert any(key.startswith("layers/") and key.endswith("/ratio") for key in carrying[0].summary)


def test_the_same_run_carries_figures_whose_bars_add_up_to_the_gaps(study: StudyMirror) -> None:
    job = study.jobs()[0]
    carrying = next(run for run in study.runs(job) if run.bars)
    bars = dict(carrying.bars["figures/decomposition/loss"][1])
    gaps = [run.summary["decomposition/train/loss/gap"] for run in study.runs(job) if run.job_type == "paper"]
    terms = [value for label, value in bars.items() if label.startswith("paper ")]
    assert math.isclose(sum(terms), sum(gaps) / len(gaps), abs_tol=1e-12)
    assert len(carrying.bars["figures/m_eff"][1]) == study.store.table(job, "layers")["layer"].nunique()
    file = next(path for path in run_files(study.store.root, "tiny") if carrying.id in path.name)
    drawn = {key for row in read_run(file).history for key in row if key.startswith("figures/")}
    assert {key.partition("_table")[0] for key in drawn} == set(carrying.bars)


def test_writing_twice_writes_nothing_and_new_content_replaces_old(study: StudyMirror) -> None:
    root, job = study.store.root, study.jobs()[0]
    ledger, runs = Ledger(root, "tiny"), study.runs(job)
    before = run_files(root, "tiny")
    assert write_runs(ledger, job, runs) == 0
    assert run_files(root, "tiny") == before
    changed = [replace(runs[0], config=runs[0].config | {"note": 1}), *runs[1:]]
    assert write_runs(ledger, job, changed) == 1
    assert write_runs(ledger, job, runs) == 1
    assert len(run_files(root, "tiny")) == len(before)


def test_a_run_whose_writer_was_killed_is_written_again_and_is_there_once(study: StudyMirror) -> None:
    root, job = study.store.root, study.jobs()[0]
    ledger, runs = Ledger(root, "tiny"), study.runs(job)
    count = len(run_files(root, "tiny"))
    entries = ledger.entries(job)
    victim = ledger.run_file(runs[0].id, entries[runs[0].id])
    assert victim is not None
    log = victim.read_bytes()
    for cut in (0, 3, len(log) // 2, len(log) - 1):
        victim.write_bytes(log[:cut])
        assert not is_finished(victim)
    ledger.save(job, {run: entry for run, entry in entries.items() if run != runs[0].id})  # as it is after a kill
    assert write_runs(ledger, job, runs) == 1
    files = run_files(root, "tiny")
    assert len(files) == count
    assert all(is_finished(file) for file in files)


def test_no_key_and_no_environment_reaches_any_file(study: StudyMirror) -> None:
    files = [path for path in Path(study.store.root).rglob("*") if path.is_file()]
    assert len(files) > 20
    assert not [path for path in files if SENTINEL.encode() in path.read_bytes()]
    assert not [path for path in files if b"of-somebody-else" in path.read_bytes()]


def test_a_folder_that_cannot_be_written_is_told_in_one_line(study: StudyMirror, tmp_path: Path) -> None:
    (tmp_path / "wandb").write_text("a file")
    with pytest.raises(NotWrittenError, match=r"^cannot write runs \([^\n]+\)$"):
        write_runs(Ledger(tmp_path, "tiny"), "job", study.runs(study.jobs()[0]))


def test_ids_are_the_same_every_time_differ_between_runs_and_fit_wandb() -> None:
    ids = {run_id(study, training, arm, seed) for study in "ab" for training in "cd" for arm in "ef" for seed in (0, 1)}
    assert len(ids) == 16
    long = {run_id("n" * 100, "0123456789ab", arm, seed) for seed in (7, 10**9) for arm in ("paper", "consistent_unbiased")}
    assert len(long) == 4
    assert run_id("quick", "0123456789ab", "paper", 0) == "quick-0123456789ab-paper-s0"


def test_runs_of_a_study_with_the_longest_name_are_written_with_their_tables(study: StudyMirror, tmp_path: Path) -> None:
    """W&B names the table KEY of a run "run-ID-KEY", and takes 128 characters."""
    name = "n" * 100
    study.store.save_study(name, study.record)
    named = StudyMirror(study.store, name)
    (job, *_) = named.jobs()
    runs = [replace(run, history=run.history[:1]) for run in named.runs(job)]
    assert any(run.tables and run.bars for run in runs)
    assert write_runs(Ledger(tmp_path, name), job, runs) == len(runs)


def test_a_job_that_is_not_done_has_no_runs(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.save_study(
        "empty", {"command": "", "study_fields": {}, "cells": [{"training": "t", "jobs": ["t-s0-0"], "fields": _fields()}]}
    )
    assert StudyMirror(store, "empty").runs("t-s0-0") == []


def _fields() -> dict[str, Any]:
    from bnstudy.sweeps.identity import training_fields

    return training_fields(tiny()) | {"variance.name": "paper", "variance.accumulate": "unbiased"}
