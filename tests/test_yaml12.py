"""Hand-written YAML: what its values are in YAML 1.2, and that no text takes time or memory beyond its bounds."""

from __future__ import annotations

import json
import math
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bnstudy.errors import UserError, shown
from bnstudy.yaml12 import DEEPEST, LARGEST, parse, read_mapping

VALUES = {
    "1e-5": 1e-5, "1E5": 1e5, "+1e3": 1e3, ".5": 0.5, "5.": 5.0, "0x1F": 31, "0o17": 15, "010": 10, "-3": -3,
    "yes": "yes", "on": "on", "off": "off", "y": "y", "12:30:45": "12:30:45", "1_000": "1_000", "2020-01-01": "2020-01-01",
    "true": True, "False": False, "null": None, "~": None, "''": "", "-.inf": -math.inf, "text": "text", "=": "=",
}  # fmt: skip
"""From the tables of YAML 1.2.2, section 10.3.2; what YAML 1.1 reads otherwise is among them."""


@pytest.mark.parametrize("text", VALUES)
def test_scalars_are_those_of_the_core_schema(text):
    found = parse(f"a: {text}", "here")["a"]
    assert (found, type(found)) == (VALUES[text], type(VALUES[text]))


def test_keys_are_texts_as_they_are_written():
    assert list(parse("1: 64\n010: 3\nyes: 2\nnull: 1\n'4.1': 0\n", "here")) == ["1", "010", "yes", "null", "4.1"]


@given(st.dictionaries(st.text(st.characters(codec="ascii", min_codepoint=32)), st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3), max_leaves=6)))  # fmt: skip
def test_json_is_read_as_json_is(content):
    assert parse(json.dumps(content, indent="\t"), "here") == content


def test_an_alias_is_its_anchor_s_value(tmp_path):
    (tmp_path / "m.yaml").write_text("a: &size [4, 4]\nb: *size\n")
    assert read_mapping(tmp_path / "m.yaml") == {"a": [4, 4], "b": [4, 4]}


def laughs(levels: int) -> str:
    lines = ["l0: &l0 [x, x, x, x, x, x, x, x, x]"]
    return "\n".join([*lines, *(f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 9)}]" for i in range(1, levels))])


REFUSED = {
    "a billion laughs": (laughs(10), "its aliases stand for over 100,000 values"),
    "a chain of aliases": ("\n".join(["a0: &a0 [x]", *(f"a{i}: &a{i} [*a{i - 1}]" for i in range(1, 200))]), "levels"),
    "an alias of itself": ("a: &a [*a]", "an alias stands for itself"),
    "brackets": ("[" * 100_000, f"nested deeper than {DEEPEST} levels"),
    "braces": ("{a: " * 50_000, f"nested deeper than {DEEPEST} levels"),
    "indentation": ("\n".join(" " * i + "a:" for i in range(400)), f"nested deeper than {DEEPEST} levels"),
    "a long text": ("a: " + "x" * LARGEST, "it is longer than"),
    "no end": ("'1: [\n", "cannot be read as YAML (ScannerError, line"),
    "code": ("a: !!python/object/apply:os.system [id]", "is a type of its own"),
    "code as a mapping": ("a: !!python/object:os.x {b: 1}", "is a type of its own"),
    "a name of Python's": ("a: !!python/name:os.system ''", "cannot be read as YAML (ConstructorError"),
    "a key twice": ("a: 1\na: 2", "'a' stands there twice"),
    "a key that is a list": ("? [a]\n: 1", "line 1 has a list or mapping for a key"),
    "a number of many digits": ("a: " + "9" * 10_000, "cannot be read as YAML (ValueError"),
    "two documents": ("a: 1\n---\nb: 2", "cannot be read as YAML (ComposerError"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_gets_one_short_line_and_little_memory(case):
    text, message = REFUSED[case]
    tracemalloc.start()
    with pytest.raises(UserError) as error:
        parse(text, "m.yaml")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert str(error.value).startswith("m.yaml: ")
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 200
    assert peak < 50e6


@pytest.mark.parametrize(("content", "message"), [(b"- 8\n", "holds no mapping"), (b"\xff\xfe", "cannot be read as a text")])
def test_a_file_that_holds_no_mapping_is_refused(content, message, tmp_path):
    (tmp_path / "m.yaml").write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_mapping(tmp_path / "m.yaml")
    with pytest.raises(UserError, match="there is no such file"):
        read_mapping(tmp_path / "other.yaml")


def test_a_value_is_shown_short_on_one_line_however_large_it_is():
    nested = ["x" * 10**6] * 9
    for _ in range(30):
        nested = [nested] * 9  # 9**31 texts, if it were written out
    for value in (nested, {"a": nested}, "a\nb" * 1000, 10**1000, {1, 2}, object(), None, [1, "b"]):
        assert len(shown(value)) <= 120
        assert "\n" not in shown(value)
    assert shown([1, "b"]) == "[1, 'b']"
