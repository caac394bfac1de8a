"""Importing is lazy: in a fresh process, nothing heavy is loaded before it is asked for."""

from __future__ import annotations

import subprocess
import sys

import pytest


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def loaded(statement: str, *modules: str) -> set[str]:
    return set(run(f"import sys; {statement}; print(*(m for m in {modules!r} if m in sys.modules))").split())


def test_importing_the_package_loads_neither_torch_nor_pandas_nor_numpy() -> None:
    assert loaded("import bnstudy; dir(bnstudy)", "torch", "pandas", "numpy", "hydra", "wandb", "pandera") == set()


@pytest.mark.parametrize("room", ["analysis", "tracking"])
def test_no_module_of_analysis_or_tracking_loads_torch_or_wandb(room: str) -> None:
    everything = (
        "import importlib, pkgutil, bnstudy.analysis, bnstudy.tracking; "
        f"[importlib.import_module(m.name) for m in pkgutil.walk_packages(bnstudy.{room}.__path__, 'bnstudy.{room}.')]"
    )
    assert loaded(everything, "torch", "torchvision", "wandb", f"bnstudy.{room}") == {f"bnstudy.{room}"}


@pytest.mark.parametrize("package", ["analysis", "analysis.figures", "analysis.report", "tracking"])
def test_a_face_loads_nothing_and_has_every_name_that_it_promises(package: str) -> None:
    statement = f"import bnstudy.{package} as face; dir(face)"
    assert loaded(statement, "torch", "pandas", "altair", "hydra", "wandb", "jinja2") == set()
    run(f"{statement}; assert 0 < len(face.__all__) == len(set(face.__all__) & set(dir(face)))")
    run(f"{statement}; [getattr(face, name) for name in face.__all__]")


def test_planning_a_study_needs_no_torch() -> None:
    modules = "bnstudy.sweeps.plan, bnstudy.sweeps.store, bnstudy.sweeps.claims, bnstudy.sweeps.job"
    assert loaded(f"import {modules}, bnstudy.training.checks", "torch", "torchvision", "wandb") == set()


def test_predicting_needs_no_torch() -> None:
    assert loaded("import bnstudy.batchnorm.theory", "torch", "pandas") == set()


def test_every_public_name_is_there() -> None:
    code = (
        "import bnstudy; assert all(getattr(bnstudy, name) is not None for name in bnstudy.__all__); print(*bnstudy.__all__)"
    )
    names = run(code).split()
    assert {"BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "Convention", "convert", "load"} <= set(names)


def test_an_unknown_name_is_an_attribute_error_as_of_any_module() -> None:
    code = "import bnstudy\ntry: bnstudy.batchnorm4d\nexcept AttributeError as error: print(error)"
    assert run(code) == "module 'bnstudy' has no attribute 'batchnorm4d'"
