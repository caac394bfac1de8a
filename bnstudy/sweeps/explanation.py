"""What Hydra and OmegaConf complain of, in a line: which key, which value, what would be accepted."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import re
import shlex
from collections.abc import Iterator, Sequence
from typing import Any

from hydra.errors import MissingConfigException, OverrideParseException
from omegaconf.errors import InterpolationResolutionError, OmegaConfBaseException

from bnstudy.errors import UserError
from bnstudy.sweeps.config import Config

_LONGEST = 300
"""Letters of somebody else's message that are worth repeating."""


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Turn whatever Hydra raises for what it was given (its own errors, assertions, YAML's) into a `UserError`."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise explain(error) from error


def explain(error: BaseException) -> UserError:
    """A line for an error of Hydra or OmegaConf."""
    while not str(error).strip() and error.__cause__ is not None:
        error = error.__cause__  # Hydra wraps OmegaConf's errors in empty ones
    text = str(error).strip()
    if isinstance(error, OverrideParseException):
        return UserError(f"{_short(repr(error.override))} is no override; use key=value, or -m key=value1,value2 for an axis")
    if isinstance(error, MissingConfigException) and (found := re.search(r"Could not find '(.+)/([^/']*)'", text)):
        return _unknown_choice(found[1], found[2], text)
    if found := re.search(r"To append to your default list use (.+)", text):
        return UserError(f"{found[1][1:].partition('=')[0]}: is no part of the defaults; use {quoted(found[1])}")
    cause = error if isinstance(error, OmegaConfBaseException) else error.__cause__
    reason = str(cause or "").strip().partition("\n")[0] or _short(text)
    key = getattr(cause, "full_key", None)
    if found := re.search(r"full_key: (\S+)", text):  # Hydra repeats OmegaConf's text without its cause
        key, reason = found[1], _short(text.partition("full_key:")[0])
    if not key and (found := re.search(r"Could not override '([^']+)'", text)):
        return unknown_key(found[1])
    return _about_value(str(key), reason, cause) if key else UserError(_short(text) or type(error).__name__)


def _unknown_choice(group: str, name: str, text: str) -> UserError:
    listed = text.partition("Available options")[2].partition("Config search path")[0].splitlines()[1:]
    options = [line.strip() for line in listed if line.strip()]
    if not options:
        return UserError(f"{group}: there is no such group; `bnstudy run --help` shows all of them")
    return no_choice(group, repr(name), options)


def no_choice(group: str, value: str, options: Sequence[str]) -> UserError:
    """The error for a choice that a group does not have."""
    near = difflib.get_close_matches(value.strip("'"), options, 1)
    hint = f"; did you mean {near[0]}?" if near else ""
    return UserError(f"{group}: {_short(value)} is unknown; use {', '.join(options)}{hint}")


def _about_value(key: str, reason: str, cause: BaseException | None) -> UserError:
    if " not in " in reason:
        return unknown_key(key)
    if "does not support deletion" in reason:
        return UserError(f"{key}: cannot be deleted, since every cell has it; give it another value")
    reason = reason[:1].lower() + reason[1:].replace("of type 'str' ", "")
    reason = re.sub(r"^\w+Error raised while resolving interpolation: ", "", reason, flags=re.IGNORECASE)
    if isinstance(cause, InterpolationResolutionError):
        return UserError(f"{key}: {_short(reason)}; ${{…}} takes a key of `bnstudy run --help`")
    kind = kind_of(key)
    return UserError(f"{key}: {_short(reason)}" + (f"; it takes {kind}" if kind else ""))


def unknown_key(key: str) -> UserError:
    """The error for a key that there is not, with the nearest one that there is."""
    near = [word for word in difflib.get_close_matches(key, list(keys()), 2) if word != key]
    hint = f"did you mean {near[0]}?" if near else "`bnstudy run --help` shows all keys"
    return UserError(f"{_short(key)}: unknown key; {hint}")


def keys(prefix: str = "", node: Any = None) -> Iterator[str]:
    """Every key of the configuration, sections and the keys in them."""
    for key, value in vars(Config() if node is None else node).items():
        yield f"{prefix}{key}"
        if dataclasses.is_dataclass(value):
            yield from keys(f"{prefix}{key}.", value)


def kind_of(key: str) -> str | None:
    """The type of a key, as the schema declares it; None where it has no such key."""
    node: Any = Config()
    kind: str | None = None
    for part in key.split("."):
        field = {field.name: field for field in dataclasses.fields(node)}.get(part) if dataclasses.is_dataclass(node) else None
        if field is None:
            return None
        kind, node = str(field.type), getattr(node, part)
    return kind


def quoted(argument: str) -> str:
    """An argument as it can be typed into a shell."""
    return shlex.quote(argument)


def _short(text: str) -> str:
    whole = " ".join(text.split())
    return whole if len(whole) <= _LONGEST else whole[:_LONGEST] + "…"
