"""Choosing an engine: what it needs is asked for before anything is written."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from bnstudy.errors import UserError
from bnstudy.sweeps.engines import engine
from bnstudy.sweeps.engines.local import run_local
from bnstudy.training.checks import check
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
        check(tiny(**{f"engine__{key}": value}))


def test_ray_shares_a_gpu_and_slurm_does_not() -> None:
    check(tiny(engine__name="ray", engine__gpus_per_job=0.5))
    with pytest.raises(UserError, match=r"^engine\.gpus_per_job: 0\.5 is no whole number"):
        check(tiny(engine__name="slurm", engine__gpus_per_job=0.5))
