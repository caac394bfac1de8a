"""What can be configured is told whole: every key with its meaning, every group with its choices."""

from __future__ import annotations

import pytest

from bnstudy.assets import config_folder
from bnstudy.sweeps.keys import groups, keys, page, sections

KEYS = {key.name: key for key in keys()}


@pytest.mark.parametrize("name", KEYS)
def test_every_key_says_what_it_does(name: str) -> None:
    assert len(KEYS[name].meaning.split()) >= 2
    assert KEYS[name].kind


def test_types_and_defaults_are_the_schemas() -> None:
    assert (KEYS["momentum"].kind, KEYS["momentum"].default) == ("float | None", 0.1)
    assert KEYS["optimizer.betas"].default == [0.9, 0.999]
    assert {name.partition(".")[0] for name in KEYS if "." in name} == set(sections())


def test_groups_are_the_folders_of_conf() -> None:
    assert groups()["schedule"] == ["constant", "cosine"]
    assert set(groups()) == {path.name for path in config_folder().iterdir() if path.is_dir()}


@pytest.mark.parametrize("width", [80, 125])
def test_the_page_has_every_key_and_choice_and_fits(width: int) -> None:
    text = page(width)
    assert all(f"{name}=" in text for name in KEYS)
    assert all(choice in text for choices in groups().values() for choice in choices)
    described = text.partition("Groups")[2].splitlines()[1:]
    assert max(map(len, described)) <= width
    assert "None" not in text
