"""Choosing an engine: what it needs is asked for before anything is written."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from bnstudy.errors import UserError
from bnstudy.sweeps.checks import check_cell
from bnstudy.sweeps.engines import engine
from bnstudy.sweeps.engines.local import run_local
from bnstudy.sweeps.planning import plan_study
from tests.tiny import tiny


class Without:
    """A finder of modules that does not see some packages."""

    def __init__(self, finder: Any, *absent: str) -> None:
        self.finder, self.absent = finder, absent

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name.partition(".")[0] in self.absent or not hasattr(self.finder, "find_spec"):
            return None
        spec: ModuleSpec | None = self.finder.find_spec(name, path, target)
        return spec


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """An installation without the extras `slurm` and `ray`."""
    for name in [name for name in sys.modules if name.partition(".")[0] in ("ray", "submitit")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Without(finder, "ray", "submitit") for finder in sys.meta_path])


def test_local_needs_nothing(bare: None) -> None:
    assert engine("local") is run_local


@pytest.mark.parametrize(("name", "package"), [("slurm", "submitit"), ("ray", "ray")])
def test_a_missing_package_is_named_with_its_extra(name: str, package: str, bare: None) -> None:
    with pytest.raises(UserError) as caught:
        engine(name)
    assert str(caught.value) == f"engine: '{name}' needs the package {package}; install bnstudy[{name}]"


def test_without_slurms_commands_the_first_one_missing_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"^engine: 'slurm' needs the command sbatch; use a login node .*engine=local$"):
        engine("slurm")


@pytest.mark.parametrize(
    ("key", "value", "accepted"),
    [
        ("name", "lsf", "use 'local' or 'slurm' or 'ray'"),
        ("time", 0, "use a number above 0"),
        ("memory", -1.0, "use GB above 0, or null"),
        ("gpus_per_job", -0.5, "use 0 or more, or null"),
    ],
)
def test_settings_out_of_range_are_refused(key: str, value: Any, accepted: str) -> None:
    with pytest.raises(UserError, match=rf"^engine\.{key}: .*{accepted}$"):
        check_cell(tiny(**{f"engine__{key}": value}))


def test_a_job_that_fits_on_no_node_of_a_ray_cluster_is_named_with_what_there_is() -> None:
    pytest.importorskip("ray")
    from bnstudy.sweeps.engines.ray import lacking

    nodes = [{"CPU": 8.0}, {"CPU": 2.0, "GPU": 1.0, "memory": 1e9}]
    assert lacking(nodes, 8, 0) is None
    assert lacking(nodes, 2, 0.5) is None
    said = lacking(nodes, 4, 1)  # the cluster has both, and no node has
    assert said is not None
    assert said.startswith("engine.threads: 4 cores and engine.gpus_per_job: 1 GPUs a job fit on no node")
    assert "8 and 0, 2 and 1" in said
    assert lacking([], 1, 0) is not None


def test_a_controller_that_does_not_answer_holds_nobody_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    from bnstudy.sweeps.engines import slurm

    for name in ("scancel", "squeue"):
        (tmp_path / name).write_text(f"#!/bin/sh\necho $$ >> {tmp_path}/pids\nexec sleep 60\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    began = time.monotonic()
    slurm._cancel("bnstudy-nothing")
    took = time.monotonic() - began
    for pid in (tmp_path / "pids").read_text().split():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
    assert took < 10, "it hangs, which is no timing"


@pytest.mark.parametrize(
    ("device", "engine", "wanted", "resolved"),
    [
        ("cuda", "slurm", None, "cuda"),
        ("cuda", "ray", None, "cuda"),
        ("auto", "slurm", 1.0, "cuda"),
        ("auto", "ray", 0.5, "cuda"),
        ("auto", "slurm", None, "cpu"),
        ("auto", "ray", 0.0, "cpu"),
        ("cpu", "slurm", 1.0, "cpu"),
        ("auto", "local", 1.0, "cpu"),
    ],
)
def test_a_clusters_device_is_what_is_asked_of_it_and_not_what_this_machine_has(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, device: str, engine: str, wanted: float | None, resolved: str
) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)  # as on a login node
    config = tiny(device=device, engine__name=engine, engine__gpus_per_job=wanted, output_dir=str(tmp_path), seeds=1)
    plan, _ = plan_study([config])
    assert {job.config.device for job in plan.jobs} == {resolved}


def test_a_gpu_that_is_not_here_is_refused_where_jobs_run_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=r"^device: 'cuda' is not there; use cpu or auto$"):
        plan_study([tiny(device="cuda", output_dir=str(tmp_path))])


def test_ray_shares_a_gpu_and_slurm_does_not() -> None:
    check_cell(tiny(engine__name="ray", engine__gpus_per_job=0.5))
    with pytest.raises(UserError, match=r"^engine\.gpus_per_job: 0\.5 is no whole number"):
        check_cell(tiny(engine__name="slurm", engine__gpus_per_job=0.5))
