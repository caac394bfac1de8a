"""What a convention costs: bnstudy's layers against torch's own, and against the same layer in plain tensor operations."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from bnstudy.batchnorm.conventions import CONVENTIONS, Convention, bessel
from bnstudy.batchnorm.layers import BatchNorm1d, BatchNorm2d
from scripts.benchmark.report import Benchmark, Row, Target
from scripts.benchmark.timing import Prepare, Spread, calls_lasting, interleave, ratio, spread

SHAPES: tuple[tuple[int, ...], ...] = ((4, 256), (1024, 256), (64, 64, 8, 8), (32, 64, 28, 28))
"""Features and images: 4 kB, where calls are what costs; then 1 MB, 1 MB and 6.4 MB."""
METHOD = """\
A unit is one forward pass in training mode and the gradients for input, γ and β (`torch.autograd.grad`), float32, \
one thread, CPU time of the process. Four inputs take turns, so that no moving average settles into denormal \
numbers. Ratios are medians over interleaved rounds of the ratio within a round. "torch" is `nn.BatchNorm1d`/`2d`; \
"all kept" is a layer after `track_all_statistics()`; "tensor operations" is the same convention written with mean, \
var, arithmetic and in-place buffer updates, and what is shown for it is how many times as long it takes."""

_TURN = 0.002
_INPUTS = 4


class TensorOperations(nn.Module):
    """BatchNorm in plain tensor operations, the way lectures write it: mean, var, normalise, scale, update the buffers.

    Args:
        channels: C.
        convention: which variance normalises and which is accumulated.
        eps: ε. Default: 1e-5.
        alpha: weight of the new batch in the running buffers. Default: 0.1.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, convention: Convention, eps: float = 1e-5, alpha: float = 0.1) -> None:
        super().__init__()
        self.convention, self.eps, self.alpha = convention, eps, alpha
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, *spatial) to the same, by the batch's statistics."""
        over = [0, *range(2, x.dim())]
        each = (1, -1, *(1,) * (x.dim() - 2))
        mean = x.mean(over)  # (C,)
        var = x.var(over, correction=int(self.convention.normalize == "unbiased"))  # (C,)
        with torch.no_grad():
            m, accumulate = x.numel() // x.size(1), self.convention.accumulate
            kept = var
            if accumulate == "total":
                kept = var + (1 - self.alpha / 2) * (mean - self.running_mean).square()
            elif accumulate != self.convention.normalize:
                kept = var * (bessel(m) if accumulate == "unbiased" else 1 / bessel(m))
            self.running_mean.lerp_(mean, self.alpha)
            self.running_var.lerp_(kept, self.alpha)
        normalised = (x - mean.view(each)) / (var.view(each) + self.eps).sqrt()
        return normalised * self.weight.view(each) + self.bias.view(each)


def benchmark_layer(rounds: int) -> Benchmark:
    """Time every convention, plain and with all statistics kept, at every shape of `SHAPES`.

    Args:
        rounds: interleaved rounds a shape; a turn lasts 2 ms or more.

    Returns:
        Ratios to torch's own layer and of tensor operations to ours, with their targets.

    Source: docs/method.md, "One kernel for all".
    """
    rows: list[Row] = []
    times: dict[str, dict[str, Spread]] = {}
    for shape in SHAPES:
        case = describe(shape)
        seconds = _measure(shape, rounds)
        times[case] = {name: spread(found) for name, found in seconds.items()}
        torch_seconds = seconds.pop("torch")
        for name in CONVENTIONS:
            plain, kept, operations = seconds[name], seconds[f"{name}, all kept"], seconds[f"{name}, tensor operations"]
            rows.append(Row(case, f"{name} / torch", ratio(plain, torch_seconds), _plain_target(shape, name)))
            rows.append(Row(case, f"{name}, all kept / torch", ratio(kept, torch_seconds), _kept_target(shape)))
            rows.append(Row(case, f"{name}, tensor operations / ours", ratio(operations, plain), _speed_target(shape)))
        beside = ratio(seconds["total"], seconds["consistent_biased"])
        rows.append(Row(case, "total / consistent_biased", beside, None if _is_small(shape) else Target(1.05, at_most=True)))
    return Benchmark("layer", METHOD, rows, times)


def describe(shape: tuple[int, ...]) -> str:
    """A shape and its size in float32."""
    size = 4 * math.prod(shape)
    return f"{shape}, {size / 2**20:.3g} MB" if size >= 2**20 else f"{shape}, {size / 2**10:.3g} kB"


def contenders(shape: tuple[int, ...]) -> dict[str, nn.Module]:
    """Fresh layers by name: torch's own, and each convention plain, with all statistics kept, and in tensor operations."""
    channels = shape[1]
    ours = BatchNorm1d if len(shape) == 2 else BatchNorm2d
    theirs = nn.BatchNorm1d if len(shape) == 2 else nn.BatchNorm2d
    layers: dict[str, nn.Module] = {"torch": theirs(channels)}
    for name, convention in CONVENTIONS.items():
        kept = ours(channels, convention=convention)
        kept.track_all_statistics()
        layers[name] = ours(channels, convention=convention)
        layers[f"{name}, all kept"] = kept
        layers[f"{name}, tensor operations"] = TensorOperations(channels, convention)
    return layers


def _measure(shape: tuple[int, ...], rounds: int) -> dict[str, list[float]]:
    """Seconds a unit, by contender and round."""
    random = torch.Generator().manual_seed(0)
    inputs = [torch.randn(shape, generator=random).requires_grad_() for _ in range(_INPUTS)]
    gradient = torch.randn(shape, generator=random)
    layers = contenders(shape)
    calls = calls_lasting(_units(layers["torch"], inputs, gradient, 1), _TURN)

    def ready(layer: nn.Module) -> Prepare:
        return lambda: _units(layer, inputs, gradient, calls)

    seconds = interleave({name: ready(layer) for name, layer in layers.items()}, rounds)
    return {name: [turn / calls for turn in turns] for name, turns in seconds.items()}


def _units(layer: nn.Module, inputs: list[Tensor], gradient: Tensor, calls: int) -> Callable[[], None]:
    weight, bias = layer.weight, layer.bias

    def run() -> None:
        for call in range(calls):
            x = inputs[call % len(inputs)]
            torch.autograd.grad(layer(x), (x, weight, bias), gradient)  # type: ignore[arg-type]

    return run


def _is_small(shape: tuple[int, ...]) -> bool:
    return 4 * math.prod(shape) < 2**20


def _plain_target(shape: tuple[int, ...], convention: str) -> Target:
    if not _is_small(shape):
        return Target(1.10, at_most=True)
    return Target({"inverted": 1.5, "total": 1.35}.get(convention, 1.3), at_most=True)


def _kept_target(shape: tuple[int, ...]) -> Target:
    return Target(1.8 if _is_small(shape) else 1.2, at_most=True)


def _speed_target(shape: tuple[int, ...]) -> Target | None:
    if 4 * math.prod(shape) > 2**20:
        return None  # declared for 1 MB; beyond, page faults of the temporaries decide, and they come and go
    return Target(2.5 if _is_small(shape) else 5.0, at_most=False)
