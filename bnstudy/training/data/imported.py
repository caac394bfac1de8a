"""Data of the user's own: what a factory has to give, and what it gives turned into arrays like any other's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bnstudy.errors import UserError
from bnstudy.factories import call_factory, source_digest
from bnstudy.training.config import DatasetConfig
from bnstudy.training.data.arrays import Array, Arrays
from bnstudy.training.data.registry import DatasetShape
from bnstudy.training.imported import arguments_text, check_fields, check_source

KEY = "dataset.factory"
CALL = "load(**dataset.args)"
_Key = tuple[str, str, str]
_shapes: dict[_Key, DatasetShape] = {}
_waiting: dict[_Key, Arrays] = {}  # the last arrays whose shape was asked for, until it is read


def imported_shape(config: DatasetConfig) -> DatasetShape:
    """The shape of the whole of an imported data set. The factory has to be called for it, once in a process.

    Args:
        config: with `factory` and `args`.

    Raises:
        UserError: see `imported_arrays`.
    """
    key = _key(config)
    if key not in _shapes:
        arrays, shape = _load(config)
        _shapes[key] = shape
        _waiting.clear()  # one set waits at most: a plan may ask for many
        _waiting[key] = arrays
    return _shapes[key]


def imported_arrays(config: DatasetConfig) -> Arrays:
    """Both splits of data of the user's own, in the factory's order.

    The factory is called as `load(**args)` and returns a mapping with, or a tuple of,

        train_inputs, test_inputs      (n, features) or (n, channels, *spatial); numbers, all finite; arrays or tensors
        train_targets, test_targets    (n,) integers 0…K−1: a classification; or (n,) or (n, K) floats: a regression

    What is random in it must come from a seed of its own: it is called in every process that needs the data.

    Args:
        config: with `factory` and `args`.

    Returns:
        uint8 for images given as such; float32 or float64 for everything else.

    Raises:
        UserError: one line, if the factory is not there, raises, or returns something else.

    Source: docs/architecture.md, "How to add".
    """
    imported_shape(config)
    waiting = _waiting.pop(_key(config), None)
    return _load(config)[0] if waiting is None else waiting


def _key(config: DatasetConfig) -> _Key:
    check_fields("dataset", config)
    check_source("dataset", config)
    factory = config.factory or ""
    return factory, arguments_text(config), source_digest(KEY, factory)


def _load(config: DatasetConfig) -> tuple[Arrays, DatasetShape]:
    spec = config.factory or ""
    given = _four(spec, call_factory(KEY, spec, (), config.args, CALL))
    train_inputs, train_targets, test_inputs, test_targets = (
        _array(spec, name, value) for name, value in zip(Arrays._fields, given, strict=True)
    )
    for split, inputs, targets in (("train", train_inputs, train_targets), ("test", test_inputs, test_targets)):
        _check_inputs(spec, f"{split}_inputs", inputs)
        if len(targets) != len(inputs):
            raise _wrong(spec, f"{len(inputs)} {split}_inputs and {len(targets)} {split}_targets", "as many of either")
    if train_inputs.shape[1:] != test_inputs.shape[1:]:
        shapes = f"train_inputs of shape {train_inputs.shape} and test_inputs of shape {test_inputs.shape}"
        raise _wrong(spec, shapes, "inputs of one shape")
    kinds = [np.issubdtype(targets.dtype, np.floating) for targets in (train_targets, test_targets)]
    if kinds[0] != kinds[1]:
        dtypes = f"train_targets of dtype {train_targets.dtype} and test_targets of dtype {test_targets.dtype}"
        raise _wrong(spec, dtypes, "integers for a classification, or floats for a regression, in both")
    classify = _regression if kinds[0] else _classification
    (train_targets, test_targets), outputs = classify(spec, train_targets, test_targets)
    arrays = Arrays(_numbers(train_inputs), train_targets, _numbers(test_inputs), test_targets)
    task = "regression" if kinds[0] else "classification"
    shape = DatasetShape(task, train_inputs.shape[1:], outputs, len(train_inputs), len(test_inputs))
    return arrays, shape


def _four(spec: str, value: Any) -> Sequence[Any]:
    names = Arrays._fields
    if isinstance(value, Mapping):
        if absent := [name for name in names if name not in value]:
            has = ", ".join(map(repr, value)) or "nothing"
            raise _wrong(spec, f"a mapping without {', '.join(absent)} (it has {has})", f"the keys {', '.join(names)}")
        return [value[name] for name in names]
    if isinstance(value, tuple | list) and len(value) == len(names):
        return value
    what = f"{len(value)} values" if isinstance(value, tuple | list) else f"a {type(value).__name__}"
    raise _wrong(spec, what, f"a mapping or a tuple of {', '.join(names)}")


def _array(spec: str, name: str, value: Any) -> Array:
    try:
        if hasattr(value, "detach"):  # a tensor; torch need not be imported for those who give arrays
            value = value.detach().cpu()
            value = (value.float() if str(value.dtype) == "torch.bfloat16" else value).numpy()
        array = np.asarray(value)
    except Exception as error:  # foreign objects can fail in any way
        raise _wrong(spec, f"{name} as a {type(value).__name__} that is no array", "arrays or tensors of numbers") from error
    if array.dtype.kind not in "biuf":
        raise _wrong(spec, f"{name} of dtype {array.dtype} ({type(value).__name__})", "arrays or tensors of numbers")
    if array.ndim == 0 or array.size == 0:
        raise _wrong(spec, f"{name} of shape {array.shape}", "one sample or more")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        bad = int(array.size - np.isfinite(array).sum())
        raise _wrong(spec, f"{name} with {bad} values that are NaN or infinite", "finite numbers")
    return array


def _check_inputs(spec: str, name: str, array: Array) -> None:
    if array.ndim < 2:
        raise _wrong(spec, f"{name} of shape {array.shape}", "(n, features) or (n, channels, height, width)")


def _numbers(inputs: Array) -> Array:
    """Images of bytes stay what they are, and so do floats; everything else is made float64."""
    if inputs.dtype in (np.float32, np.float64) or (inputs.dtype == np.uint8 and inputs.ndim == 4):
        return inputs
    return inputs.astype(np.float32 if inputs.dtype == np.float16 else np.float64)


def _classification(spec: str, *targets: Array) -> tuple[list[Array], int]:
    for name, array in zip(("train_targets", "test_targets"), targets, strict=True):
        if array.ndim != 1:
            raise _wrong(spec, f"{name} of shape {array.shape} and dtype {array.dtype}", "(n,) class numbers, or floats")
    labels = np.unique(np.concatenate([array.astype(np.int64) for array in targets]))
    if len(labels) < 2 or labels[0] != 0 or labels[-1] != len(labels) - 1:
        shown = ", ".join(map(str, labels[:6])) + (f", …, {labels[-1]}" if len(labels) > 6 else "")
        raise _wrong(spec, f"targets of the classes {shown}", "0 to K−1 without gaps, K ≥ 2; or floats for a regression")
    return [array.astype(np.int64) for array in targets], len(labels)


def _regression(spec: str, *targets: Array) -> tuple[list[Array], int]:
    columns = [array[:, None] if array.ndim == 1 else array for array in targets]
    for name, array in zip(("train_targets", "test_targets"), columns, strict=True):
        if array.ndim != 2 or array.shape[1] != columns[0].shape[1]:
            raise _wrong(spec, f"{name} of shape {array.shape}", "(n,) or (n, outputs), with as many outputs in both splits")
    return [array.astype(np.float64) for array in columns], columns[0].shape[1]


def _wrong(spec: str, what: str, accepted: str) -> UserError:
    return UserError(f"{KEY}: {spec!r} gives {what}; use {accepted}")
