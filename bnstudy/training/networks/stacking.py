"""Whether networks of the user's own can train side by side as one module: tried out, since their code may do anything."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bnstudy.batchnorm.mode import batchnorm_layers
from bnstudy.errors import UserError
from bnstudy.training.config import ModelConfig
from bnstudy.training.data.batches import gather
from bnstudy.training.imported import arguments_text
from bnstudy.training.networks.imported import build_imported
from bnstudy.training.networks.replicas import replicate

_SAMPLES = 4
_found: dict[tuple[object, ...], str | None] = {}


def unstackable(config: ModelConfig, input_shape: Sequence[int], outputs: int) -> str | None:
    """Why networks of an imported factory cannot train as replicas; None where they can. Asked once in a process.

    Two networks (seeds 0 and 1, every number moved at random, so that layers that start at zero take part) are stacked by
    `replicate` and run beside the single ones, in float64, in training and in evaluation mode. They can be stacked if no
    layer is refused, nothing draws random numbers, as dropout does, and all outputs agree. So the answer depends on the
    factory alone, and the grouping of seeds stays a fixed rule.

    Args:
        config: with `factory` and `args`; `check_imported` has passed it.
        input_shape: of one sample.
        outputs: size of the last layer.

    Source: bnstudy issue 7, part 4.
    """
    key = (config.factory, arguments_text(config), config.source, tuple(input_shape), outputs)
    if key not in _found:
        with torch.random.fork_rng(devices=[]):
            _found[key] = _reason(config, input_shape, outputs)
    return _found[key]


@torch.no_grad()
def _reason(config: ModelConfig, input_shape: Sequence[int], outputs: int) -> str | None:
    singles = [build_imported(config, input_shape, outputs, seed=seed).double() for seed in (0, 1)]
    random = torch.Generator().manual_seed(0)
    for model in singles:
        _stir(model, random)
    try:
        stacked = replicate(singles)
    except (UserError, ValueError) as error:
        return str(error).removeprefix("model: ").removeprefix("models: ").partition(";")[0]
    inputs = torch.randn(_SAMPLES, *input_shape, generator=random, dtype=torch.float64)
    order = torch.stack([torch.randperm(_SAMPLES, generator=random) for _ in singles], 1)
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
