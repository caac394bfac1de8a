"""A block of seeds against a plain PyTorch loop, against the same seeds alone, and against itself."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bnstudy.batchnorm.mode import batchnorm_layers
from bnstudy.sweeps.config import Config
from bnstudy.training.config import DatasetConfig
from bnstudy.training.data import Dataset, load_dataset
from bnstudy.training.loop import Training
from bnstudy.training.networks import replica_state_dict
from bnstudy.training.schedule import total_steps
from bnstudy.training.seeds import generator
from tests.tiny import RESNET8, tiny
from tests.training.plain import plain_copy


def trained(config: Config, dataset: Dataset, seeds: list[int]) -> Training:
    training = Training(config, dataset, seeds)
    while not training.finished:
        training.run_epoch()
    return training


def plain_network(width: int, seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(64, width, bias=False),
        nn.BatchNorm1d(width),
        nn.ReLU(),
        nn.Linear(width, width, bias=False),
        nn.BatchNorm1d(width),
        nn.ReLU(),
        nn.Linear(width, 10),
    ).double()


def plain_optimizer(config: Config, model: nn.Module) -> torch.optim.Optimizer:
    o = config.optimizer
    spared = [p for p in model.parameters() if p.dim() == 1]
    decayed = [p for p in model.parameters() if p.dim() > 1]
    weight_decay = 0.0 if not o.decay_norm else o.weight_decay
    groups = [{"params": decayed, "weight_decay": o.weight_decay}, {"params": spared, "weight_decay": weight_decay}]
    if o.name == "adamw":
        return torch.optim.AdamW(groups, lr=1.0, betas=(o.betas[0], o.betas[1]), eps=o.eps)
    return torch.optim.SGD(groups, lr=1.0, momentum=o.momentum, nesterov=o.nesterov)


def plain_loop(config: Config, dataset: Dataset, model: nn.Module, seed: int, steps: int) -> list[float]:
    """What a competent user would write; returns the loss of every step."""
    x, y = dataset.train.inputs.double(), dataset.train.targets
    optimizer = plain_optimizer(config, model)
    order = generator(seed, "order")
    losses: list[float] = []
    model.train()
    while True:
        permutation = torch.randperm(len(x), generator=order)
        for batch in permutation.split(config.batch_size):
            if len(losses) == steps:
                return losses
            if config.drop_last and len(batch) < config.batch_size:
                continue
            warm = round(config.schedule.warmup * steps)
            rate = config.optimizer.lr * config.batch_size / config.optimizer.reference_batch_size
            if len(losses) < warm:
                rate *= (len(losses) + 1) / warm
            elif config.schedule.name == "cosine":
                rate *= (1 + math.cos(math.pi * (len(losses) - warm) / (steps - warm))) / 2
            for group in optimizer.param_groups:
                group["lr"] = rate
            output = model(x[batch])
            loss = F.cross_entropy(output, y[batch]) if y.dim() == 1 else F.mse_loss(output, y[batch].double())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))


PLAIN_CASES: dict[str, tuple[dict[str, Any], int]] = {
    "sgd": ({}, 26),
    "partial batch dropped": ({"batch_size": 16}, 12),
    "partial batch kept": ({"batch_size": 16, "drop_last": False}, 14),
    "batches above the chunk": ({"batch_size": 96, "epochs": 3}, 3),
    "nesterov, decay, cosine, warm-up": (
        {
            "optimizer__nesterov": True,
            "optimizer__weight_decay": 0.05,
            "schedule__name": "cosine",
            "schedule__warmup": 0.2,
        },
        26,
    ),
    "decay of everything": ({"optimizer__weight_decay": 0.05, "optimizer__decay_norm": True}, 26),
    "adamw": (
        {"optimizer__name": "adamw", "optimizer__lr": 0.004, "optimizer__eps": 1e-4, "optimizer__weight_decay": 0.1},
        26,
    ),
    "steps within the first epoch": ({"steps": 5}, 5),
    "steps beyond the epochs": ({"steps": 31}, 31),
}


@pytest.mark.parametrize(("case", "seed"), [*((case, 0) for case in PLAIN_CASES), ("sgd", 3)])
def test_a_seed_alone_is_a_plain_pytorch_loop(digits: Dataset, case: str, seed: int) -> None:
    changes, steps = PLAIN_CASES[case]
    config = tiny(precision="float64", **changes)
    training = trained(config, digits, [seed])
    assert training.step == training.steps == total_steps(config, 104) == steps
    plain = plain_network(config.model.width, seed)
    plain_loop(config, digits, plain, seed, steps)
    ours = training.model.state_dict()
    for (name, value), expected in zip(ours.items(), plain.state_dict().values(), strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-10, atol=1e-12, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("group", [None, 4, 3])
@pytest.mark.parametrize("model", ["mlp", "resnet8"])
def test_unbiased_normalisation_and_ghost_batches_train_as_written_in_plain_operations(
    digits: Dataset, model: str, group: int | None
) -> None:
    config = tiny("consistent_unbiased", precision="float64", norm_batch_size=group, steps=5)
    if model == "resnet8":
        config.model = RESNET8
    start = Training(config, digits, [1])
    plain, _ = plain_copy(start.model)
    training = trained(config, digits, [1])
    plain_loop(config, digits, plain, 1, 5)
    ours = dict(training.model.named_parameters())
    for name, expected in plain.named_parameters():
        torch.testing.assert_close(ours[name], expected, rtol=1e-8, atol=1e-10)


def test_a_regression_is_a_plain_loop_too() -> None:
    dataset = load_dataset(DatasetConfig("friedman1", samples=100))
    config = tiny(precision="float64", model__norm="none", model__depth=1, dataset=DatasetConfig("friedman1", samples=100))
    training = trained(config, dataset, [2])
    torch.manual_seed(2)
    plain = nn.Sequential(nn.Linear(10, 12), nn.ReLU(), nn.Linear(12, 1)).double()
    plain_loop(config, dataset, plain, 2, 20)
    for value, expected in zip(training.model.state_dict().values(), plain.state_dict().values(), strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("model", "variance"),
    [
        ("mlp", "paper"),
        ("mlp", "inverted"),
        ("resnet8", "paper"),
        pytest.param("resnet8", "inverted", marks=pytest.mark.slow),
    ],
)
def test_over_50_steps_a_seed_does_not_depend_on_who_trains_beside_it(digits: Dataset, model: str, variance: str) -> None:
    config = tiny(variance, steps=50)
    if model == "resnet8":
        config.model = RESNET8
    together = trained(config, digits, [5, 0, 2])
    for replica, seed in enumerate([5, 0, 2]):
        alone = trained(config, digits, [seed])
        stacked = replica_state_dict(together.model, replica, 3)
        for name, value in alone.model.state_dict().items():
            apart = (stacked[name].double() - value.double()).norm() / value.double().norm().clamp(min=1e-12)
            assert apart < 1e-4, name


def test_different_seeds_differ_in_weights_and_order(digits: Dataset) -> None:
    training = Training(tiny(), digits, [0, 1])
    first, second = (replica_state_dict(training.model, replica, 2) for replica in (0, 1))
    assert not torch.equal(first["linear1.weight"], second["linear1.weight"])
    assert not torch.equal(*(torch.randperm(104, generator=random) for random in training.order_generators))


@pytest.mark.parametrize(
    "changes", [{}, {"dataset__augment": "crop_flip"}, {"precision": "bfloat16"}, {"norm_batch_size": 4}]
)
def test_the_same_training_twice_is_the_same_to_the_bit(digits: Dataset, changes: dict[str, Any]) -> None:
    runs = []
    for _ in range(2):
        training = Training(tiny(batch_size=16, **changes), digits, [0, 1, 2])
        records = [training.run_epoch(), training.run_epoch()]
        runs.append((training.model.state_dict(), records))
    assert runs[0][1] == runs[1][1]
    assert all(torch.equal(value, runs[1][0][name]) for name, value in runs[0][0].items())


@pytest.mark.parametrize("pair", [("paper", "consistent_biased"), ("consistent_unbiased", "inverted")])
@pytest.mark.parametrize("group", [None, 4])
def test_the_accumulated_variance_never_touches_training(digits: Dataset, pair: tuple[str, str], group: int | None) -> None:
    first, second = (trained(tiny(name, norm_batch_size=group), digits, [0, 1]).model for name in pair)
    for (name, value), other in zip(first.named_parameters(), second.parameters(), strict=True):
        assert torch.equal(value, other), name
    for layer, other_layer in zip(batchnorm_layers(first).values(), batchnorm_layers(second).values(), strict=True):
        assert not torch.equal(layer.running_var, other_layer.running_var)
        for statistic in ("ema_biased", "ema_unbiased", "ema_total"):
            for value, other in zip(layer.ema(statistic), other_layer.ema(statistic), strict=True):
                assert torch.equal(value, other)


def test_the_normalising_variance_does(digits: Dataset) -> None:
    first, second = (trained(tiny(name, steps=3), digits, [0]).model for name in ("paper", "consistent_unbiased"))
    assert not torch.equal(first.head.weight, second.head.weight)


def inputs_seen(config: Config, dataset: Dataset, seeds: list[int]) -> list[Tensor]:
    training = Training(config, dataset, seeds)
    seen: list[Tensor] = []
    training.model.register_forward_pre_hook(lambda module, args: seen.append(args[0].clone()))
    while not training.finished:
        training.run_epoch()
    return seen


@pytest.mark.parametrize("augment", ["none", "crop_flip"])
def test_a_seed_sees_the_same_images_whoever_trains_beside_it(digits: Dataset, augment: str) -> None:
    config = tiny(dataset__augment=augment)
    together = inputs_seen(config, digits, [4, 0])
    assert len(together) == 26
    for replica, seed in enumerate([4, 0]):
        for batch, alone in zip(together, inputs_seen(config, digits, [seed]), strict=True):
            assert torch.equal(batch[:, replica : replica + 1], alone)


def test_every_epoch_has_an_order_and_an_augmentation_of_its_own(digits: Dataset) -> None:
    plain, augmented = (inputs_seen(tiny(dataset__augment=a), digits, [0]) for a in ("none", "crop_flip"))
    assert not torch.equal(torch.cat(plain[:13]), torch.cat(plain[13:]))
    assert not torch.equal(torch.cat(augmented[:13]), torch.cat(plain[:13]))
    images = {tuple(image.flatten().tolist()) for image in digits.train.inputs}
    assert {tuple(image.flatten().tolist()) for image in torch.cat(plain[:13])} == images


def test_two_batch_sizes_see_the_samples_in_the_same_order(digits: Dataset) -> None:
    small, large = (torch.cat(inputs_seen(tiny(batch_size=size, epochs=1), digits, [3])) for size in (8, 26))
    assert torch.equal(small, large)


def test_the_rate_of_every_step_reaches_the_optimizer(digits: Dataset) -> None:
    config = tiny(schedule__name="cosine", schedule__warmup=0.1, optimizer__weight_decay=0.1)
    training = Training(config, digits, [0])
    rates: list[list[float]] = []
    while not training.finished:
        training.run_epoch(lambda step: rates.append([group["lr"] for group in training.optimizer.param_groups]))
    assert rates == [[rate, rate] for rate in training.rates]
    assert max(training.rates) == pytest.approx(0.05 * 8 / 32)


def test_progress_counts_steps_and_a_training_ends_where_it_was_told(digits: Dataset) -> None:
    training = Training(tiny(steps=15), digits, [0, 1])
    told: list[int] = []
    records = []
    while not training.finished:
        records.append(training.run_epoch(told.append))
    assert told == list(range(1, 16))
    assert [record.samples for record in records] == [104, 16]
    assert training.epoch == 2


def test_what_an_epoch_says_of_its_batches_is_what_they_gave(digits: Dataset) -> None:
    config = tiny(precision="float64", drop_last=False, batch_size=16, epochs=1)
    record = Training(config, digits, [3, 1]).run_epoch()
    for replica, seed in enumerate([3, 1]):
        losses = plain_loop(config, digits, plain_network(12, seed), seed, 7)
        sizes = [16] * 6 + [8]
        mean = sum(loss * size for loss, size in zip(losses, sizes, strict=True)) / 104
        assert record.metrics["loss"][replica] == pytest.approx(mean, rel=1e-10)
    assert record.samples == 104


def test_bfloat16_computes_in_bfloat16_and_keeps_its_weights_in_float32(digits: Dataset) -> None:
    training = Training(tiny(precision="bfloat16"), digits, [0, 1])
    kinds = set()
    training.model.register_forward_hook(lambda module, args, output: kinds.add(output.dtype))
    record = training.run_epoch()
    assert kinds == {torch.bfloat16}
    assert {parameter.dtype for parameter in training.model.parameters()} == {torch.float32}
    assert all(math.isfinite(loss) for loss in record.metrics["loss"])
    exact = Training(tiny(), digits, [0, 1]).run_epoch()
    assert record.metrics["loss"] == pytest.approx(exact.metrics["loss"], rel=0.05)
    assert record.metrics["loss"] != exact.metrics["loss"]


def break_replica(training: Training, replica: int, after: int, value: float) -> None:
    """Train to the end; after step `after` one replica's head gets a weight that cannot work."""

    def sabotage(step: int) -> None:
        if step == after:
            with torch.no_grad():
                training.model.head.weight[replica, 0, 0] = value

    if after == 0:
        sabotage(0)
    while not training.finished:
        training.run_epoch(sabotage)


@pytest.mark.parametrize(("after", "value"), [*((after, math.nan) for after in (0, 4, 12, 13, 20)), (4, math.inf)])
def test_a_replica_that_diverges_is_told_with_its_step_and_leaves_the_others_alone(
    digits: Dataset, after: int, value: float
) -> None:
    quiet = trained(tiny(), digits, [0, 1, 2])
    assert quiet.diverged == [None, None, None]
    training = Training(tiny(), digits, [0, 1, 2])
    break_replica(training, 1, after, value)
    assert training.diverged[0] is None
    assert training.diverged[2] is None
    if math.isnan(value):
        assert training.diverged[1] == after + 1
    else:  # ∞·0 where every unit is off: it may take a step more
        assert training.diverged[1] in (after + 1, after + 2)
    for replica in (0, 2):
        ours, theirs = (replica_state_dict(each.model, replica, 3) for each in (training, quiet))
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_the_metrics_of_a_diverged_replica_are_nan_and_of_the_others_unchanged(digits: Dataset) -> None:
    quiet, training = Training(tiny(), digits, [0, 1, 2]), Training(tiny(), digits, [0, 1, 2])
    with torch.no_grad():
        training.model.head.bias[10] = math.nan  # the second replica's first logit
    record, expected = training.run_epoch(), quiet.run_epoch()
    for metric, values in record.metrics.items():
        assert math.isnan(values[1])
        assert (values[0], values[2]) == (expected.metrics[metric][0], expected.metrics[metric][2])


def test_a_training_that_explodes_by_itself_is_told_at_the_first_step_whose_loss_is_not_finite() -> None:
    data = DatasetConfig("friedman1", samples=100)
    dataset = load_dataset(data)
    config = tiny(precision="float64", model__norm="none", model__depth=1, dataset=data, optimizer__lr=300.0, epochs=20)
    training = trained(config, dataset, [0, 1])
    for replica, seed in enumerate([0, 1]):
        torch.manual_seed(seed)
        plain = nn.Sequential(nn.Linear(10, 12), nn.ReLU(), nn.Linear(12, 1)).double()
        losses = plain_loop(config, dataset, plain, seed, training.steps)
        first = next(step for step, loss in enumerate(losses, 1) if not math.isfinite(loss))
        assert training.diverged[replica] == first > 1


def test_a_large_finite_logit_of_a_float64_training_is_no_divergence(digits: Dataset) -> None:
    training = Training(tiny(precision="float64", epochs=1, optimizer__lr=1e-300), digits, [0])
    with torch.no_grad():
        training.model.head.bias[0] = 1e60
    record = training.run_epoch()
    assert training.diverged == [None]
    assert record.metrics["loss"][0] > 1e58


def test_baselines_train(digits: Dataset) -> None:
    for norm in ("group", "layer", "none"):
        record = Training(replace(tiny(), model=replace(tiny().model, norm=norm)), digits, [0, 1]).run_epoch()
        assert all(loss < 4 for loss in record.metrics["loss"])
