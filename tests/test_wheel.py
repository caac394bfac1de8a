"""The wheel, installed in a new environment and used from another folder."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parent.parent


def call(*command: str | Path, cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_wheel_brings_configuration_and_experiments_along(tmp_path: Path) -> None:
    call(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path / "dist", cwd=CHECKOUT)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    venv.create(tmp_path / "new", with_pip=False)
    python = tmp_path / "new" / "bin" / "python"
    call(Path(sys.executable).parent / "uv", "pip", "install", "--no-deps", "--python", python, wheel, cwd=tmp_path)
    # The dependencies are this environment's; on PYTHONPATH its .pth files, and so the checkout, stay out of sight.
    packages = sysconfig.get_paths()["purelib"]
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    where = call(python, "-c", "import bnstudy; print(bnstudy.__file__)", cwd=elsewhere, PYTHONPATH=packages)
    assert Path(where.strip()).is_relative_to(tmp_path / "new")
    bnstudy = tmp_path / "new" / "bin" / "bnstudy"
    sizes = ("model=mlp", "batch_size=8", "variance=karpathy", "seeds=2", "epochs=1", "model.width=8")
    said = call(bnstudy, "run", "+experiments=quick", *sizes, cwd=elsewhere, PYTHONPATH=packages, OMP_NUM_THREADS="1")
    assert "mlp on digits" in said
    assert (elsewhere / "results" / "quick" / "report.md").is_file()
