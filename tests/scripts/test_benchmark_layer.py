"""What the benchmark times beside our layers computes what they compute: otherwise their ratio would say nothing."""

from __future__ import annotations

import pytest
import torch

from bnstudy.batchnorm.conventions import CONVENTIONS
from scripts.benchmark.layer import contenders


@pytest.mark.parametrize("shape", [(4, 6), (3, 5, 2, 4)])
@pytest.mark.parametrize("convention", CONVENTIONS)
def test_tensor_operations_give_our_outputs_gradients_and_buffers(shape: tuple[int, ...], convention: str) -> None:
    layers = contenders(shape)
    names = (convention, f"{convention}, all kept", f"{convention}, tensor operations")
    ours, kept, operations = (layers[name].double() for name in names)
    random = torch.Generator().manual_seed(0)
    for _ in range(3):
        found = []
        x = torch.randn(shape, generator=random, dtype=torch.float64) + 1
        for layer in (ours, kept, operations):
            given = x.clone().requires_grad_()
            output = layer(given)
            (gradient,) = torch.autograd.grad(output.pow(3).sum(), given)
            found.append((output, gradient, layer.running_mean, layer.running_var))
        for others in found[1:]:
            torch.testing.assert_close(others, found[0], rtol=1e-10, atol=1e-12)
