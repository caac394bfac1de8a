"""The default of a constructor's argument, read from the framework and not from memory."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any


def default_of(function: Callable[..., Any], argument: str) -> float | None:
    """The default of a numeric argument; None where it has none."""
    value = inspect.signature(function).parameters[argument].default
    return None if value is inspect.Parameter.empty or value is None else float(value)


def given(argument: str, value: float | None) -> dict[str, float]:
    """Keyword arguments that pass `value`, or nothing when it is None."""
    return {} if value is None else {argument: value}
