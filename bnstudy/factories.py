"""A user's own function by its name, `pkg.module:function`: found, called, and told apart from its earlier versions."""

from __future__ import annotations

import difflib
import hashlib
import importlib
import inspect
import os
import re
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from bnstudy.errors import UserError, one_line

_NAME = r"[^\W\d]\w*"
_SPEC = re.compile(rf"({_NAME}(?:\.{_NAME})*):({_NAME}(?:\.{_NAME})*)")
FORM = "pkg.module:function"


def load_factory(key: str, spec: str | None) -> Callable[..., Any]:
    """The function (or class) that `spec` names.

    Modules are looked for in the current folder first, then on sys.path, as `python -m` does; the folder stays on sys.path,
    so that what the function imports later is found too.

    Args:
        key: what the user set, for the error: "model.factory", "--model".
        spec: `pkg.module:function`; dots behind the colon lead into classes.

    Returns:
        The callable.

    Raises:
        UserError: one line, if the text has another form, or the module cannot be imported, or has no such callable.

    Source: docs/architecture.md, "How to add".
    """
    if not spec:
        raise UserError(f"{key}: nothing is named; use {FORM}, a function in a module of yours")
    found = _SPEC.fullmatch(spec)
    if found is None or found[1].endswith(".py"):
        raise UserError(f"{key}: {spec!r} has not the form {FORM}{_guess(spec)}")
    name, path = found[1], found[2]
    value: Any = _import(key, name)
    for depth, part in enumerate(path.split(".")):
        if not hasattr(value, part):
            owner = ".".join([name, *path.split(".")[:depth]])
            raise UserError(f"{key}: {spec!r} is not there; {owner} has no {part!r}{_offer(value, part)}")
        value = getattr(value, part)
    if not callable(value):
        raise UserError(
            f"{key}: {spec!r} is of type {type(value).__name__}, which cannot be called; use a function or a class"
        )
    factory: Callable[..., Any] = value
    return factory


def call_factory(key: str, spec: str, given: Sequence[Any], named: Mapping[str, Any], accepted: str) -> Any:
    """What the function that `spec` names returns.

    Args:
        key, spec: see `load_factory`.
        given, named: positional and keyword arguments.
        accepted: how it is called, for the error: "build(input_shape, outputs, **args)".

    Raises:
        UserError: one line, with the exception that the function raised and where; and as `load_factory`.

    Source: docs/architecture.md, "How to add".
    """
    factory = load_factory(key, spec)
    try:
        return factory(*given, **named)
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        raise UserError(f"{key}: {spec!r} raises {traced(error)}; it is called as {accepted}") from error


def source_digest(key: str, spec: str) -> str:
    """Sixteen hex digits of the SHA-256 of the file that `spec` names a module of.

    Where that module has the function from another one, both files count. Files that they import do not.

    Args:
        key, spec: see `load_factory`.

    Raises:
        UserError: as `load_factory`.

    Source: docs/architecture.md, "How to add".
    """
    factory = inspect.unwrap(load_factory(key, spec))
    names = dict.fromkeys((spec.partition(":")[0], getattr(factory, "__module__", None)))
    digest = hashlib.sha256()
    for name in names:
        file = getattr(sys.modules.get(name or ""), "__file__", None)
        if file is not None and os.path.isfile(file):  # what is built into Python has none
            stat = os.stat(file)
            digest.update(_file_digest(file, stat.st_mtime_ns, stat.st_size))
    return digest.hexdigest()[:16]


def search_path() -> list[str]:
    """Folders of sys.path that Python's installation did not put there, for a process elsewhere to search too."""
    own = {os.path.realpath(prefix) + os.sep for prefix in (sys.prefix, sys.base_prefix, sys.exec_prefix)}
    folders = [os.path.abspath(entry) for entry in sys.path]
    return [entry for entry in folders if not any((os.path.realpath(entry) + os.sep).startswith(root) for root in own)]


def add_search_path(folders: Sequence[str]) -> None:
    """Search further folders too, behind those searched already."""
    sys.path += [folder for folder in folders if folder not in sys.path]


@lru_cache(maxsize=64)
def _file_digest(file: str, changed: int, size: int) -> bytes:
    return hashlib.sha256(Path(file).read_bytes()).digest()


def _import(key: str, name: str) -> Any:
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    importlib.invalidate_caches()
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise UserError(
                f"{key}: there is no module {error.name!r} in this folder or on sys.path; use {FORM} of one that is there"
            ) from error
        raise UserError(f"{key}: importing {name!r} raises {traced(error)}") from error
    except (Exception, SystemExit) as error:  # SystemExit: a script without a guard
        raise UserError(f"{key}: importing {name!r} raises {traced(error)}") from error


def traced(error: BaseException) -> str:
    """An exception on one line, with the line of code that raised it."""
    text = one_line(error)
    if isinstance(error, SyntaxError) and error.filename:
        return text
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith("<")]
    outside = [frame for frame in frames if frame.filename not in (__file__, importlib.__file__)]
    return f"{text} ({os.path.basename(outside[-1].filename)}, line {outside[-1].lineno})" if outside else text


def _guess(spec: str) -> str:
    """What a misspelt name may have meant."""
    module, _, function = spec.partition(":")
    if not function and "." in module and "/" not in module:
        module, _, function = module.rpartition(".")
    module = module.removesuffix(".py").strip("./\\").replace("/", ".").replace("\\", ".")
    guess = f"{module}:{function or 'function'}"
    return f"; did you mean {guess}?" if guess != spec and _SPEC.fullmatch(guess) else ""


def _offer(value: Any, wanted: str) -> str:
    names = [name for name in dir(value) if not name.startswith("_") and callable(getattr(value, name, None))]
    if near := difflib.get_close_matches(wanted, names, 1):
        return f"; did you mean {near[0]}?"
    own = [name for name in names if getattr(getattr(value, name), "__module__", None) == getattr(value, "__name__", "")]
    return f"; it has {', '.join(own[:6])}" if own else ""
