"""How long a plan takes, where a job cannot be begun here or the store changes under its eyes."""

from __future__ import annotations

from pathlib import Path

from bnstudy.sweeps.estimate import estimate
from bnstudy.sweeps.job import run_job
from bnstudy.sweeps.store import LAYOUT, Store, write_json
from bnstudy.training.config import DatasetConfig
from tests.records import SOURCE
from tests.sweeps.test_job import job_of


def test_a_job_that_cannot_be_begun_is_named_in_a_line_and_the_others_are_estimated(tmp_path: Path) -> None:
    good, bad = job_of(epochs=2), job_of(dataset=DatasetConfig("fashion_mnist", root=str(tmp_path / "nowhere")))
    found = estimate([bad, good], Store(tmp_path), 1)
    assert (found.measured, found.probed) == (0, 1)
    assert found.seconds > 0
    (line,) = found.problems
    assert line.startswith("1 jobs of model 'mlp' on 'fashion_mnist' are not estimated: dataset.root: ")
    assert "\n" not in line


def test_files_that_come_and_go_and_jobs_of_another_layout_do_not_disturb_it(tmp_path: Path) -> None:
    job, store = job_of(), Store(tmp_path)
    assert run_job(job, str(tmp_path), SOURCE).status == "done"
    (store.jobs / job.id / ".job.json.x.tmp").symlink_to(tmp_path / "renamed meanwhile")
    write_json(store.jobs / "other-s0-1" / "job.json", {"layout": LAYOUT + 1, "status": "done", "steps": 1})
    found = estimate([job_of(seeds=(4, 5))], store, 1)
    assert (found.measured, found.probed, found.problems) == (1, 0, [])
