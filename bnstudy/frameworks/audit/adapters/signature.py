"""The default of a constructor's argument, read from the framework and not from memory."""

from __future__ import annotations

import inspect
from typing import Any


def default_of(layer: type, argument: str) -> float | None:
    """The default of a numeric argument of a layer's constructor; None where it has none."""
    value = inspect.signature(layer.__init__).parameters[argument].default  # type: ignore[misc]
    return None if value is inspect.Parameter.empty or value is None else float(value)


def given(argument: str, value: float | None) -> dict[str, Any]:
    """Keyword arguments that pass `value`, or nothing when it is None."""
    return {} if value is None else {argument: value}
