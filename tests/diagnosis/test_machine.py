"""A diagnosis as JSON: strict, complete, and read back to the last bit."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bnstudy.diagnosis.machine import from_json, to_json
from bnstudy.diagnosis.measured import Effect
from bnstudy.diagnosis.result import KINDS, Diagnosis, Finding
from bnstudy.errors import UserError
from tests.diagnosis import samples

Maker = Callable[[], Diagnosis]
EVERY = pytest.mark.parametrize("make", samples.EVERY, ids=lambda make: make.__name__)
KEYS = ["format", "healthy", "findings", "levels", "terms", "layers", "setting", "columns", "not_finite"]


def same(one: Any, other: Any) -> bool:
    """Equal, NaN to NaN, and of the same type."""
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and (one == other or (one != one and other != other))


def assert_equal(one: Diagnosis, other: Diagnosis) -> None:
    for name in ("levels", "terms", "layers"):
        pd.testing.assert_frame_equal(getattr(one, name), getattr(other, name), check_exact=True)
    first, second = ([dataclasses.asdict(finding) for finding in side.findings] for side in (one, other))
    assert same(first, second)
    assert same(dict(one.setting), dict(other.setting))


def refuse(text: str) -> float:
    raise AssertionError(f"{text} is no JSON")


@EVERY
def test_what_is_written_is_read_back_to_the_last_bit(make: Maker) -> None:
    assert_equal(from_json(to_json(make())), make())


@EVERY
def test_it_is_strict_json_with_documented_keys_in_one_order(make: Maker) -> None:
    text = to_json(make())
    read = json.loads(text, parse_constant=refuse)
    assert list(read) == KEYS
    assert read["format"] == 1
    assert text.isascii()
    assert text == to_json(from_json(text))


def test_rows_are_objects_with_plain_numbers() -> None:
    read = json.loads(to_json(samples.three()))
    assert read["findings"][0]["kind"] == "noisy_average"
    assert read["findings"][0]["effect"] == -0.1215
    assert read["findings"][2]["effect"] is None
    own = [row for row in read["levels"] if row["metric"] == "accuracy" and row["condition"] == "own"]
    assert own[0]["value"] == 0.8127
    assert read["layers"][6]["dead"] == 3
    assert read["setting"]["versions"]["torch"] == "2.11.0"
    assert read["columns"]["layers"]["m"] == "integer"
    assert read["columns"]["layers"]["m_eff"] == "number"


def test_what_is_not_finite_is_null_and_infinity_is_told_apart() -> None:
    read = json.loads(to_json(samples.broken()))
    at = samples.RESNET.index("layer2.1.bn1")
    assert read["layers"][at]["m_eff"] is None
    assert read["layers"][at]["variance_ratio"] is None
    assert [["layers", at, "m_eff"], "inf"] in read["not_finite"]
    assert [["findings", 0, "effect"], "nan"] in read["not_finite"]
    back = from_json(to_json(samples.broken()))
    assert back.layers["m_eff"][at] == math.inf
    assert back.findings[0].effect is not None
    assert math.isnan(back.findings[0].effect.value)


def test_nothing_to_do_with_a_number_stays_apart_from_a_number_that_is_none() -> None:
    first = replace(samples.healthy().findings[0], effect=Effect("loss", math.nan, math.nan))
    diagnosis = replace(samples.healthy(), findings=(first, samples.healthy().findings[0]))
    nan, none = from_json(to_json(diagnosis)).findings
    assert nan.effect is not None
    assert math.isnan(nan.effect.value)
    assert none.effect is None


def test_numbers_of_numpy_are_numbers() -> None:
    setting = {"a": np.float64(0.1), "b": np.int64(3), "c": [np.bool_(True), np.float32(math.inf)]}
    assert from_json(to_json(replace(samples.healthy(), setting=setting))).setting == {
        "a": 0.1,
        "b": 3,
        "c": [True, math.inf],
    }


def test_an_empty_table_keeps_its_columns_and_their_types() -> None:
    diagnosis = replace(samples.healthy(), layers=samples.healthy().layers.iloc[:0])
    pd.testing.assert_frame_equal(from_json(to_json(diagnosis)).layers, diagnosis.layers)


def test_settings_that_are_not_plain_are_refused() -> None:
    with pytest.raises(TypeError):
        to_json(replace(samples.healthy(), setting={"model": object()}))
    with pytest.raises(TypeError, match="setting: key 3 is no text"):
        to_json(replace(samples.healthy(), setting={3: 4}))  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no", "diagnosis: no JSON .*; the text of a diagnosis.json expected"),
        ("[]", "diagnosis: JSON without a key 'format'"),
        ('{"format": 2}', "diagnosis: format 2 is not known to this version of bnstudy; it reads 1"),
        ('{"format": 1}', "diagnosis: damaged"),
    ],
)
def test_what_is_no_diagnosis_is_told_in_one_line(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        from_json(text)


def test_a_cut_or_changed_file_is_refused() -> None:
    text = to_json(samples.broken())
    for damaged in (
        text[: len(text) // 2],
        text.replace('"invalid_statistics"', '"rusty"'),
        text.replace('"m_eff"', '"x"', 1),
    ):
        with pytest.raises(UserError, match=r"^diagnosis: "):
            from_json(damaged)


numbers = st.floats(allow_nan=True, allow_infinity=True)
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | numbers | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
findings = st.builds(
    Finding,
    kind=st.sampled_from(sorted(KINDS)), summary=st.text(), evidence=st.lists(st.text(), max_size=3).map(tuple),
    remedy=st.text(), layers=st.lists(st.text(), max_size=3).map(tuple),
    effect=st.none() | st.builds(Effect, metric=st.text(), value=numbers, error=numbers),
)  # fmt: skip


@st.composite
def frames(draw: st.DrawFn) -> pd.DataFrame:
    rows = draw(st.integers(0, 4))
    whole = st.integers(-(2**63), 2**63 - 1)
    kinds: list[tuple[st.SearchStrategy[Any], Any]] = [
        (numbers, "float64"), (whole, "int64"), (st.text(), str), (st.booleans(), "bool"),
        (st.none() | st.booleans() | numbers | st.text(), object),
    ]  # fmt: skip
    columns = draw(st.dictionaries(st.text(), st.sampled_from(kinds), max_size=5))
    made = {
        name: pd.Series(draw(st.lists(values, min_size=rows, max_size=rows)), dtype=kind)
        for name, (values, kind) in columns.items()
    }
    return pd.DataFrame(made, index=pd.RangeIndex(rows), columns=pd.Index(list(made), dtype=object))


@given(
    st.lists(findings, min_size=1, max_size=3), frames(), frames(), frames(), st.dictionaries(st.text(), plain, max_size=4)
)
def test_any_diagnosis_is_read_back_equal(
    found: list[Finding], levels: pd.DataFrame, terms: pd.DataFrame, layers: pd.DataFrame, setting: dict[str, Any]
) -> None:
    diagnosis = Diagnosis(tuple(found), levels, terms, layers, setting)
    text = to_json(diagnosis)
    json.loads(text, parse_constant=refuse)
    back = from_json(text)
    for name in ("levels", "terms", "layers"):
        one, other = getattr(back, name), getattr(diagnosis, name)
        assert list(one.columns) == list(other.columns)
        assert list(one.dtypes) == list(other.dtypes)
        assert len(one) == len(other)
        assert all(same(one[column].tolist(), other[column].tolist()) for column in other)
    assert_equal(replace(back, levels=levels, terms=terms, layers=layers), diagnosis)
