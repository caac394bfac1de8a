"""Batches as users have them, read as often as a diagnosis needs, and a model's answer to one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from bnstudy.errors import UserError

Batches = Iterable[Any] | Callable[[], Iterable[Any]]
"""A list, a DataLoader, or a function that returns an iterator; of inputs, or pairs (inputs, targets)."""


class Batch(NamedTuple):
    """A batch on the model's device.

    Args:
        inputs: what the model is called with: a tensor, a sequence of arguments, or a mapping of keyword arguments.
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

    def __post_init__(self) -> None:
        if not callable(self.batches) and isinstance(self.batches, Iterator):
            raise UserError(
                f"{self.key}: a {type(self.batches).__name__} can be read only once, and several passes are needed; "
                "use a list, a DataLoader, or a function that returns an iterator"
            )
        if not callable(self.batches) and not isinstance(self.batches, Iterable):
            raise UserError(
                f"{self.key}: something of type {type(self.batches).__name__} holds no batches; use a list, a DataLoader, "
                "or a function "
                "that returns an iterator"
            )
        if self.limit is not None and self.limit < 1:
            raise UserError(f"limit: {self.limit} leaves no batch; use 1 or more, or None")

    def __iter__(self) -> Iterator[Batch]:
        given = self.batches() if callable(self.batches) else self.batches
        if not isinstance(given, Iterable):
            raise UserError(
                f"{self.key}: the function returned something of type {type(given).__name__}; an iterable of batches "
                "expected"
            )
        count = 0
        for count, item in enumerate(islice(iter(given), self.limit), start=1):
            yield self._batch(item, count)
        if count == 0:
            raise UserError(f"{self.key}: there is no batch in it; give at least one, better twenty or more")

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
            inputs, targets = item[0], item[1] if len(item) > 1 else None
        inputs, targets = _moved(inputs, self.device), _moved(targets, self.device)
        tensors = list(_tensors(inputs))
        if not tensors:
            raise UserError(
                f"{self.key}: batch {number} is a {type(item).__name__} without a tensor of inputs; "
                "give tensors, or pairs (inputs, targets)"
            )
        for tensor in tensors:
            if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
                raise UserError(f"{self.key}: batch {number} has inputs that are not finite; clean the data first")
        return Batch(inputs, targets, len(tensors[0]))


def answer(model: nn.Module, batch: Batch, key: str = "batches") -> Tensor:
    """The model's outputs for a batch: its tensor, or the first floating-point one of what it returns.

    Raises:
        UserError: the model fails, or a batch leaves a layer one value per channel, or there is no tensor in the outputs.
    """
    try:
        outputs = model(**batch.inputs) if isinstance(batch.inputs, Mapping) else model(batch.inputs)
    except Exception as error:
        said = (str(error).strip().splitlines() or [""])[0][:200]
        if "more than 1 value per channel" in said:
            raise UserError(
                f"{key}: a batch of {batch.samples} leaves a layer one value per channel ({said}); "
                "use batches of 2 or more, and drop_last=True for a remainder of 1"
            ) from error
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in _tensors(batch.inputs))
        raise UserError(
            f"{key}: the model fails on inputs of shape {shapes} ({type(error).__name__}: {said}); "
            "give batches as model(inputs) takes them"
        ) from error
    found = next((tensor for tensor in _tensors(outputs) if tensor.is_floating_point()), None)
    if found is None:
        raise UserError(f"model: it returns a {type(outputs).__name__} without a floating-point tensor; outputs expected")
    return found


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
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        first = [name for name in ("logits", "out") if name in value]
        for name in [*first, *(name for name in value if name not in first)]:
            yield from _tensors(value[name])
    elif isinstance(value, tuple | list):
        for part in value:
            yield from _tensors(part)
