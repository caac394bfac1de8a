"""Averages taken in many batches at a time are those taken in one by one."""

from __future__ import annotations

import copy

import pytest
import torch

from bnstudy.batchnorm.averages import PENDING
from bnstudy.batchnorm.conventions import CONVENTIONS, EMA_STATISTICS
from bnstudy.batchnorm.deferral import deferred_averages
from bnstudy.batchnorm.layers import BatchNorm1d, ConventionBatchNorm


def train(layer: ConventionBatchNorm, batches: list[torch.Tensor]) -> list[torch.Tensor]:
    outputs = []
    for batch in batches:
        leaf = batch.clone().requires_grad_()
        output = layer(leaf)
        output.square().sum().backward()
        assert leaf.grad is not None
        outputs += [output.detach(), leaf.grad]
    return outputs


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize(("momentum", "group"), [(0.1, None), (0.7, None), (1.0, None), (None, None), (0.1, 2)])
def test_deferred_averages_equal_single_updates(convention: str, momentum: float | None, group: int | None) -> None:
    random = torch.Generator().manual_seed(0)
    batches = [
        5 + 3 * torch.randn(2 + step % 4, 6, generator=random, dtype=torch.float64) if group is None
        else 5 + torch.randn(4, 6, generator=random, dtype=torch.float64)
        for step in range(2 * PENDING + 9)
    ]  # fmt: skip
    one = BatchNorm1d(6, momentum=momentum, convention=convention, norm_batch_size=group, dtype=torch.float64)
    one.track_all_statistics()
    many = copy.deepcopy(one)
    alone = train(one, batches)
    with deferred_averages(many):
        together = train(many, batches)
    assert all(torch.equal(first, second) for first, second in zip(alone, together, strict=True))
    for name, buffer in one.named_buffers():
        torch.testing.assert_close(many.get_buffer(name), buffer, rtol=1e-12, atol=1e-12)
    for statistic in EMA_STATISTICS:
        for first, second in zip(one.ema(statistic), many.ema(statistic), strict=True):
            torch.testing.assert_close(second, first, rtol=1e-12, atol=1e-12, equal_nan=True)


def test_an_exception_inside_still_brings_the_averages_up_to_date() -> None:
    one = BatchNorm1d(3, dtype=torch.float64)
    one.track_all_statistics()
    many = copy.deepcopy(one)
    batch = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    one(batch)

    def interrupted() -> None:
        with deferred_averages(many):
            many(batch)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert many.pending is None
    torch.testing.assert_close(many.running_mean, one.running_mean, rtol=1e-12, atol=1e-12)
