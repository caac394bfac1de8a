"""Public faces of packages: names that load their module when they are asked for, so that importing a face costs nothing."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def face(package: str, homes: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """What a package's `__init__` needs to have public names without importing their modules.

    Type checkers cannot see such names: `__init__` imports them once more under `TYPE_CHECKING`.

    Args:
        package: its `__name__`.
        homes: for each public name the module that defines it, relative to the package.

    Returns:
        `__getattr__`, `__dir__` and `__all__` of the package.

    Source: PEP 562.
    """

    def load(name: str) -> Any:
        if name in homes:
            return getattr(importlib.import_module(f"{package}.{homes[name]}"), name)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return load, lambda: [*vars(importlib.import_module(package)), *homes], sorted(homes)
