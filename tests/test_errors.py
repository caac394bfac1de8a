"""How exceptions are told on one line."""

from __future__ import annotations

import pytest

from bnstudy.errors import UserError, first_line, one_line


@pytest.mark.parametrize(
    ("error", "line", "first"),
    [
        (ValueError("a\nb"), "ValueError: a", "a"),
        (ValueError("\n  a  \n b"), "ValueError: a", "a"),
        (ValueError(), "ValueError", "ValueError"),
        (KeyError("key"), "KeyError: 'key'", "'key'"),
        (UserError("batch_size: 0 is below 1; use 1 or more\nor so"), *["batch_size: 0 is below 1; use 1 or more"] * 2),
        (UserError(), "UserError", "UserError"),
    ],
)
def test_an_exception_is_told_on_one_line(error: Exception, line: str, first: str) -> None:
    assert one_line(error) == line
    assert first_line(error) == first


def test_a_foreign_text_is_cut_and_ours_is_not() -> None:
    assert one_line(ValueError("x" * 1000)) == "ValueError: " + "x" * 200
    assert one_line(UserError("x" * 1000)) == "x" * 1000
