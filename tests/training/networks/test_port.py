"""A port in the harness against one by hand: torch's own kernel, a state_dict loaded elsewhere, a new optimizer."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bnstudy.analysis.tables import study_tables
from bnstudy.batchnorm.conventions import CONVENTIONS, Convention
from bnstudy.batchnorm.mode import batchnorm_layers
from bnstudy.errors import UserError
from bnstudy.sweeps.config import Config
from bnstudy.sweeps.identity import training_fields, training_id
from bnstudy.sweeps.plan import canonical
from bnstudy.training.checkpoint import load_checkpoint, save_checkpoint
from bnstudy.training.checks import check
from bnstudy.training.data import Dataset
from bnstudy.training.loop import Training
from bnstudy.training.measuring import Checkpointing, measure_block
from bnstudy.training.networks import replica_state_dict
from bnstudy.training.seeds import generator
from tests.analysis.studies import run_study
from tests.tiny import RESNET8, tiny

PAIRS = list(itertools.product(CONVENTIONS, CONVENTIONS))


def ported(before: str | None, after: str, **changes: Any) -> Config:
    return tiny(after, **{"epochs": 4, "port__variance": before, "port__epochs": 3, "seeds": 2, **changes})


def finished(training: Training) -> Training:
    while not training.finished:
        training.run_epoch()
    return training


class HandNorm(nn.BatchNorm1d):
    """torch's own layer with the variances that it has not written beside it."""

    convention: Convention

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        assert self.running_var is not None
        assert self.running_mean is not None
        values = x.detach()
        stored = values.var(0, correction=self.convention.accumulate == "unbiased")
        if self.convention.accumulate == "total":
            stored += 0.95 * (values.mean(0) - self.running_mean).square()
        self.running_mean.copy_(0.9 * self.running_mean + 0.1 * values.mean(0))
        self.running_var.copy_(0.9 * self.running_var + 0.1 * stored)
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        if self.convention.normalize == "unbiased":
            return (x - x.mean(0)) / (x.var(0, correction=1) + self.eps).sqrt() * self.weight + self.bias
        return F.batch_norm(x, None, None, self.weight, self.bias, True, 0.0, self.eps)


def network(convention: Convention, seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    layers: list[nn.Module] = [nn.Flatten(), nn.Linear(64, 12, bias=False), HandNorm(12), nn.ReLU()]
    layers += [nn.Linear(12, 12, bias=False), HandNorm(12), nn.ReLU(), nn.Linear(12, 10)]
    for layer in layers:
        if isinstance(layer, HandNorm):
            layer.convention = convention
    return nn.Sequential(*layers).double()


def fit(model: nn.Module, optimizer: torch.optim.Optimizer, dataset: Dataset, order: torch.Generator, epochs: int) -> None:
    x, y = dataset.train.inputs.double(), dataset.train.targets
    model.train()
    for _ in range(epochs):
        for batch in torch.randperm(len(x), generator=order).split(8):
            optimizer.zero_grad()
            F.cross_entropy(model(x[batch]), y[batch]).backward()
            optimizer.step()


def by_hand(
    before: str, after: str, dataset: Dataset, seed: int, make: Callable[..., torch.optim.Optimizer], lr: float
) -> Any:
    """Train for three epochs, load the state_dict under the other convention, fine-tune for one at a tenth of the rate."""
    order = generator(seed, "order")
    first = network(CONVENTIONS[before], seed)
    fit(first, make(first.parameters(), lr=lr), dataset, order, 3)
    second = network(CONVENTIONS[after], seed=999)
    second.load_state_dict(first.state_dict())
    fit(second, make(second.parameters(), lr=lr / 10), dataset, order, 1)
    return second


@pytest.mark.parametrize(("before", "after"), PAIRS)
def test_a_port_is_a_checkpoint_loaded_under_the_other_convention(digits: Dataset, before: str, after: str) -> None:
    training = finished(Training(ported(before, after, precision="float64"), digits, [4, 1]))
    for replica, seed in enumerate([4, 1]):
        expected = by_hand(
            before, after, digits, seed, lambda p, lr: torch.optim.SGD(p, lr=lr, momentum=0.9), lr=0.05 * 8 / 32
        )
        ours = replica_state_dict(training.model, replica, 2)
        for (name, value), other in zip(ours.items(), expected.state_dict().values(), strict=True):
            torch.testing.assert_close(value, other, rtol=1e-9, atol=1e-11, msg=lambda text, name=name: f"{name}: {text}")
        layers = zip(
            batchnorm_layers(training.model).values(), (m for m in expected if isinstance(m, HandNorm)), strict=True
        )
        for layer, hand in layers:
            own = layer.ema(CONVENTIONS[after].own_statistic)[1].unflatten(0, (2, -1))[replica]
            torch.testing.assert_close(own, hand.running_var, rtol=1e-9, atol=1e-11)


def test_adamw_starts_afresh_too(digits: Dataset) -> None:
    config = ported("consistent_biased", "paper", precision="float64", optimizer__name="adamw", optimizer__lr=0.004)
    training = finished(Training(config, digits, [2]))
    expected = by_hand(
        "consistent_biased", "paper", digits, 2, lambda p, lr: torch.optim.AdamW(p, lr=lr, weight_decay=0.0), lr=0.001
    )
    for value, other in zip(training.model.state_dict().values(), expected.state_dict().values(), strict=True):
        torch.testing.assert_close(
            value, other, rtol=1e-6, atol=1e-8
        )  # AdamW's ε of 1e-8 lets rounding of small gradients show


def test_what_the_accumulated_variance_is_after_a_port_never_touches_training(digits: Dataset) -> None:
    first, second = (finished(Training(ported("paper", name), digits, [0])) for name in ("paper", "consistent_biased"))
    assert all(torch.equal(a, b) for a, b in zip(first.model.parameters(), second.model.parameters(), strict=True))
    for ours, theirs in zip(*(batchnorm_layers(t.model).values() for t in (first, second)), strict=True):
        for statistic in ("ema_biased", "ema_unbiased", "ema_total"):
            assert torch.equal(ours.ema(statistic)[1], theirs.ema(statistic)[1])


def test_the_first_phase_is_a_training_under_the_first_convention(digits: Dataset) -> None:
    training = Training(ported("inverted", "paper"), digits, [0, 1])
    alone = finished(Training(tiny("inverted", epochs=3), digits, [0, 1]))
    for _ in range(3):
        training.run_epoch()
    ours, theirs = training.model.state_dict(), alone.model.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    assert {layer.convention.name for layer in batchnorm_layers(training.model).values()} == {"inverted"}
    stored = {name: layer.running_var.clone() for name, layer in batchnorm_layers(training.model).items()}
    seen: list[bool] = []

    def look(model: nn.Module, args: Any) -> None:
        for name, layer in batchnorm_layers(training.model).items():
            averages = (layer.running_var, layer.ema_var_biased, layer.ema_var_unbiased, layer.ema_var_total)
            seen.append(all(torch.equal(average, stored[name]) for average in averages))
            seen.append(layer.convention.name == "paper")

    hook = training.model.register_forward_pre_hook(look)
    training.run_epoch(lambda step: hook.remove())
    assert seen == [True] * 4


def test_either_phase_has_the_whole_schedule(digits: Dataset) -> None:
    changes: dict[str, Any] = {"schedule__name": "cosine", "schedule__warmup": 0.1}
    rates = Training(ported("paper", "inverted", port__lr_factor=0.25, **changes), digits, [0]).rates
    first, second = (Training(tiny(epochs=epochs, **changes), digits, [0]).rates for epochs in (3, 1))
    assert rates == [*first, *(0.25 * rate for rate in second)]
    assert Training(ported(None, "paper"), digits, [0]).rates == Training(tiny(epochs=4), digits, [0]).rates


RESUMED: dict[str, dict[str, Any]] = {
    "sgd": {},
    "adamw": {"optimizer__name": "adamw", "optimizer__lr": 0.002},
    "ghost batches": {"norm_batch_size": 4},
    "cumulative average": {"momentum": None},
    "augmented resnet": {"model": RESNET8, "dataset__augment": "crop_flip"},
}


def state(training: Training) -> dict[str, Tensor]:
    return dict(training.model.named_parameters()) | dict(training.model.named_buffers())


@pytest.mark.parametrize("case", RESUMED)
@pytest.mark.parametrize("epoch", [2, 3, 4])
def test_a_training_resumed_on_either_side_of_the_port_is_the_same_to_the_bit(
    digits: Dataset, tmp_path: Path, case: str, epoch: int
) -> None:
    config = ported("consistent_biased", "consistent_unbiased", epochs=5, **RESUMED[case])
    whole = Training(config, digits, [0, 1, 2])
    for _ in range(epoch):
        whole.run_epoch()
    save_checkpoint(whole, [], tmp_path / "x.safetensors")
    resumed = Training(config, digits, [0, 1, 2])
    load_checkpoint(resumed, tmp_path / "x.safetensors")
    assert resumed.epoch == epoch
    name = "consistent_unbiased" if epoch > 3 else "consistent_biased"
    assert {layer.convention.name for layer in batchnorm_layers(resumed.model).values()} == {name}
    expected = state(finished(whole))
    for key, value in state(finished(resumed)).items():
        assert torch.equal(value, expected[key]), key


class StopError(Exception):
    """What interrupts."""


@pytest.mark.parametrize("stop", [30, 39, 40, 52])
def test_an_interrupted_block_gives_the_rows_of_one_that_was_not(digits: Dataset, tmp_path: Path, stop: int) -> None:
    """A port after step 39 of 52; a checkpoint after every epoch."""
    config = ported("consistent_biased", "inverted", probe_batches=0)
    expected = measure_block(config, digits, [0, 1])

    def interrupt(step: int) -> None:
        if step == stop:
            raise StopError

    checkpoint = Checkpointing(tmp_path / "x.safetensors", every=0.0)
    with pytest.raises(StopError):
        measure_block(config, digits, [0, 1], interrupt, checkpoint)
    assert measure_block(config, digits, [0, 1], checkpoint=checkpoint) == expected
    assert measure_block(config, digits, [0, 1], checkpoint=checkpoint) == expected  # from the end


def test_a_study_names_the_first_convention_in_a_column_and_compares_within_it(tmp_path: Path) -> None:
    changes: dict[str, Any] = {"epochs": 2, "port__epochs": 1, "model__depth": 1}
    pairs = itertools.product(("pytorch", "consistent_biased", None), ("paper", "consistent_biased"))
    configs = [ported(before, after, **changes) for before, after in pairs]
    tables = study_tables(run_study(tmp_path, configs), "tiny")
    assert tables["jobs"]["training"].nunique() == 3  # `paper` and `consistent_biased` train alike
    assert set(tables["gaps"]["port_variance"].dropna()) - {"nan", "None"} == {"paper", "consistent_biased"}
    contrasts = tables["contrasts"]
    assert contrasts["port_variance"].nunique(dropna=False) == 3
    assert set(contrasts.loc[contrasts["kind"] == "arm", "arm"]) == {"consistent_biased"}
    assert not {"port_epochs", "port_lr_factor"} & set(tables["gaps"])


def test_a_port_is_a_training_of_its_own_and_leaves_old_names_alone() -> None:
    names = {training_id(ported(before, after)) for before, after in PAIRS}
    assert len(names) == len(CONVENTIONS) * 2  # the accumulated variance matters before the port, and not after
    assert not any(key.startswith("port.") for key in training_fields(ported(None, "paper")))
    assert training_id(ported(None, "paper")) == training_id(tiny(epochs=4))
    assert canonical(ported("pytorch", "paper")) == canonical(ported("paper", "consistent_biased"))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            {"port__variance": "caffe"},
            "port.variance: 'caffe' is unknown; use paper, consistent_unbiased, consistent_biased, inverted, total, or null",
        ),
        ({"port__variance": ""}, "port.variance: '' is unknown; use "),
        ({"port__epochs": 4}, "port.epochs: 4 leaves nothing of epochs=4 for fine-tuning; use 1 to 3, or more epochs"),
        ({"epochs": 1}, "port.epochs: 3 leaves nothing of epochs=1 for fine-tuning; use more epochs"),
        (
            {"steps": 39},
            "port.epochs: 3 leaves nothing of steps=39 (an epoch has 13) for fine-tuning; use 1 to 2, or more steps",
        ),
        ({"port__epochs": 0}, "port.epochs: 0 trains nothing under 'paper'; use 1 or more"),
        ({"port__lr_factor": 0.0}, "port.lr_factor: 0.0 is not positive; use a number above 0"),
        ({"model__norm": "group"}, "port.variance: 'paper' is nothing to model.norm 'group'; use null"),
        (
            {"variance__rescaled": True},
            "port.variance: 'paper' cannot go on as the identity control 'consistent_biased_rescaled'; use null",
        ),
    ],
)
def test_what_cannot_be_ported_is_refused_in_one_line(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(UserError) as caught:
        check(ported("paper", "consistent_biased", **changes))
    assert str(caught.value).startswith(text)
    assert "\n" not in str(caught.value)


def test_what_can_be_is_accepted() -> None:
    for changes in ({}, {"steps": 40}, {"port__variance": "flax"}, {"port__variance": None, "port__epochs": 9}):
        check(ported("paper", "paper", **changes))
