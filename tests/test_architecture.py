"""What docs/architecture.md says is there, and its examples of how to add something work as they stand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "architecture.md").read_text()
NAMED = sorted(set(re.findall(r"`(\w+)`\s+\(([\w/]+\.py)\)", PAGE)))
PATHS = sorted(set(re.findall(r"`((?:bnstudy|conf|experiments|scripts|tests|results|frameworks)/[a-z_/.]*)`", PAGE)))


@pytest.mark.parametrize(("name", "file"), NAMED)
def test_what_the_page_names_is_in_the_file_that_it_names(name: str, file: str) -> None:
    text = (ROOT / "bnstudy" / file).read_text()
    assert re.search(rf"^(?:def|class) {name}\b|^{name}\b[^\n]*=", text, re.MULTILINE), f"{name} is not in bnstudy/{file}"


@pytest.mark.parametrize("path", PATHS)
def test_every_path_on_the_page_exists(path: str) -> None:
    assert (ROOT / path).exists() or (ROOT / "bnstudy" / path).exists()


def test_every_floor_of_the_linter_is_on_the_page_and_in_its_order() -> None:
    floors = re.findall(r"^\| `bnstudy/([\w.*]+)", PAGE, re.MULTILINE)
    assert floors == ["cli.py", "diagnosis", "tracking", "frameworks", "analysis", "sweeps", "training", "batchnorm", "*.py"]
    contract = (ROOT / "pyproject.toml").read_text().partition("layers = [")[2].partition("\n]")[0]
    linted = [name for name in re.findall(r"bnstudy\.(\w+)", contract) if (ROOT / "bnstudy" / name).is_dir()]
    assert linted == floors[1:-1]
