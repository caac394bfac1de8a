"""Networks of the user's own: what a factory has to build, and what is found out about it before anything is trained."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from bnstudy.batchnorm.conventions import Convention
from bnstudy.batchnorm.convert import convert
from bnstudy.batchnorm.mode import batchnorm_layers
from bnstudy.errors import UserError
from bnstudy.factories import call_factory, traced
from bnstudy.training.config import ModelConfig
from bnstudy.training.data.batches import gather
from bnstudy.training.imported import check_fields, check_source
from bnstudy.training.networks.facts import NetworkFacts, Passes, watched
from bnstudy.training.networks.replicas import replicate

KEY = "model.factory"
CALL = "build(input_shape, outputs, **model.args)"


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

    Source: docs/architecture.md, "How to add".
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


@torch.no_grad()
def tried_out(config: ModelConfig, input_shape: Sequence[int], outputs: int) -> NetworkFacts:
    """Try a factory out before anything is trained: built three times, run on two samples in either mode.

    Args:
        config: with `factory` and `args`.
        input_shape: of one sample.
        outputs: classes, or targets of a regression.

    Returns:
        What was found out about the network.

    Raises:
        UserError: one line, if it cannot be built (`build_imported`) or copied, two networks share tensors or differ under
            one seed, outputs have another shape than (N, outputs), or a BatchNorm layer does not run exactly once.

    Source: docs/architecture.md, "How to add".
    """
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
    passes = Passes()
    for mode in ("evaluation", "training"):
        model.train(mode == "training")
        with watched(model, passes), torch.random.fork_rng(devices=[]):
            y = _run(model, x, spec, mode)
        if not isinstance(y, Tensor) or y.shape != (2, outputs):
            got = f"outputs of shape {tuple(y.shape)}" if isinstance(y, Tensor) else f"a {type(y).__name__}"
            wanted = f"(2, {outputs}) for 2 samples of shape {tuple(input_shape)}"
            raise _wrong(spec, f"builds a network that gives {got} in {mode} mode", wanted)
        if mode == "evaluation":
            for name in batchnorm_layers(model):
                if (count := passes.runs[name]) != 1:
                    often = f"runs {count} times in a pass" if count else "never runs in evaluation mode"
                    raise _wrong(
                        spec, f"builds layer {name!r}, which {often}", "a BatchNorm layer for each place, none idle"
                    )
    return passes.facts(model, x, partial(_why_unstackable, config, tuple(input_shape), outputs))


def _why_unstackable(config: ModelConfig, input_shape: Sequence[int], outputs: int) -> str | None:
    """Why networks of a factory cannot train as replicas; None where they can.

    Two networks (seeds 0 and 1, every number moved at random, so that layers that start at zero take part) are stacked by
    `replicate` and run beside the single ones, in float64, in training and in evaluation mode. They can be stacked if no
    layer is refused, nothing draws random numbers, as dropout does, and all outputs agree. So the answer depends on the
    factory alone, and the grouping of seeds stays a fixed rule.
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        singles = [build_imported(config, input_shape, outputs, seed=seed).double() for seed in (0, 1)]
        random = torch.Generator().manual_seed(0)
        for model in singles:
            _stir(model, random)
        try:
            stacked = replicate(singles)
        except (UserError, ValueError) as error:
            return str(error).removeprefix("model: ").removeprefix("models: ").partition(";")[0]
        inputs = torch.randn(4, *input_shape, generator=random, dtype=torch.float64)
        order = torch.stack([torch.randperm(len(inputs), generator=random) for _ in singles], 1)
        for training in (True, False):
            before = torch.default_generator.get_state()
            try:
                alone = [model.train(training)(inputs[index]) for model, index in zip(singles, order.T, strict=True)]
                together: Tensor = stacked.train(training)(gather(inputs, order))
            except Exception as error:  # a forward that cannot take the channels of two networks can fail in any way
                return f"its forward cannot take the channels of two networks ({type(error).__name__})"
            if not torch.equal(before, torch.default_generator.get_state()):
                return "its forward draws random numbers"
            expected = torch.cat(alone, 1)
            if together.shape != expected.shape or not torch.allclose(together, expected, rtol=1e-6, atol=1e-9):
                return "its forward mixes the channels of two networks"
        return None


def _stir(model: nn.Module, random: torch.Generator) -> None:
    """Move every number of a network a little, so that nothing is zero or equal by the way it starts."""
    for parameter in filter(torch.is_floating_point, model.parameters()):
        parameter.add_(torch.randn(parameter.shape, generator=random, dtype=parameter.dtype), alpha=0.1)
    for layer in batchnorm_layers(model).values():
        for buffer in (layer.running_mean, layer.running_var):
            if buffer is not None:
                buffer.add_(torch.rand(buffer.shape, generator=random, dtype=buffer.dtype))


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


def _tensors(model: nn.Module) -> list[tuple[str, Tensor]]:
    return [*model.named_parameters(), *model.named_buffers()]


def _storages(model: nn.Module) -> set[int]:
    return {tensor.untyped_storage().data_ptr() for _, tensor in _tensors(model) if tensor.numel()}


def _wrong(spec: str, what: str, accepted: str) -> UserError:
    return UserError(f"{KEY}: {spec!r} {what}; use {accepted}")
