"""The floor as a house: no module stands on one that stands on it, and its faces load only what is asked for."""

from __future__ import annotations

import importlib
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter

import grimp
import pytest

FACES = ["data", "measuring", "networks"]


def test_no_modules_import_each_other_in_a_circle_for_types_or_at_work() -> None:
    graph = grimp.build_graph("bnstudy", exclude_type_checking_imports=False)
    modules = {name for name in graph.modules if name.startswith("bnstudy.training.")}
    imports = {name: graph.find_modules_directly_imported_by(name) & modules for name in modules}
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


@pytest.mark.parametrize("face", FACES)
def test_a_face_gives_every_name_that_it_promises_and_no_other(face: str) -> None:
    package = importlib.import_module(f"bnstudy.training.{face}")
    assert {getattr(package, name).__name__ for name in package.__all__ if not name.isupper()} <= set(package.__all__)
    assert set(package.__all__) <= set(dir(package))
    with pytest.raises(AttributeError, match=rf"module 'bnstudy\.training\.{face}' has no attribute 'nothing'"):
        _ = package.nothing


def test_configuration_checks_and_faces_load_neither_torch_nor_numpy() -> None:
    modules = ["bnstudy.training.config", "bnstudy.training.checks", *(f"bnstudy.training.{face}" for face in FACES)]
    code = f"import sys, {', '.join(modules)}; print({{'torch', 'torchvision', 'numpy', 'sklearn'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
