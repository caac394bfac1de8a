"""Layers with a forward of their own: diagnosed by what they do, or named where they do something else than BatchNorm."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import bnstudy
from bnstudy.batchnorm.conventions import CONVENTIONS
from bnstudy.diagnosis import modes
from bnstudy.diagnosis.batches import Source
from bnstudy.diagnosis.diagnose import diagnose
from bnstudy.diagnosis.normlayers import NormLayer, norm_layers
from bnstudy.diagnosis.own_forward import changing, understood
from bnstudy.diagnosis.remedies import remedy
from bnstudy.errors import UserError

Pairs = list[tuple[Tensor, Tensor]]
RANDOM = torch.Generator().manual_seed(3)
DATA: Pairs = [(3 * torch.randn(6, 5, generator=RANDOM) + 2, torch.randint(4, (6,), generator=RANDOM)) for _ in range(24)]
SEQUENCES: Pairs = [
    (2 * torch.randn(6, 7, 5, generator=RANDOM) - 1, torch.randint(4, (6,), generator=RANDOM)) for _ in range(24)
]


class ReadsItsBuffers(nn.BatchNorm1d):
    def forward(self, x: Tensor) -> Tensor:
        mean, var, alpha = self.running_mean, self.running_var, self.momentum
        return F.batch_norm(x, mean, var, self.weight, self.bias, self.training, alpha, self.eps)


class ThenActivates(nn.BatchNorm1d):
    def forward(self, x: Tensor) -> Tensor:
        mean, var = self.running_mean + 0, self.running_var + 0
        y = F.batch_norm(x, mean, var, self.weight, self.bias, self.training, self.momentum, self.eps)
        if self.training:
            self.running_mean.copy_(mean)
            self.running_var.copy_(var)
        return F.leaky_relu(y)


class InFloat32(nn.BatchNorm1d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.float()).to(x.dtype)


class ChannelsLast(nn.BatchNorm1d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


class ByHand(nn.Module):
    """Every convention, without a class, a name or a count of torch's."""

    def __init__(self, channels: int, convention: str = "paper") -> None:
        super().__init__()
        self.convention, self.channels = CONVENTIONS[convention], channels
        self.register_buffer("moving_mean", torch.zeros(channels))
        self.register_buffer("moving_variance", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        mean, var = self.moving_mean, self.moving_variance
        if self.training:
            mean, var = x.mean(0), x.var(0, correction=self.convention.normalize == "unbiased")
            self.moving_mean.lerp_(mean.detach(), 0.2)
            self.moving_variance.lerp_(x.detach().var(0, correction=self.convention.accumulate == "unbiased"), 0.2)
        return (x - mean) / (var + 1e-5).sqrt()


class RunningScale(nn.Module):
    """What reinforcement learning normalises observations by: running statistics in both modes."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.mean.lerp_(x.detach().mean(0), 0.5)
            self.var.lerp_(x.detach().var(0), 0.5)
        return (x - self.mean) / (self.var + 1e-5).sqrt()


class Renormalised(nn.BatchNorm1d):
    """Batch renormalisation: batch statistics in the gradient, a mixture of them and the running ones in the values."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        mean, var = 0.5 * (x.mean(0) + self.running_mean), 0.5 * (x.var(0) + self.running_var)
        self.running_mean.lerp_(x.detach().mean(0), 0.1)
        self.running_var.lerp_(x.detach().var(0), 0.1)
        return (x - mean) / (var + self.eps).sqrt()


def around(norm: nn.Module, *behind: nn.Module) -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(5, 6), norm, nn.ReLU(), *behind, nn.Linear(6, 4))


def warm(model: nn.Module, data: Pairs = DATA, count: int = 90) -> nn.Module:
    model.train()
    with torch.no_grad():
        for index in range(count):
            model(data[index % len(data)][0])
    return model.eval()


def asked(model: nn.Module, data: Pairs = DATA) -> list[NormLayer]:
    source = Source(data, "batches", torch.device("cpu"))
    with modes.untouched(model, 0):
        return understood(model, norm_layers(model), next(iter(source)), "batches")


@pytest.mark.parametrize("make", [ReadsItsBuffers, InFloat32])
def test_a_layer_that_reads_its_buffers_is_diagnosed_as_torchs_own(make: type[nn.BatchNorm1d]) -> None:
    own = warm(around(make(6)))
    plain = around(nn.BatchNorm1d(6))
    plain.load_state_dict(own.state_dict())
    first, second = diagnose(own, DATA), diagnose(plain.eval(), DATA)
    assert [finding.kind for finding in first.findings] == [finding.kind for finding in second.findings]
    for name in ("own", "batch", "population_total", "train"):
        assert first.level("loss", name).value == pytest.approx(second.level("loss", name).value, rel=1e-5)
    assert own.state_dict().keys() == plain.state_dict().keys()
    assert all(torch.equal(value, plain.state_dict()[key]) for key, value in own.state_dict().items())


@pytest.mark.parametrize("make", [ReadsItsBuffers, ThenActivates, InFloat32, lambda n: ByHand(n)])
def test_a_fault_in_such_a_layer_is_found_by_its_name(make: Callable[[int], nn.Module]) -> None:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 6), make(6), nn.Linear(6, 4))
    warm(model)
    for name, buffer in model[4].named_buffers():
        if "mean" in name or "var" in name:
            buffer.fill_(float("var" in name))
    found = diagnose(model, DATA, "output_rms").findings[0]
    assert found.kind in ("reset", "never_updated")
    assert found.layers == ("4",)


@pytest.mark.parametrize("convention", [name for name in CONVENTIONS if name != "total"])
def test_a_layer_of_another_make_shows_its_convention_and_its_momentum(convention: str) -> None:
    (layer,) = asked(warm(around(ByHand(6, convention)), count=40))
    assert layer.convention == CONVENTIONS[convention]
    assert layer.momentum == pytest.approx(0.2, rel=1e-3)
    assert layer.buffers == ("moving_mean", "moving_variance")
    assert (layer.fixed, layer.own) == (False, True)


def test_channels_may_stand_last() -> None:
    model = nn.Sequential(nn.Linear(5, 6), ChannelsLast(6), nn.Linear(6, 4), nn.Flatten(), nn.Linear(28, 4))
    warm(model, SEQUENCES)
    (layer,) = asked(model, SEQUENCES)
    assert layer.axis == -1
    found = diagnose(model, SEQUENCES, "loss")
    assert found.layers["m"].tolist() == [42]
    assert found.layers["channels"].tolist() == [6]
    model[1].running_mean += 3
    assert diagnose(model, SEQUENCES, "output_rms").layers["stored_mean_distance"][0] > 2


def test_new_statistics_go_into_the_buffers_by_their_own_names() -> None:
    model = warm(around(ByHand(6)))
    made = remedy(model, DATA, metric="output_rms")
    assert sorted(made.state) == ["1.moving_mean", "1.moving_variance"]
    inner = torch.cat([model[0](x) for index, (x, _) in enumerate(DATA) if not index.bit_count() % 2])
    torch.testing.assert_close(made.state["1.moving_variance"], inner.var(0, correction=0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("make", [RunningScale, Renormalised, lambda n: nn.InstanceNorm1d(n, track_running_stats=True)])
def test_what_does_something_else_is_named_and_not_judged_as_batchnorm(make: Callable[[int], nn.Module]) -> None:
    torch.manual_seed(1)
    body = [nn.Unflatten(1, (6, 1)), make(6), nn.Flatten()] if make not in (RunningScale, Renormalised) else [make(6)]
    data = DATA if len(body) == 1 else [(x, y) for x, y in DATA]
    if len(body) == 3:
        body[0] = nn.Unflatten(1, (2, 3))
        body[1] = nn.InstanceNorm1d(2, track_running_stats=True)
    model = nn.Sequential(nn.Linear(5, 6), *body, nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Linear(6, 4))
    warm(model, data)
    for buffer in model[len(body) // 2 + 1].buffers():
        if buffer.is_floating_point():
            buffer.mul_(9).add_(1)
    found = diagnose(model, data, {"spread": lambda outputs, targets: outputs.square().mean()}, swap_batches=0)
    assert len(found.layers) == 1
    name = f"{len(body) // 2 + 1} ({type(model[len(body) // 2 + 1]).__name__})"
    assert any(name in " ".join((finding.summary, *finding.evidence)) for finding in found.findings)
    assert not any("dropout" in finding.remedy for finding in found.findings)


def test_a_model_with_nothing_else_is_one_line_with_the_layers_name() -> None:
    for norm in (Renormalised(6), nn.InstanceNorm1d(6, track_running_stats=True)):
        with pytest.raises(UserError, match=rf"^model: .*'1' \({type(norm).__name__}\).*; ") as caught:
            diagnose(around(norm), DATA)
        assert "\n" not in str(caught.value)


class Calls(nn.Module):
    """Dropout as a function of the model's own, and an in-place activation behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.act, self.drop = nn.Linear(5, 6), nn.BatchNorm1d(6), nn.ReLU(True), nn.Dropout(0.4)
        self.still, self.last, self.extra = nn.Dropout(0.0), nn.Linear(6, 4), nn.BatchNorm1d(4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.last(self.still(self.drop(self.act(F.dropout(self.norm(self.first(x)), 0.3, self.training)))))
        return y + 0.01 * self.extra(y) if self.training else y


def test_what_changes_with_the_mode_is_named_and_nothing_else() -> None:
    model = warm(Calls())
    layers = [layer for layer in norm_layers(model) if layer.name == "norm"]
    source = Source(DATA, "batches", torch.device("cpu"))
    with modes.untouched(model, 0):
        names = changing(model, layers, next(iter(source)), "batches")
    assert names == ["the model itself (Calls)", "drop (Dropout)"]
    before = copy.deepcopy(model.state_dict())
    found = diagnose(model, DATA, "output_rms")
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    (said,) = [finding for finding in found.findings if finding.kind == "other_layers"]
    assert "drop (Dropout)" in said.summary


def test_layers_that_run_in_training_only_are_told_as_what_they_are() -> None:
    class TwoHeads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.extra = around(nn.BatchNorm1d(6)), nn.BatchNorm1d(4)

        def forward(self, x: Tensor) -> Tensor:
            y = self.body(x)
            return 3 * self.extra(y) if self.training else y

    found = diagnose(warm(TwoHeads()), DATA, "output_rms")
    (said,) = [finding for finding in found.findings if finding.kind == "other_layers"]
    assert "run in training mode only: 'extra' (BatchNorm1d)" in " ".join(said.evidence)
    assert bnstudy.diagnose is not None
