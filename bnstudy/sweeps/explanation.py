"""What Hydra and OmegaConf complain of, in a line: which key, which value, what would be accepted."""

from __future__ import annotations

import contextlib
import difflib
import re
import shlex
from collections.abc import Iterator, Sequence

from hydra.errors import MissingConfigException, OverrideParseException
from omegaconf.errors import InterpolationResolutionError, OmegaConfBaseException

from bnstudy.errors import UserError, shown
from bnstudy.sweeps.keys import groups, keys, sections

_KINDS = {
    "int": "a whole number",
    "int | None": "a whole number or null",
    "float": "a number",
    "float | None": "a number or null",
    "bool": "true or false",
    "str": "a text",
    "str | None": "a text or null",
    "list[Any]": "a list",
    "list[str]": "a list of texts",
    "list[float]": "a list of numbers",
    "dict[str, Any]": "a mapping, such as {key:value}",
}
"""The schema's types in words."""
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
        return no_override(error.override)
    if isinstance(error, MissingConfigException) and (found := re.search(r"Could not find '(.+)/([^/']*)'", text)):
        return _unknown_choice(found[1], found[2], text)
    if (found := re.search(r"To append to your default list use \+(([^=@]+)=.*)", text)) and found[2] in groups():
        return UserError(f"{found[2]}: is no part of the defaults; use {shlex.quote('+' + found[1])}")
    if (found := re.search(r"Error merging override [+~]*([^=\s]+)", text)) and not is_known(found[1]):
        return unknown_key(found[1])
    if isinstance(error, UserWarning) and (found := re.search(r"path=(.*) is not available", text)):
        return UserError(f"hydra.searchpath: {shown(found[1])} is not there; use a folder, as in [file:///home/me/conf]")
    cause = error if isinstance(error, OmegaConfBaseException) else error.__cause__
    given = re.search(r"Error merging override [^=]*=(.*)", text)
    reason = str(cause or "").strip().partition("\n")[0] or text
    key = getattr(cause, "full_key", None)
    if found := re.search(r"full_key: (\S+)", text):  # Hydra repeats OmegaConf's text without its cause
        key, reason = found[1], text.partition("full_key:")[0]
    if not key and (found := re.search(r"Could not override '([^']+)'", text)):
        return unknown_key(found[1])
    if not key:
        return UserError(_short(text) or type(error).__name__)
    return _about_value(str(key), given[1] if given else None, " ".join(reason.split()), cause)


def no_override(text: str) -> UserError:
    """The error for an argument that is not in Hydra's grammar."""
    return UserError(f"{shown(text)} is no override; use key=value, or -m key=value1,value2 for an axis")


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


def _about_value(key: str, value: str | None, reason: str, cause: BaseException | None) -> UserError:
    """What is wrong with a key or its value, as typed or else as OmegaConf's `reason` has it."""
    if " not in " in reason:
        return unknown_key(key)
    if "does not support deletion" in reason:
        return UserError(f"{key}: cannot be deleted, since every cell has it; give it another value")
    if isinstance(cause, InterpolationResolutionError):
        reason = re.sub(r"^\w+Error raised while resolving interpolation: ", "", reason)
        return UserError(f"{key}: {_short(reason)}; ${{…}} takes a key of `bnstudy run --help`")
    kind = kind_of(key.partition("[")[0]) or ""
    wanted = _KINDS.get(kind.removeprefix("list[").removesuffix("]") if "[" in key else kind)
    if wanted is None:
        return UserError(
            f"{key}: {_short(reason)}" if key not in sections() else f"{key}: is a section; use {key}.KEY=VALUE"
        )
    if (value is None or "[" in key) and (found := re.match(r"Value '(.*?)'(?: of type '\w+')? (?:could|is) not", reason)):
        value = found[1]
    return UserError(f"{key}: {_short(value) if value else repr(value or '')} is not {wanted}")


def unknown_key(key: str) -> UserError:
    """The error for a key that there is not, with the nearest one that there is."""
    near = [
        word for word in difflib.get_close_matches(key, [*(known.name for known in keys()), *sections()], 2) if word != key
    ]
    hint = f"did you mean {near[0]}?" if near else "`bnstudy run --help` shows all keys"
    return UserError(f"{_short(key)}: unknown key; {hint}")


def kind_of(key: str) -> str | None:
    """The type of a key, as the schema declares it; None where it has no such key."""
    return {known.name: known.kind for known in keys()}.get(key)


def is_known(key: str) -> bool:
    """Whether the schema has a key, a section of that name, or a mapping or list that the key is in."""
    kinds = {known.name: known.kind for known in keys()}
    inside = any(key.startswith(f"{name}.") for name, kind in kinds.items() if kind.startswith(("dict", "list")))
    return inside or key in kinds or key in sections() or key.startswith("hydra.")


def _short(text: str) -> str:
    whole = " ".join(text.split())
    return whole if len(whole) <= _LONGEST else whole[:_LONGEST] + "…"
