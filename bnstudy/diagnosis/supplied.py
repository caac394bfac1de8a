"""What a user supplies by name on the command line: a model, batches, a metric, a device."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import nn

from bnstudy.diagnosis.batches import Batches
from bnstudy.diagnosis.scoring import NAMED, Metric
from bnstudy.errors import UserError
from bnstudy.factories import call_factory, load_factory

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
    model = _called("--model", spec)
    if not isinstance(model, nn.Module):
        raise UserError(f"--model: {spec!r} returns {_kind(model)}; a torch.nn.Module expected")
    return model


def batches_named(option: str, spec: str) -> Batches:
    """Batches from the function `spec`: what it returns, if that can be read again; else the function, for every pass.

    Args:
        option: what named it, for messages.
        spec: `pkg.module:function`.

    Raises:
        UserError: no such function, or it fails, at once or later; or returns something else.
    """
    given = _called(option, spec)
    if not isinstance(given, Iterable):
        raise UserError(f"{option}: {spec!r} returns {_kind(given)}; an iterable of batches expected")
    if isinstance(given, Iterator):
        return partial(_called, option, spec)
    batches: Iterable[Any] = given
    return batches


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


def _called(option: str, spec: str) -> Any:
    return call_factory(option, spec, (), {}, f"{spec.rpartition(':')[2]}()")


def _kind(value: object) -> str:
    return "nothing" if value is None else f"something of type {type(value).__name__}"
