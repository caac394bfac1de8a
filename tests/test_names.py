"""Names that become files, folders, arguments and names in W&B obey one rule; suggested commands are quoted."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import bnstudy
from bnstudy.errors import UserError
from bnstudy.names import check_layer, check_name, suggested
from bnstudy.sweeps.checks import check_cell
from bnstudy.sweeps.store import Store
from tests.tiny import tiny

BAD = [
    *("", ".", "..", "../x", "/tmp/x", "a/b", "-x", "--help", ".hidden", "_x", "a b", "a\n", "a\tb", "a\x00b", "\u00e9"),
    *("x" * 101, "x" * 300, "a:b", "a*", "$(id)", "`id`", "a;b", "[/x]", "<b>", "{x}", "~", "a\\b", "a\u202eb", "a|b"),
]
GOOD = ["a", "7", "quick", "resnet18", "a.b-c_d", "A-1", "x" * 100, "1.0", "a..b", "a.parquet"]


@pytest.mark.parametrize("name", GOOD)
def test_plain_names_are_taken(name: str) -> None:
    assert check_name("name", name) == name


@pytest.mark.parametrize("name", BAD)
def test_a_name_that_could_be_anything_else_is_refused_in_one_short_line(name: str) -> None:
    with pytest.raises(UserError) as caught:
        check_name("model.name", name)
    text = str(caught.value)
    assert text.startswith("model.name: ")
    assert "use letters, digits, '.', '_' and '-', at most 100, the first a letter or digit" in text
    assert len(text.splitlines()) == 1
    assert len(text) < 250


@given(st.text(max_size=120))
@example("a\n")
def test_a_name_that_is_taken_is_a_file_in_its_folder_and_no_option(name: str) -> None:
    try:
        check_name("name", name)
    except UserError:
        return
    path = Path("/results", name)
    assert path.parent == Path("/results")
    assert path.name == name
    assert not name.startswith("-")
    assert shlex.quote(name) == name
    assert len(name.encode()) <= 100


def test_what_has_no_name_of_its_own_bears_its_factorys() -> None:
    assert check_name("model.name", "nets.small:build", "nets.small:build") == "nets.small:build"
    for name, factory in (("nets:build", "nets:other"), ("nets:build", None), ("a/b:c", "a/b:c")):
        with pytest.raises(UserError, match=r"^model\.name: "):
            check_name("model.name", name, factory)


@pytest.mark.parametrize("layer", ["layers.0.bn", "_bn0", "_blocks.3._bn1", "7"])
def test_layers_are_named_as_attributes_are(layer: str) -> None:
    check_layer("model.factory", layer)


@pytest.mark.parametrize("layer", ["a/b", "[/x]", "<script>", "-x", "a b", "", "x" * 101])
def test_layers_that_no_attribute_could_be_are_refused(layer: str) -> None:
    with pytest.raises(UserError, match=r"^model\.factory: layer "):
        check_layer("model.factory", layer)


@pytest.mark.parametrize("name", ["../x", "a/b", "", "-x", "/tmp/x", "x" * 240])
@pytest.mark.parametrize("key", ["name", "model__name", "dataset__name", "variance__name"])
def test_a_cell_with_such_a_name_is_refused(key: str, name: str) -> None:
    with pytest.raises(UserError, match=rf"^{key.replace('__', '.')}: "):
        check_cell(tiny(**{key: name}))


@pytest.mark.parametrize("name", ["../x", "a/b", "", "-x"])
def test_nobody_reads_or_writes_a_study_of_such_a_name(name: str, tmp_path: Path) -> None:
    store = Store(tmp_path / "outputs")
    for call in (
        lambda: bnstudy.load(name, tmp_path / "results", tmp_path / "outputs"),
        lambda: store.study(name),
        lambda: store.save_study(name, {"cells": []}),
    ):
        with pytest.raises(UserError, match=r"^name: "):
            call()
    assert list(tmp_path.iterdir()) == []


def test_a_suggested_command_can_be_typed_as_it_stands() -> None:
    words = ["publish", "quick", "--output-dir", "/my runs/$HOME; rm x", "--online"]
    assert shlex.split(suggested(*words).strip("`")) == ["bnstudy", *words]
