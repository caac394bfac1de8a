"""Errors in words: the one kind that a user can mend, and how an exception or a value is told on one line."""

from __future__ import annotations

import reprlib

_LONGEST = 200
"""Characters of a foreign exception's text that are shown."""
_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxdict, _SHORT.maxlist, _SHORT.maxtuple, _SHORT.maxset = 3, 4, 4, 4, 4
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 80


class UserError(Exception):
    """A mistake in what the user asked for; the command line prints its text and exits with code 2.

    The text is one or two lines: which key, which value, and what would be accepted. It is shown without a traceback.

    Source: docs/architecture.md, "Faults and secrets".
    """


def first_line(error: BaseException) -> str:
    """The first line of an exception's text, at most 200 characters of it; the name of its type where it has no text."""
    lines = str(error).strip().splitlines()
    return lines[0].strip()[:_LONGEST] if lines else type(error).__name__


def one_line(error: BaseException) -> str:
    """An exception on one line: its type and the first line of its text.

    A `UserError` is written for people: of it the first line alone, and the whole of that.
    """
    lines = str(error).strip().splitlines()
    if isinstance(error, UserError) and lines:
        return lines[0].strip()
    return f"{type(error).__name__}: {first_line(error)}" if lines else type(error).__name__


def shown(value: object) -> str:
    """A user's value as an error shows it: its `repr` on one line, at most 120 characters, however large it is."""
    text = " ".join(_SHORT.repr(value).split())
    return text if len(text) <= 120 else f"{text[:119]}…"
