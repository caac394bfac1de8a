"""Checkpoint files: safetensors and torch, read without running code from them, written whole or not at all."""

from __future__ import annotations

import contextlib
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from typing import IO, Any

import torch
from safetensors import safe_open
from safetensors.torch import save as serialize
from torch import Tensor

from bnstudy.atomic import atomic_file
from bnstudy.errors import UserError, one_line, shown
from bnstudy.frameworks.translate.layers import has_layers
from bnstudy.frameworks.translate.naming import key_of

SAFETENSORS = (".safetensors",)
TORCH = (".pt", ".pth", ".bin", ".ckpt", ".tar")
_DEEPEST, _MOST = 16, 200_000
"""Levels of a file that are looked into, and mappings and lists."""
Keys = tuple[Any, ...]
"""The keys that lead from the top of a file to something in it."""


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds.

    Args:
        content: the whole of it: tensors by name, or mappings and lists with the state in one of them.
        entry: keys that lead to the state in `content`; none where the content is the state.
        metadata: the text metadata of a safetensors file.
        keeps_order: whether the state is in the model's own order, which safetensors does not keep.
        nested: the state's tensors lie in mappings of mappings, as Flax has them; their names are joined by "/".
    """

    content: dict[str, Any]
    entry: tuple[str, ...]
    metadata: dict[str, str] | None
    keeps_order: bool
    nested: bool = False

    @property
    def state(self) -> dict[str, Tensor]:
        """The tensors by name."""
        root = at(self.content, self.entry)
        return {name: at(root, keys) for name, keys in _names(root, self.nested).items()}

    @property
    def flat(self) -> bool:
        """Whether the file is the state and nothing else, as safetensors holds it."""
        return not self.entry and not self.nested and len(self.state) == len(self.content)

    def with_state(self, state: Mapping[str, Tensor]) -> Checkpoint:
        """The same file with other tensors."""
        root = at(self.content, self.entry)
        known = _names(root, self.nested)
        if not self.nested:
            root = root | dict(state)
        for name in state if self.nested else ():
            root = replaced(root, known[name], state[name])
        return replace(self, content=replaced(self.content, self.entry, root))


def at(content: Any, keys: Keys) -> Any:
    """What lies at the end of some keys."""
    return reduce(lambda inner, key: inner[key], keys, content)


def replaced(content: Any, keys: Keys, value: object) -> Any:
    """Mappings and lists with another value at the end of some keys; the given ones are not changed."""
    if not keys:
        return value
    new = content.copy()
    new[keys[0]] = replaced(content[keys[0]], keys[1:], value)
    return new


def walk(content: object) -> Iterator[tuple[Keys, Any]]:
    """Every mapping and list of a file with the keys that lead to it, the outer ones first.

    Raises:
        UserError: there are more than a checkpoint has, as where references multiply.
    """
    waiting: deque[tuple[Keys, Any]] = deque([((), content)])
    for _ in range(_MOST):
        if not waiting:
            return
        keys, value = waiting.popleft()
        yield keys, value
        inside = value.items() if isinstance(value, dict) else enumerate(value)
        if len(keys) < _DEEPEST:
            waiting.extend(((*keys, key), item) for key, item in inside if isinstance(item, (dict, list)))
    raise UserError(f"IN: it holds more than {_MOST:,} mappings and lists, which is no checkpoint")


def check_suffix(path: Path, role: str) -> None:
    """Refuse a file whose suffix does not say its format.

    Raises:
        UserError: neither safetensors nor torch.
    """
    if path.suffix not in SAFETENSORS + TORCH:
        raise UserError(f"{role}: {path.name!r} has no known suffix; use {', '.join(SAFETENSORS + TORCH)}")


def load(path: Path, entry: str | None = None, scheme: str = "torch") -> Checkpoint:
    """Read a checkpoint on the CPU.

    Args:
        path: a safetensors file, or a torch file (read with weights_only=True).
        entry: key of the model's state in a torch file that holds several, "/" between keys of a longer way. Default: None,
            the only one there is.
        scheme: of the names of the state, preferred where several mappings could be it. Default: torch's.

    Raises:
        UserError: no such file, unreadable, other things than tensors, or no state to be found.
    """
    check_suffix(path, "IN")
    if not path.is_file():
        raise UserError(f"IN: {path} is no file; name a checkpoint")
    if path.suffix in SAFETENSORS:
        try:
            with safe_open(path, framework="pt") as file:
                metadata, content = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        except Exception as error:
            raise UserError(f"IN: {path} cannot be read as safetensors ({one_line(error)})") from error
        if entry is not None:
            raise UserError(f"entry: {shown(entry)} was given, but a safetensors file is one flat state; leave it out")
        return Checkpoint(content, (), metadata, keeps_order=False)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = one_line(error)
        raise UserError(f"IN: {path} cannot be read as a torch file of tensors ({reason}); save a state_dict()") from error
    if not isinstance(content, dict):
        raise UserError(f"IN: {path} holds a {type(content).__name__}; a state_dict, or a mapping with one, expected")
    found = _entry(content, entry, scheme, path)
    checkpoint = Checkpoint(dict(content), found, None, keeps_order=True)
    whole = replace(checkpoint, nested=True)
    return whole if not has_layers(checkpoint.state) and has_layers(whole.state) else checkpoint


def save(checkpoint: Checkpoint, suffix: str, file: IO[bytes]) -> None:
    """Write a checkpoint in the format of a suffix.

    Raises:
        UserError: a safetensors file was asked for, and the content is more than one flat state.
    """
    if suffix not in SAFETENSORS:
        torch.save(checkpoint.content, file)
        return
    if not checkpoint.flat:
        raise UserError("OUT: safetensors holds one flat state and IN holds more; use .pt")
    own = {key: value.detach().clone().contiguous() for key, value in checkpoint.state.items()}  # it refuses shared memory
    file.write(serialize(own, checkpoint.metadata))


def write_together(writers: Mapping[Path, Callable[[IO[bytes]], object]]) -> None:
    """Write several files to temporary names, then put all in place; after an error none is.

    Args:
        writers: by final path, a function that writes to the file it is given.

    Raises:
        UserError: a folder that cannot be written to.
    """
    try:
        with contextlib.ExitStack() as stack:
            for path, write in writers.items():
                write(stack.enter_context(atomic_file(path)))
    except OSError as error:
        raise UserError(f"OUT: cannot be written ({one_line(error)})") from error


def _entry(content: dict[Any, Any], entry: str | None, scheme: str, path: Path) -> Keys:
    """The keys that lead to the state: to the mapping that holds BatchNorm layers, best in the names of the scheme."""
    mappings = {keys: value for keys, value in walk(content) if isinstance(value, dict)}
    # A mapping of a single layer's tensors is a branch of a tree, and no state.
    whole = {keys: {name: tensor for name, tensor in _direct(value).items() if len(key_of(name).parts) > 1}
             for keys, value in mappings.items()}  # fmt: skip
    states: list[Keys] = []
    for own in (scheme, None):
        states = states or [keys for keys, tensors in whole.items() if has_layers(tensors, own)]
    if entry is not None:
        named = [keys for keys in mappings if keys and "/".join(map(str, keys)) == entry]
        if not named:
            raise UserError(f"entry: {shown(entry)} is no mapping in {path}; use {_listed(states) or 'none'}")
        return named[0]
    if len(states) > 1 and () not in states:
        raise UserError(f"entry: {path} holds several states; choose one of {_listed(states)}")
    return () if () in states or not states else states[0]


def _direct(mapping: Mapping[Any, Any]) -> dict[str, Tensor]:
    return {key: value for key, value in mapping.items() if isinstance(key, str) and isinstance(value, Tensor)}


def _names(root: Mapping[Any, Any], nested: bool) -> dict[str, Keys]:
    """The keys that lead to each tensor, by its name."""
    if not nested:
        return {key: (key,) for key in _direct(root)}
    inside = ((keys, value) for keys, value in walk(root) if isinstance(value, dict))
    every = [(*keys, key) for keys, value in inside for key, tensor in value.items() if isinstance(tensor, Tensor)]
    return {"/".join(map(str, keys)): keys for keys in every}


def _listed(states: Sequence[Keys]) -> str:
    names = [shown("/".join(map(str, keys)))[1:-1] for keys in states[:6]]
    return ", ".join(names) + (f" … ({len(states)})" if len(states) > 6 else "")
