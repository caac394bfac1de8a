"""A model's weights: from a file into the model, and back into a file with new running statistics."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from bnstudy.analysis.wording import plural
from bnstudy.diagnosis.normlayers import norm_layers
from bnstudy.errors import UserError
from bnstudy.frameworks.translate import files

_WRAPPERS = ("module.", "_orig_mod.")
"""What DataParallel and torch.compile put before every name."""
_COUNT = "num_batches_tracked"


@dataclass(frozen=True)
class Weights:
    """Where a model's weights come from.

    Args:
        path: the file; None for a model that was built with them.
        checkpoint: its content.
        prefix: what its keys have before the model's.
        notes: what the user should know, a line each.
    """

    path: Path | None = None
    checkpoint: files.Checkpoint | None = None
    prefix: str = ""
    notes: tuple[str, ...] = ()


def load_weights(model: nn.Module, path: Path, entry: str | None = None) -> Weights:
    """Load a file's tensors into a model by name.

    Missing BatchNorm buffers are told and leave what the model was built with, since that is one of the faults to find;
    without a count of batches, the layer counts as one that does not count. Whatever else is missing is an error.

    Args:
        model: changed in place.
        path: a safetensors or torch file (read with weights_only).
        entry: key of the state in a torch file that holds several. Default: the only one there is.

    Raises:
        UserError: no such file, unreadable, no state in it, or one that does not fit the model.
    """
    try:
        checkpoint = files.load(path, entry)
    except UserError as error:
        text = str(error)
        for key, option in (("IN", "--weights"), ("entry", "--entry")):
            text = option + text.removeprefix(key) if text.startswith(f"{key}: ") else text
        raise UserError(text) from error
    state = checkpoint.state
    if not state:
        keys = [str(key) for key, value in checkpoint.content.items() if isinstance(value, Mapping)]
        offered = f"name the state with --entry: {', '.join(keys[:6])}" if keys else "save a state_dict()"
        raise UserError(f"--weights: {path} holds no tensors by name at its top; {offered}")
    own = model.state_dict(keep_vars=True)
    prefix = _prefix(state, own)
    given = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    buffers = {
        f"{name}.{buffer}" if name else buffer
        for layer in norm_layers(model)
        for name in _paths(model, layer.module)
        for buffer in (*layer.buffers, _COUNT)
    }
    notes = [f"names in {path} begin with {prefix!r}; that is left out"] if prefix else []
    notes += _check(path, own, given, buffers)
    try:
        model.load_state_dict(given, strict=False)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()]
        raise UserError(f"--weights: {path} does not fit the model ({(lines[1:] or lines)[0][:200]})") from error
    for layer in norm_layers(model):
        names = [f"{name}." if name else "" for name in _paths(model, layer.module)]
        counted = any(f"{name}{_COUNT}" in given for name in names)
        if layer.updates is not None and not counted and any(f"{name}{layer.buffers[1]}" in given for name in names):
            layer.module._buffers[_COUNT] = None  # 0 would say that no batch was ever seen
    return Weights(path, checkpoint, prefix, tuple(notes))


def check_output(option: str, out: Path, weights: Weights, overwrite: bool) -> None:
    """Refuse a file that cannot or may not be written, before anything is measured.

    Args:
        option: what named it, for the message.
        out: the file.
        weights: what it will be made from.
        overwrite: whether it may exist.

    Raises:
        UserError: an unknown suffix, a file that exists, the weights' own, no folder, or more than safetensors can hold.
    """
    files.check_suffix(out, option)
    if weights.path is not None and out.resolve() == weights.path.resolve():
        raise UserError(f"{option}: {out} is the file of the weights; name another")
    if out.is_dir():
        raise UserError(f"{option}: {out} is a folder; name a file")
    if out.exists() and not overwrite:
        raise UserError(f"{option}: {out} exists; name another file, or give --overwrite")
    if not out.parent.is_dir():
        raise UserError(f"{option}: folder {out.parent} does not exist")
    checkpoint = weights.checkpoint
    if checkpoint is None or out.suffix not in files.SAFETENSORS:
        return
    if not checkpoint.flat:
        raise UserError(f"{option}: safetensors holds one flat state and {weights.path} holds more; use .pt")


def writer(model: nn.Module, weights: Weights, new: Mapping[str, Tensor], out: Path) -> Callable[[IO[bytes]], object]:
    """A function that writes the weights with new buffers to a file, all other content as it was.

    Args:
        model: with its weights loaded; its state_dict is what is written where there is no file of weights.
        weights: where they came from.
        new: new buffers, by the model's own keys.
        out: the file, whose suffix says the format.
    """
    changed = {weights.prefix + key: value.cpu() for key, value in new.items()}
    checkpoint = weights.checkpoint
    if checkpoint is None:
        content: dict[str, Any] = {
            key: value.cpu() if isinstance(value, Tensor) else value for key, value in model.state_dict().items()
        }
        checkpoint = files.Checkpoint(content, (), None, keeps_order=True)
    result = checkpoint.with_state(changed)
    return lambda file: files.save(result, out.suffix, file)


def _prefix(state: Mapping[str, Tensor], own: Mapping[str, Any]) -> str:
    """What wrappers put before the names in a file, and the model does not have."""
    prefix = ""
    while wrapper := next((one for one in _WRAPPERS if all(key.startswith(prefix + one) for key in state)), ""):
        if all(key.startswith(prefix + wrapper) for key in own):
            break
        prefix += wrapper
    return prefix


def _check(path: Path, own: Mapping[str, Any], given: Mapping[str, Tensor], buffers: set[str]) -> list[str]:
    """What the user should know of a state that fits; an error where it does not."""
    held = {id(own[key]) for key in given if key in own}
    missing = [key for key, value in own.items() if key not in given and id(value) not in held]
    unexpected = [key for key in given if key not in own]
    needed = [key for key in missing if key not in buffers and isinstance(own[key], Tensor)]
    if needed:
        others = f" and {plural(len(needed) - 1, 'other tensor')}" if len(needed) > 1 else ""
        has = f"; it has {unexpected[0]!r}, which the model has not" if unexpected else ""
        raise UserError(f"--weights: {path} lacks {needed[0]!r}{others} of the model's {len(own)}{has}")
    for key, value in given.items():
        if key in own and not is_lazy(own[key]) and own[key].shape != value.shape:
            shapes = f"{tuple(value.shape)} in {path} and {tuple(own[key].shape)} in the model"
            raise UserError(f"--weights: {key!r} has shape {shapes}; weights of this very model expected")
    notes = []
    statistics = [key for key in missing if key in buffers and not key.endswith("num_batches_tracked")]
    if statistics:
        notes.append(
            f"{path} lacks {plural(len(statistics), 'BatchNorm buffer')}, {statistics[0]!r} first: the model's own are "
            "left as they were built"
        )
    if unexpected:
        notes.append(f"{path} holds {plural(len(unexpected), 'tensor')} that the model has not, {unexpected[0]!r} first")
    return notes


def _paths(model: nn.Module, wanted: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules(remove_duplicate=False) if module is wanted]
