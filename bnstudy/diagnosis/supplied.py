"""What a user supplies by name on the command line: a model, batches, a metric, a device."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from bnstudy.diagnosis.scoring import NAMED, Metric
from bnstudy.errors import UserError
from bnstudy.factories import call_factory, load_factory, traced

DEVICES = ("auto", "cpu", "cuda")


def device_named(name: str) -> torch.device:
    """The device "cpu" or "cuda", or with "auto" the GPU if there is one.

    Raises:
        UserError: another name, or no GPU.
    """
    if name not in DEVICES:
        raise UserError(f"--device: {name!r} is unknown; use {', '.join(DEVICES)}")
    there = torch.cuda.is_available()
    if name == "cuda" and not there:
        raise UserError("--device: 'cuda' is not there; use cpu or auto")
    return torch.device("cuda" if there and name != "cpu" else "cpu")


def model_named(spec: str) -> nn.Module:
    """The model that the function `spec` returns.

    Raises:
        UserError: no such function, it fails, or returns something else.
    """
    model = call_factory("--model", spec, (), {}, f"{spec.rpartition(':')[2]}()")
    if not isinstance(model, nn.Module):
        raise UserError(f"--model: {spec!r} returns {_kind(model)}; a torch.nn.Module expected")
    return model


class SuppliedBatches(Iterable[Any]):
    """Batches from the function that `spec` names, as often as they are wanted.

    It is called once if it returns a list, a DataLoader or anything else that can be read again, and once a pass if it
    returns an iterator.

    Args:
        option: what named it, for messages.
        spec: `pkg.module:function`.

    Raises:
        UserError: no such function, or it fails, at once or later; or returns something else.
    """

    def __init__(self, option: str, spec: str) -> None:
        self._option, self._spec = option, spec
        given = self._call()
        self._kept = None if isinstance(given, Iterator) else given
        self._counted: int | None = None

    def __len__(self) -> int:
        """Number of batches; TypeError where that cannot be told, as of an iterator before the first pass to its end."""
        return len(self._kept) if self._counted is None else self._counted  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[Any]:
        """A pass over them."""
        given = self._call() if self._kept is None else self._kept
        count = 0
        try:
            for batch in given:
                count += 1
                yield batch
        except UserError:
            raise
        except Exception as error:
            raise UserError(f"{self._option}: reading batches of {self._spec!r} raises {traced(error)}") from error
        self._counted = count

    def _call(self) -> Iterable[Any]:
        given = call_factory(self._option, self._spec, (), {}, f"{self._spec.rpartition(':')[2]}()")
        if not isinstance(given, Iterable):
            raise UserError(f"{self._option}: {self._spec!r} returns {_kind(given)}; an iterable of batches expected")
        return given


def metric_named(name: str | None) -> str | Mapping[str, Metric] | None:
    """A metric as `bnstudy.diagnose` takes it: one of its names, or a function `pkg.module:function` by its own name.

    Raises:
        UserError: neither.
    """
    if name is None or name in NAMED:
        return name
    if ":" not in name:
        raise UserError(f"--metric: {name!r} is unknown; use {', '.join(NAMED)}, or pkg.module:function")
    return {name.rpartition(":")[2]: load_factory("--metric", name)}


def _kind(value: object) -> str:
    return "nothing" if value is None else f"something of type {type(value).__name__}"
