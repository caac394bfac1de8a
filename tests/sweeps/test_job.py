"""One job from claim to record: done, failed, claimed by somebody else, or not to be saved."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from pandas.testing import assert_frame_equal

from bnstudy.sweeps.claims import acquire, living
from bnstudy.sweeps.identity import job_id, training_fields, training_id
from bnstudy.sweeps.job import run_job
from bnstudy.sweeps.plan import Job, canonical
from bnstudy.sweeps.store import LAYOUT, Store, write_json
from bnstudy.training.config import DatasetConfig
from tests.records import SOURCE, save_done
from tests.tiny import tiny


def job_of(seeds: tuple[int, ...] = (0, 1), variance: str = "paper", **changes: Any) -> Job:
    config = tiny(variance, **({"epochs": 1} | changes))
    training = training_id(config)
    return Job(job_id(training, seeds), training, canonical(config), seeds, 13)


def test_a_job_leaves_its_tables_and_a_record_of_how_they_came_about(tmp_path: Path) -> None:
    job = job_of()
    outcome = run_job(job, str(tmp_path), SOURCE)
    assert (outcome.job, outcome.status, outcome.message) == (job.id, "done", "")
    store = Store(tmp_path)
    record = store.record(job.id)
    assert record is not None
    expected = {
        "layout": LAYOUT,
        "status": "done",
        "job": job.id,
        "training": job.training,
        "seeds": [0, 1],
        "diverged": {},
        "attempt": 1,
        "steps": 13,
        "threads": 1,
        "source": SOURCE,
        "fields": training_fields(job.config),
        "config": dataclasses.asdict(job.config),
    }
    assert {key: record[key] for key in expected} == expected
    assert record["ended"] - record["started"] == pytest.approx(record["seconds"])
    assert {"torch", "python"} <= set(record["versions"])
    metrics, folds, layers = (store.table(job.id, name) for name in ("metrics", "folds", "layers"))
    assert list(metrics.columns[:2]) == ["job", "seed"]
    assert set(metrics["job"]) == set(folds["job"]) == set(layers["job"]) == {job.id}
    assert set(metrics["seed"]) == {0, 1}
    assert living(store.claims) == {}
    assert not any(path.suffix == ".tmp" for path in tmp_path.rglob("*"))


def test_the_same_job_in_two_stores_has_the_same_tables_to_the_bit(tmp_path: Path) -> None:
    job = job_of()
    for name in ("a", "b"):
        run_job(job, str(tmp_path / name), SOURCE)
    for table in ("metrics", "folds", "layers"):
        first, second = (Store(tmp_path / name).table(job.id, table) for name in ("a", "b"))
        assert_frame_equal(first, second, check_exact=True)


def test_a_job_that_is_done_is_not_done_again(tmp_path: Path) -> None:
    job = job_of()
    run_job(job, str(tmp_path), SOURCE)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "jobs").rglob("*")}
    assert run_job(job, str(tmp_path), SOURCE).status == "done"
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "jobs").rglob("*")} == before


def test_a_done_job_of_another_layout_is_done_again(tmp_path: Path) -> None:
    job = job_of()
    write_json(tmp_path / "jobs" / job.id / "job.json", {"layout": LAYOUT + 1, "status": "done"})
    assert run_job(job, str(tmp_path), SOURCE).status == "done"
    assert Store(tmp_path).record(job.id)["layout"] == LAYOUT  # type: ignore[index]
    assert len(Store(tmp_path).table(job.id, "metrics")) > 0


def test_a_job_that_raises_is_recorded_with_its_traceback_and_can_be_tried_again(tmp_path: Path) -> None:
    job = job_of(dataset=DatasetConfig("fashion_mnist", root=str(tmp_path / "nowhere")))
    outcome = run_job(job, str(tmp_path / "out"), SOURCE)
    store = Store(tmp_path / "out")
    record = store.record(job.id)
    assert record is not None
    assert outcome.status == record["status"] == "failed"
    assert "\n" not in outcome.message
    assert outcome.message == record["message"]
    assert "nowhere" in outcome.message
    assert record["traceback"].startswith("Traceback")
    assert living(store.claims) == {}
    fixed = dataclasses.replace(job, config=job_of().config, failed=record["started"])
    assert run_job(fixed, str(tmp_path / "out"), SOURCE, attempt=2).status == "done"
    assert store.record(job.id)["attempt"] == 2  # type: ignore[index]


def test_a_job_that_failed_since_it_was_planned_is_not_tried_again(tmp_path: Path) -> None:
    broken = job_of(dataset=DatasetConfig("fashion_mnist", root=str(tmp_path / "nowhere")))
    store = Store(tmp_path / "out")
    first = run_job(broken, str(store.root), SOURCE)
    record = store.record(broken.id)
    assert record is not None
    again = run_job(broken, str(store.root), SOURCE, attempt=2)  # of another run, planned when nobody had tried
    assert (again.status, again.message) == ("failed", first.message)
    assert store.record(broken.id) == record
    asked = dataclasses.replace(broken, failed=record["started"])  # planned with retry_failed, knowing of the failure
    assert run_job(asked, str(store.root), SOURCE, attempt=3).status == "failed"
    retried = store.record(broken.id)
    assert retried is not None
    assert retried["attempt"] == 3
    assert run_job(asked, str(store.root), SOURCE, attempt=4).status == "failed"  # a second run with retry_failed
    assert store.record(broken.id) == retried


@pytest.mark.parametrize("holder", ["alive", "finished", "gone"])
def test_a_job_that_was_taken_over_is_saved_by_one_of_the_two(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, holder: str
) -> None:
    from bnstudy.sweeps import job as module

    job, store, measure = job_of(), Store(tmp_path), module._measure

    def silent(*arguments: Any) -> Any:
        """Measure so long that the claim is taken away."""
        (store.claims / f"{job.id}.json").unlink()
        other = acquire(store.claims, job.id) if holder == "alive" else None
        assert (other is not None) == (holder == "alive")
        if holder == "finished":
            save_done(store, job.id, job.seeds, by="another")
        return measure(*arguments)

    monkeypatch.setattr(module, "_measure", silent)
    outcome = run_job(job, str(tmp_path), SOURCE)
    record = store.record(job.id)
    assert outcome.status == ("done" if holder == "gone" else "elsewhere")
    if holder == "alive":
        assert record is None
    else:
        assert record is not None
        assert record.get("by") == ("another" if holder == "finished" else None)


def test_an_error_of_the_code_is_told_with_its_kind(tmp_path: Path) -> None:
    job = job_of(model__norm="batch", batch_size=1)  # torch's layer refuses a single value
    outcome = run_job(job, str(tmp_path), SOURCE)
    assert outcome.status == "failed"
    assert outcome.message.startswith("ValueError: Expected more than 1 value per channel")


def test_a_job_that_somebody_holds_is_left_to_him(tmp_path: Path) -> None:
    job = job_of()
    claim = acquire(Store(tmp_path).claims, job.id)
    assert claim is not None
    with claim:
        assert run_job(job, str(tmp_path), SOURCE).status == "elsewhere"
        assert claim.held
    assert Store(tmp_path).record(job.id) is None
    assert run_job(job, str(tmp_path), SOURCE).status == "done"


@pytest.mark.parametrize("blocked", ["jobs", "claims"])
def test_a_store_that_takes_no_files_is_told_in_one_line_and_not_raised(tmp_path: Path, blocked: str) -> None:
    (tmp_path / blocked).write_text("a file where a folder should be")
    outcome = run_job(job_of(), str(tmp_path), SOURCE)
    assert outcome.status == "unsaved"
    assert outcome.message.startswith(f"output_dir: {str(tmp_path)!r} cannot be written (")
    assert "\n" not in outcome.message
    assert living(Store(tmp_path).claims) == {}


def test_observers_see_how_far_a_job_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bnstudy.sweeps import claims

    monkeypatch.setattr(claims, "HEARTBEAT", 0.001)
    beats: list[dict[str, Any]] = []
    encode = claims._encode
    monkeypatch.setattr(claims, "_encode", lambda record: (beats.append(json.loads(json.dumps(record))), encode(record))[1])
    run_job(job_of(epochs=3), str(tmp_path), SOURCE)
    assert {beat["steps"] for beat in beats} == {13}
    steps = [beat["step"] for beat in beats]
    assert steps == sorted(steps)
    assert steps[0] == 0
    assert steps[-1] > 0


def test_a_diverged_seed_is_recorded_with_its_step(tmp_path: Path) -> None:
    job = job_of(optimizer__lr=1e30, optimizer__scaling="none")
    assert run_job(job, str(tmp_path), SOURCE).status == "done"
    diverged = Store(tmp_path).record(job.id)["diverged"]  # type: ignore[index]
    assert set(diverged) == {"0", "1"}
    assert all(step >= 1 for step in diverged.values())


def test_a_baselines_job_has_no_layers(tmp_path: Path) -> None:
    job = job_of(model__norm="group")
    assert run_job(job, str(tmp_path), SOURCE).status == "done"
    assert len(Store(tmp_path).table(job.id, "layers")) == 0
    assert set(Store(tmp_path).table(job.id, "folds")["statistic"]) == {"none"}
    assert set(Store(tmp_path).table(job.id, "metrics")["statistic"]) == {"none", "online"}
