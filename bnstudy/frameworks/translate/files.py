"""Checkpoint files: safetensors and torch, read without running code from them, written whole or not at all."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import torch
from safetensors import safe_open
from safetensors.torch import save as serialize
from torch import Tensor

from bnstudy.atomic import atomic_file
from bnstudy.errors import UserError, one_line
from bnstudy.frameworks.translate.layers import has_buffers

SAFETENSORS = (".safetensors",)
TORCH = (".pt", ".pth", ".bin", ".ckpt", ".tar")


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds.

    Args:
        content: the whole of it: tensors by name, or a mapping with the state at `entry`.
        entry: key of the state in `content`; None where the content is the state.
        metadata: the text metadata of a safetensors file.
        keeps_order: whether the state is in the model's own order, which safetensors does not keep.
    """

    content: dict[str, Any]
    entry: str | None
    metadata: dict[str, str] | None
    keeps_order: bool

    @property
    def state(self) -> dict[str, Tensor]:
        """The tensors by name."""
        content: dict[str, Any] = self.content if self.entry is None else self.content[self.entry]
        return {key: value for key, value in content.items() if isinstance(value, Tensor)}

    def with_state(self, state: Mapping[str, Tensor]) -> Checkpoint:
        """The same file with other tensors."""
        if self.entry is None:
            return replace(self, content=self.content | dict(state))
        return replace(self, content=self.content | {self.entry: self.content[self.entry] | dict(state)})

    def with_entry(self, key: str, value: object) -> Checkpoint:
        """The same file with another entry beside the state."""
        return replace(self, content=self.content | {key: value})


def check_suffix(path: Path, role: str) -> None:
    """Refuse a file whose suffix does not say its format.

    Raises:
        UserError: neither safetensors nor torch.
    """
    if path.suffix not in SAFETENSORS + TORCH:
        raise UserError(f"{role}: {path.name!r} has no known suffix; use {', '.join(SAFETENSORS + TORCH)}")


def load(path: Path, entry: str | None = None) -> Checkpoint:
    """Read a checkpoint on the CPU.

    Args:
        path: a safetensors file, or a torch file (read with weights_only=True).
        entry: key of the model's state in a torch file that holds several. Default: None, the only one there is.

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
            raise UserError(f"entry: {entry!r} was given, but a safetensors file is one flat state; leave it out")
        return Checkpoint(content, None, metadata, keeps_order=False)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        said = one_line(error)
        raise UserError(f"IN: {path} cannot be read as a torch file of tensors ({said}); save a state_dict()") from error
    if not isinstance(content, dict):
        raise UserError(f"IN: {path} holds a {type(content).__name__}; a state_dict, or a mapping with one, expected")
    return Checkpoint(dict(content), _entry(content, entry, path), None, keeps_order=True)


def save(checkpoint: Checkpoint, suffix: str, file: IO[bytes]) -> None:
    """Write a checkpoint in the format of a suffix.

    Raises:
        UserError: a safetensors file was asked for, and the content is more than one flat state.
    """
    if suffix not in SAFETENSORS:
        torch.save(checkpoint.content, file)
        return
    if checkpoint.entry is not None or len(checkpoint.state) != len(checkpoint.content):
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


def _entry(content: dict[Any, Any], entry: str | None, path: Path) -> str | None:
    """The key of the state: the one that holds BatchNorm buffers; None where the content itself does."""
    states = [key for key, value in content.items() if isinstance(value, dict) and has_buffers(value)]
    if entry is not None:
        if not isinstance(content.get(entry), dict):
            raise UserError(f"entry: {entry!r} is no mapping in {path}; use {', '.join(map(str, states)) or 'none'}")
        return entry
    if len(states) > 1 and not has_buffers(content):
        raise UserError(f"entry: {path} holds several states; choose one of {', '.join(map(str, states))}")
    return str(states[0]) if states and not has_buffers(content) else None
