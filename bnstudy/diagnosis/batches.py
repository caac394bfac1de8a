"""Batches as users have them, read as often as a diagnosis needs, and a model's answer to one."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from bnstudy.errors import UserError, one_line

Batches = Iterable[Any] | Callable[[], Iterable[Any]]
"""A list, a DataLoader, or a function that returns an iterator; of inputs, or pairs (inputs, targets)."""


class Batch(NamedTuple):
    """A batch on the model's device.

    Args:
        inputs: what the model is called with: a tensor, a mapping of keyword arguments, or a list: the only argument, or all
            arguments of a model that cannot be called with a single one.
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
        key: its name in messages.
        device: where the model is.
        limit: batches to take from it at most; None for all.
    """

    batches: Batches
    key: str
    device: torch.device
    limit: int | None = None
    _given: list[Iterable[Any]] = field(default_factory=list, init=False, repr=False, compare=False)
    """What the last pass read: an iterator cannot be read again."""

    def __post_init__(self) -> None:
        if not callable(self.batches) and isinstance(self.batches, Iterator):
            raise UserError(
                f"{self.key}: a {type(self.batches).__name__} can be read only once, and several passes are needed; use a "
                "list, a DataLoader, or a function that returns an iterator"
            )
        if not callable(self.batches) and not isinstance(self.batches, Iterable):
            raise UserError(
                f"{self.key}: something of type {type(self.batches).__name__} holds no batches; use a list, a DataLoader, "
                "or a function that returns an iterator"
            )
        if self.limit is not None and self.limit < 1:
            raise UserError(f"limit: {self.limit} leaves no batch; use 1 or more, or None")

    def __iter__(self) -> Iterator[Batch]:
        count = 0
        for count, item in enumerate(self._read(), start=1):
            yield self._batch(item, count)
        if count == 0:
            raise UserError(f"{self.key}: there is no batch in it; give at least one, better twenty or more")

    def _read(self) -> Iterator[Any]:
        try:
            given = self.batches() if callable(self.batches) else self.batches
            if not isinstance(given, Iterable):
                raise UserError(
                    f"{self.key}: the function returned something of type {type(given).__name__}; an iterable of batches "
                    "expected"
                )
            if isinstance(given, Iterator) and any(given is former for former in self._given):
                raise UserError(
                    f"{self.key}: the function returned the same {type(given).__name__} twice, and several passes are "
                    "needed; a new one for every call expected"
                )
            again, self._given[:] = bool(self._given), [given]
            empty = True
            for item in islice(iter(given), self.limit):
                empty = False
                yield item
            if empty and again:
                raise UserError(
                    f"{self.key}: a later pass finds no batch, and several are needed; use a list, a DataLoader, or a "
                    "function that returns a new iterator for every call"
                )
        except UserError:
            raise
        except Exception as error:
            raise UserError(f"{self.key}: reading a batch fails ({_said(error)}); readable batches expected") from error

    @property
    def expected(self) -> int | None:
        """How many batches there will be, where that can be told beforehand."""
        try:
            size = len(self.batches)  # type: ignore[arg-type]
        except TypeError:
            return self.limit
        return size if self.limit is None else min(size, self.limit)

    def _batch(self, item: Any, number: int) -> Batch:
        inputs, targets = item, None
        if isinstance(item, tuple | list) and item:
            if len(item) > 2:
                raise UserError(
                    f"{self.key}: batch {number} has {len(item)} parts; give inputs, or pairs (inputs, targets), each of "
                    "which may be a list or a mapping"
                )
            inputs, targets = item[0], item[1] if len(item) > 1 else None
        inputs, targets = _moved(inputs, self.device), _moved(targets, self.device)
        tensors = list(_tensors(inputs))
        if not tensors:
            raise UserError(
                f"{self.key}: batch {number} is a {type(item).__name__} without a tensor of inputs; give tensors, or pairs "
                "(inputs, targets)"
            )
        for tensor in tensors:
            if _dense(tensor) and bool((tensor.isnan() | tensor.isposinf()).any()):  # -∞ is what attention masks are made of
                raise UserError(f"{self.key}: batch {number} has inputs that are not finite; clean the data first")
        samples = next((len(tensor) for tensor in tensors if tensor.dim() > 0), 1)
        if samples == 0:
            raise UserError(f"{self.key}: batch {number} has no samples; leave it out")
        return Batch(inputs, targets, samples)


def answer(model: nn.Module, batch: Batch, key: str = "batches") -> Tensor:
    """The model's outputs for a batch: its tensor, or the first floating-point one of what it returns, scalars last.

    Raises:
        UserError: the model fails, or a batch leaves a layer one value per channel, or there is no tensor in the outputs, or
            an empty one.
    """
    try:
        if isinstance(batch.inputs, Mapping):
            outputs = model(**batch.inputs)
        elif isinstance(batch.inputs, list) and not _takes_one(model):
            outputs = model(*batch.inputs)
        else:
            outputs = model(batch.inputs)
    except Exception as error:
        said = _said(error)
        if "more than 1 value per channel" in said:
            raise UserError(
                f"{key}: a batch of {batch.samples} leaves a layer one value per channel ({said}); use batches of 2 or "
                "more, and drop_last=True for a remainder of 1"
            ) from error
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in _tensors(batch.inputs))
        raise UserError(
            f"{key}: the model fails on inputs of shape {shapes} ({said}); give batches as model(inputs) takes "
            f"them{', several inputs by name' if isinstance(batch.inputs, list) else ''}"
        ) from error
    found = [tensor for tensor in _tensors(outputs) if _dense(tensor)]
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


def _takes_one(model: nn.Module) -> bool:
    """Whether a model can be called with a single argument."""
    while isinstance(inner := getattr(model, "_orig_mod", None) or _wrapped(model), nn.Module):
        model = inner
    try:
        inspect.signature(model.forward).bind(None)
    except TypeError:
        return False
    except ValueError:  # no signature to be had
        return True
    return True


def _wrapped(model: nn.Module) -> nn.Module | None:
    return model.module if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel) else None


def _dense(tensor: Tensor) -> bool:
    """Whether a tensor holds floating-point numbers in the usual way: neither sparse nor nested."""
    return tensor.is_floating_point() and tensor.layout == torch.strided and not tensor.is_nested


def _said(error: Exception) -> str:
    """An exception on one line; of one from a loader's worker the last line, which is the exception itself."""
    lines = str(error).strip().splitlines()
    if lines and lines[0].startswith("Caught "):
        return lines[-1][:200]
    return one_line(error)


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, Mapping):
        return {key: _moved(part, device) for key, part in value.items()}
    if isinstance(value, tuple | list):
        return [_moved(part, device) for part in value]
    return value


def _tensors(value: Any) -> Iterator[Tensor]:
    """The tensors in what loaders give and models return, in order; of a mapping, `logits` and `out` first."""
    if is_dataclass(value) and not isinstance(value, Mapping):
        value = {each.name: getattr(value, each.name) for each in fields(value)}
    elif isinstance(value, tuple) and hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        first = [name for name in ("logits", "out") if name in value]
        for name in [*first, *(name for name in value if name not in first)]:
            yield from _tensors(value[name])
    elif isinstance(value, tuple | list):
        for part in value:
            yield from _tensors(part)
