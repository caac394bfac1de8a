"""Networks of the user's own: what a factory has to build, and what is found out about it before anything is trained."""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bnstudy.batchnorm.conventions import Convention
from bnstudy.batchnorm.convert import convert
from bnstudy.batchnorm.mode import batchnorm_layers
from bnstudy.errors import UserError
from bnstudy.factories import call_factory, traced
from bnstudy.training.config import ModelConfig
from bnstudy.training.imported import arguments_text, check_fields, check_source

KEY = "model.factory"
CALL = "build(input_shape, outputs, **model.args)"


@dataclass(frozen=True)
class Extent:
    """How large a network is, for the rule by which seeds are grouped.

    Args:
        activations: values of one sample in the largest output of a layer.
        weights: numbers in the largest parameter.
    """

    activations: int
    weights: int


def build_imported(
    config: ModelConfig,
    input_shape: Sequence[int],
    outputs: int,
    *,
    seed: int,
    convention: Convention | str = "paper",
    eps: float = 1e-5,
    momentum: float | None = 0.1,
    norm_batch_size: int | None = None,
) -> nn.Module:
    """A freshly initialised network of the user's own, its BatchNorm layers as the configuration says.

    The factory is called as `build(input_shape, outputs, **args)` and returns a new `torch.nn.Module` that takes
    (N, *input_shape) to (N, outputs), with torch's or bnstudy's BatchNorm layers. Their convention, eps, momentum and group
    size become the configuration's, whatever the factory gave them. PyTorch's generator of the CPU is seeded before the
    call and given back as it was.

    Args:
        config: with `factory` and `args`.
        input_shape, outputs, seed, convention, eps, momentum, norm_batch_size: as for `models.build_model`.

    Returns:
        The network in training mode.

    Raises:
        UserError: one line, if the factory is not there, raises, or builds something else.

    Source: bnstudy issue 7, part 4.
    """
    _check(config)
    spec = config.factory or ""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # not torch.manual_seed, which would reseed accelerators for good
        model = call_factory(KEY, spec, (tuple(input_shape), outputs), config.args, CALL)
    check_source("model", config)
    if not isinstance(model, nn.Module):
        raise _wrong(spec, f"returns a {type(model).__name__}", "return a torch.nn.Module")
    if any(isinstance(tensor, nn.UninitializedParameter) for tensor in model.parameters()):
        raise _wrong(spec, "builds layers whose sizes are not known yet", "layers that are not lazy")
    layers = [layer for layer in model.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    if not layers:
        raise _wrong(
            spec, "builds no BatchNorm layer, so that no convention applies", "BatchNorm1d, BatchNorm2d or BatchNorm3d"
        )
    try:
        convert(model, convention, norm_batch_size)
    except ValueError as error:
        raise UserError(f"{KEY}: {spec!r} builds layers that cannot be studied; {error}") from error
    for name, layer in batchnorm_layers(model).items():
        if layer.running_mean is None:
            raise _wrong(
                spec, f"builds layer {name!r} with track_running_stats=False", "True, or inference has no statistic"
            )
        layer.eps, layer.momentum = eps, momentum
    return model.train()


_found: dict[tuple[object, ...], Extent] = {}


def check_imported(config: ModelConfig, input_shape: Sequence[int], outputs: int) -> Extent:
    """Try a factory out before anything is trained: built three times, run on two samples in either mode; once in a process.

    Args:
        config: with `factory` and `args`.
        input_shape: of one sample.
        outputs: classes, or targets of a regression.

    Returns:
        How large the network is.

    Raises:
        UserError: one line, if it cannot be built (`build_imported`) or copied, two networks share tensors or differ under
            one seed, outputs have another shape than (N, outputs), or a BatchNorm layer does not run exactly once.

    Source: bnstudy issue 7, part 4.
    """
    key = (config.factory, arguments_text(config), config.source, tuple(input_shape), outputs)
    if config.source is None or key not in _found:
        _check(config)
        _found[key] = _tried_out(config, input_shape, outputs)
    return _found[key]


@torch.no_grad()
def _tried_out(config: ModelConfig, input_shape: Sequence[int], outputs: int) -> Extent:
    spec = config.factory or ""
    model, again, other = (build_imported(config, input_shape, outputs, seed=seed) for seed in (0, 0, 1))
    if _storages(model) & (_storages(again) | _storages(other)):
        raise _wrong(spec, "gives networks that share their parameters", "build a new network in each call")
    for (name, tensor), twin in zip(_tensors(model), (tensor for _, tensor in _tensors(again)), strict=False):
        if tensor.shape != twin.shape or not torch.equal(tensor, twin):
            raise _wrong(spec, f"gives another {name!r} under the same seed", "PyTorch's own random numbers, on the CPU")
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise _wrong(spec, "builds nothing that can be trained", "parameters with requires_grad")
    try:
        model = copy.deepcopy(model)  # as every training does
    except Exception as error:  # foreign modules can fail in any way
        raise _wrong(
            spec, f"builds a network that cannot be copied ({type(error).__name__})", "one for copy.deepcopy"
        ) from error
    model.float()
    x = torch.randn(2, *input_shape, generator=torch.Generator().manual_seed(0))
    largest = 0
    for training in (False, True):
        model.train(training)
        mode = "training" if training else "evaluation"
        with _watched(model) as (calls, sizes), torch.random.fork_rng(devices=[]):
            y = _run(model, x, spec, mode)
        if not isinstance(y, Tensor) or y.shape != (2, outputs):
            got = f"outputs of shape {tuple(y.shape)}" if isinstance(y, Tensor) else f"a {type(y).__name__}"
            wanted = f"(2, {outputs}) for 2 samples of shape {tuple(input_shape)}"
            raise _wrong(spec, f"builds a network that gives {got} in {mode} mode", wanted)
        if not training:
            for name, count in calls.items():
                if count != 1:
                    often = f"runs {count} times in a pass" if count else "never runs in evaluation mode"
                    raise _wrong(
                        spec, f"builds layer {name!r}, which {often}", "a BatchNorm layer for each place, none idle"
                    )
        largest = max(largest, *sizes)
    return Extent(largest // 2, max(parameter.numel() for parameter in model.parameters()))


def _check(config: ModelConfig) -> None:
    check_fields("model", config)
    if config.norm != "batch":
        raise UserError(
            f"model.norm: {config.norm!r} is the factory's own affair with model=import; leave it at 'batch', and build the "
            "baseline with another factory in a study of its own"
        )


def _run(model: nn.Module, x: Tensor, spec: str, mode: str) -> Any:
    try:
        return model(x)
    except Exception as error:  # foreign modules can fail in any way
        raise UserError(
            f"{KEY}: {spec!r} builds a network that raises {traced(error)}, in {mode} mode, on 2 samples of shape "
            f"{tuple(x.shape[1:])}; use one for the data set's inputs"
        ) from error


@contextmanager
def _watched(model: nn.Module) -> Iterator[tuple[dict[str, int], list[int]]]:
    """How often each BatchNorm layer runs, and how many values layers give."""
    calls: Counter[nn.Module] = Counter()
    counts: dict[str, int] = {}
    sizes: list[int] = [0]

    def note(layer: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        calls[layer] += 1
        if isinstance(output, Tensor):
            sizes.append(math.prod(output.shape))

    hooks = [module.register_forward_hook(note) for module in model.modules()]
    try:
        yield counts, sizes
    finally:
        for hook in hooks:
            hook.remove()
        counts |= {name: calls[layer] for name, layer in batchnorm_layers(model).items()}


def _tensors(model: nn.Module) -> list[tuple[str, Tensor]]:
    return [*model.named_parameters(), *model.named_buffers()]


def _storages(model: nn.Module) -> set[int]:
    return {tensor.untyped_storage().data_ptr() for _, tensor in _tensors(model) if tensor.numel()}


def _wrong(spec: str, what: str, accepted: str) -> UserError:
    return UserError(f"{KEY}: {spec!r} {what}; use {accepted}")
