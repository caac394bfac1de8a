"""Batches as users have them, read as often as a diagnosis needs, and a model's answer to one."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.utils._pytree import tree_leaves, tree_map

from bnstudy.errors import UserError, one_line
from bnstudy.factories import traced

Batches = Iterable[Any] | Callable[[], Iterable[Any]]
"""A list, a DataLoader, or a function that returns an iterator; of inputs, or pairs (inputs, targets)."""


class Batch(NamedTuple):
    """A batch on the model's device.

    Args:
        inputs: what the model is called with, in the types that it came in: see `answer`.
        targets: what the metric is given; None without.
        samples: how many.
    """

    inputs: Any
    targets: Any
    samples: int


@dataclass(frozen=True)
class Source:
    """Where batches come from.

    Args:
        batches: see `Batches`.
        key: what named them, for messages.
        device: to put them on.
        limit: batches to use at most; None for all.

    Raises:
        UserError: what holds no batches, or can be read only once; and, as they are read, whatever is wrong with one.
    """

    batches: Batches
    key: str
    device: torch.device
    limit: int | None = None
    _given: list[Iterable[Any]] = field(default_factory=list, init=False, repr=False, compare=False)
    """What the last pass read: an iterator cannot be read again."""
    _counted: list[int] = field(default_factory=list, init=False, repr=False, compare=False)
    """Batches of every pass that came to its end."""

    def __post_init__(self) -> None:
        kind, readable = type(self.batches).__name__, "use a list, a DataLoader, or a function that returns an iterator"
        if not callable(self.batches) and isinstance(self.batches, Iterator):
            raise UserError(f"{self.key}: a {kind} can be read only once, and several passes are needed; {readable}")
        if not callable(self.batches) and not isinstance(self.batches, Iterable):
            raise UserError(f"{self.key}: something of type {kind} holds no batches; {readable}")
        if self.limit is not None and self.limit < 1:
            raise UserError(f"limit: {self.limit} leaves no batch; use 1 or more, or None")

    def __iter__(self) -> Iterator[Batch]:
        count = 0
        for count, item in enumerate(self._read(), start=1):
            yield self._batch(item, count)
        if count == 0 and self._counted:
            raise UserError(
                f"{self.key}: a later pass finds no batch, and several are needed; use a list, a DataLoader, or a function "
                "that returns a new iterator for every call"
            )
        if count == 0:
            raise UserError(f"{self.key}: there is no batch in it; give at least one, better twenty or more")
        self._counted.append(count)

    def _read(self) -> Iterator[Any]:
        try:
            given = self.batches() if callable(self.batches) else self.batches
            kind = type(given).__name__
            if not isinstance(given, Iterable):
                raise UserError(
                    f"{self.key}: the function returned something of type {kind}; an iterable of batches expected"
                )
            if isinstance(given, Iterator) and any(given is former for former in self._given):
                raise UserError(
                    f"{self.key}: the function returned the same {kind} twice, and several passes are needed; a new one "
                    "for every call expected"
                )
            self._given[:] = [given]
            yield from islice(iter(given), self.limit)
        except UserError:
            raise
        except Exception as error:
            raise UserError(
                f"{self.key}: reading a batch fails ({_reason(error, traced)}); readable batches expected"
            ) from error

    @property
    def expected(self) -> int | None:
        """How many batches there will be, where that can be told beforehand, or from a pass before."""
        try:
            size = len(self.batches)  # type: ignore[arg-type]
        except TypeError:
            return self._counted[-1] if self._counted else self.limit
        return size if self.limit is None else min(size, self.limit)

    def _batch(self, item: Any, number: int) -> Batch:
        inputs, targets = item, None
        if isinstance(item, tuple | list) and item and not isinstance(item, PackedSequence):
            if len(item) > 2:
                raise UserError(
                    f"{self.key}: batch {number} has {len(item)} parts; give inputs, or pairs (inputs, targets), each of "
                    "which may be a list or a mapping"
                )
            inputs, targets = item[0], item[1] if len(item) > 1 else None
        inputs, targets = moved(inputs, self.device), moved(targets, self.device)
        found = list(tensors(inputs))
        if not found:
            raise UserError(
                f"{self.key}: batch {number} is a {type(item).__name__} without a tensor of inputs; give tensors, or pairs "
                "(inputs, targets)"
            )
        for tensor in found:
            if _dense(tensor) and bool((tensor.isnan() | tensor.isposinf()).any()):  # -∞ is what attention masks are made of
                raise UserError(f"{self.key}: batch {number} has inputs that are not finite; clean the data first")
        packed = [leaf for leaf in tree_leaves(inputs, is_leaf=_whole) if isinstance(leaf, PackedSequence)]
        samples = int(packed[0].batch_sizes[0]) if packed else next((len(part) for part in found if part.dim() > 0), 1)
        if samples == 0:
            raise UserError(f"{self.key}: batch {number} has no samples; leave it out")
        return Batch(inputs, targets, samples)


def answer(model: nn.Module, batch: Batch, key: str = "batches") -> Tensor:
    """The model's outputs for a batch: its tensor, or the first floating-point one of what it returns, scalars last.

    A mapping is given by keywords if the model takes its keys for arguments, a tuple or a list as arguments if the model
    cannot be called with a single one; everything else, and these otherwise, as the only argument.

    Raises:
        UserError: the model fails, or a batch leaves a layer one value per channel, or there is no tensor in the outputs, or
            an empty one.
    """
    inputs = batch.inputs
    try:
        if isinstance(inputs, Mapping) and _takes(model, **inputs):
            outputs = model(**inputs)
        elif isinstance(inputs, tuple | list) and not isinstance(inputs, PackedSequence) and not _takes(model, inputs):
            outputs = model(*inputs)
        else:
            outputs = model(inputs)
    except Exception as error:
        reason = _reason(error, one_line)
        if "more than 1 value per channel" in reason:
            raise UserError(
                f"{key}: a batch of {batch.samples} leaves a layer one value per channel ({reason}); use batches of 2 or "
                "more, and drop_last=True for a remainder of 1"
            ) from error
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in tensors(inputs))
        several = ", several inputs by name" if isinstance(inputs, tuple | list) else ""
        raise UserError(
            f"{key}: the model fails on inputs of shape {shapes} ({reason}); give batches as model(inputs) takes "
            f"them{several}"
        ) from error
    found = [tensor for tensor in _outputs(outputs) if _dense(tensor)]
    if not found:
        raise UserError(
            f"model: it returns a {type(outputs).__name__} without a dense floating-point tensor; outputs expected"
        )
    first = next((tensor for tensor in found if tensor.dim() > 0), found[0])  # a scalar is a loss, next to the outputs
    if first.numel() == 0:
        raise UserError(f"model: its outputs for {key} are empty, of shape {tuple(first.shape)}; numbers expected")
    return first.clone()  # a model may give the same memory again for the next batch


def apart(outputs: Tensor, base: Tensor) -> float:
    """Sum of squared differences of two answers to the same batch.

    Raises:
        UserError: they differ in shape, as selected detections do.
    """
    if outputs.shape != base.shape:
        raise UserError(
            f"model: its outputs are of shape {tuple(base.shape)} on batch statistics and {tuple(outputs.shape)} "
            "otherwise; give one with the same outputs in every mode, before anything is selected among them"
        )
    return float((outputs.double() - base.double()).square().sum())


def moved(value: Any, device: torch.device) -> Any:
    """The same on a device, in the types that it came in; what moves itself, such as a packed sequence, does so."""

    def move(leaf: Any) -> Any:
        if isinstance(leaf, Tensor):
            return leaf.to(device, non_blocking=True)
        if _whole(leaf):
            return leaf.to(device)
        if isinstance(leaf, Mapping):  # of a class of its own, which may have more to it than its items
            parts = {key: moved(part, device) for key, part in leaf.items()}
            if not isinstance(leaf, MutableMapping):
                return parts
            leaf = copy.copy(leaf)
            leaf.update(parts)
        elif is_dataclass(leaf) and not isinstance(leaf, type):
            return replace(
                leaf, **{part.name: moved(getattr(leaf, part.name), device) for part in fields(leaf) if part.init}
            )
        return leaf

    return tree_map(move, value, is_leaf=_whole)


def tensors(value: Any) -> Iterator[Tensor]:
    """The tensors in what loaders give, in order."""
    for leaf in tree_leaves(value):
        if isinstance(leaf, Tensor):
            yield leaf
        elif isinstance(leaf, Mapping):
            yield from tensors(list(leaf.values()))
        elif _whole(leaf) or (is_dataclass(leaf) and not isinstance(leaf, type)):
            yield from tensors(list(vars(leaf).values()))


def _whole(value: Any) -> bool:
    """What is moved as a whole rather than part by part."""
    return callable(getattr(type(value), "to", None))


def _outputs(value: Any) -> Iterator[Tensor]:
    """The tensors in what models return, in order; of names, `logits` and `out` first."""
    if is_dataclass(value) and not isinstance(value, Mapping):
        value = {part.name: getattr(value, part.name) for part in fields(value)}
    elif isinstance(value, tuple) and hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, Mapping):
        value = [value[name] for name in sorted(value, key=lambda name: name not in ("logits", "out"))]
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for part in value:
            yield from _outputs(part)


def _takes(model: nn.Module, *args: Any, **named: Any) -> bool:
    """Whether a model can be called so, by the signature of its forward function."""
    inner: Any = model
    while isinstance(inner, nn.Module):  # what torch.compile and DataParallel wrap
        model = inner
        wrapped = isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel)
        inner = model.module if wrapped else getattr(model, "_orig_mod", None)
    try:
        inspect.signature(model.forward).bind(*args, **named)
    except TypeError:
        return False
    except ValueError:  # no signature to be had
        return True
    return True


def _dense(tensor: Tensor) -> bool:
    """Whether a tensor holds floating-point numbers in the usual way: neither sparse nor nested."""
    return tensor.is_floating_point() and tensor.layout == torch.strided and not tensor.is_nested


def _reason(error: Exception, line: Callable[[BaseException], str]) -> str:
    """An exception on one line; of one from a loader's worker the last line, which is the exception itself."""
    lines = str(error).strip().splitlines()
    return lines[-1][:200] if lines and lines[0].startswith("Caught ") else line(error)
