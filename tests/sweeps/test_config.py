"""YAML says what the schema does not say already."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml

from bnstudy.sweeps.config import Config

CONF = Path(__file__).parents[2] / "conf"
PARTS = sorted(
    path for group in ("dataset", "engine", "model", "optimizer", "schedule") for path in (CONF / group).glob("*.yaml")
)


def test_the_main_configuration_chooses_groups_and_nothing_else() -> None:
    assert set(yaml.safe_load((CONF / "config.yaml").read_text())) == {"defaults", "hydra"}


@pytest.mark.parametrize("path", PARTS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_choice_of_a_group_repeats_no_default(path: Path) -> None:
    given: dict[str, Any] = yaml.safe_load(path.read_text())
    defaults = dataclasses.asdict(Config())[path.parent.name]
    assert given.keys() <= defaults.keys()
    assert [key for key, value in given.items() if key != "name" and value == defaults[key]] == []
