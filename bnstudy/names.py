"""Texts that become files, folders, arguments or names in W&B: what they may look like, and how a command is written out."""

from __future__ import annotations

import re
import shlex

from bnstudy.errors import UserError

LONGEST = 100
"""Characters that a name may have; with what is put around it, it stays below what file systems and W&B take."""
_SIGNS = rf"[A-Za-z0-9._-]{{0,{LONGEST - 1}}}"
_NAME = re.compile(f"[A-Za-z0-9]{_SIGNS}")
_LAYER = re.compile(f"[A-Za-z0-9_]{_SIGNS}")
_RULE = f"letters, digits, '.', '_' and '-', at most {LONGEST}"


def check_name(key: str, name: str, factory: str | None = None) -> str:
    """Refuse a name that could be a path, an option, or longer than the places it goes to.

    Args:
        key: what the user set, for the error: "name", "model.name".
        name: of a study, a model, a data set, an arm.
        factory: `pkg.module:function`; what has no name of its own bears that one, colon and all.

    Returns:
        The name.

    Raises:
        UserError: one line.
    """
    unnamed = factory is not None and name == factory
    if not is_name(name.replace(":", ".", 1) if unnamed else name):
        raise UserError(f"{key}: {_shown(name)} is no name; use {_RULE}, the first a letter or digit")
    return name


def is_name(text: object) -> bool:
    """Whether `check_name` would take it; for names that come from a file."""
    return isinstance(text, str) and _NAME.fullmatch(text) is not None


def check_layer(key: str, name: str) -> str:
    """The same for a layer of a network of the user's own, whose name is an attribute's: it may begin with "_".

    Raises:
        UserError: one line.
    """
    if not _LAYER.fullmatch(name):
        raise UserError(f"{key}: layer {_shown(name)} has no name for a table; use {_RULE}, the first no '.' or '-'")
    return name


def suggested(*words: object) -> str:
    """A command for the user to type, each word quoted for a shell where it needs to be."""
    return f"`{shlex.join(['bnstudy', *map(str, words)])}`"


def _shown(name: str) -> str:
    return repr(name) if len(name) <= LONGEST else f"{name[:40]!r}… ({len(name)} characters)"
