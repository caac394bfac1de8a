"""Replica r of R is the same seed trained alone, nothing crosses between replicas, and what cannot be stacked is refused."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from bnstudy.batchnorm.conventions import EMA_STATISTICS
from bnstudy.batchnorm.layers import BatchNorm1d
from bnstudy.batchnorm.mode import batchnorm_layers
from bnstudy.errors import UserError
from bnstudy.training.config import ModelConfig
from bnstudy.training.networks import build_model, replica_state_dict, replicate

CLASSES = 5
SHAPES = {"mlp": (1, 8, 8), "resnet": (3, 8, 8), "torchvision": (1, 8, 8)}
MLP = ModelConfig(width=24)
RESNET8 = ModelConfig(name="resnet8", architecture="resnet", depth=8, width=4)
RESNET20 = ModelConfig(name="resnet20", architecture="resnet", depth=20, width=4)
RESNET56 = ModelConfig(name="resnet56", architecture="resnet", depth=56, width=2)
RESNET18 = ModelConfig(name="resnet18", architecture="torchvision")
RESNET50 = ModelConfig(name="resnet50", architecture="torchvision")


def with_norm(config: ModelConfig, norm: str) -> ModelConfig:
    return ModelConfig(config.name, config.architecture, config.depth, config.width, norm)


def networks(config: ModelConfig, replicas: int, dtype: torch.dtype = torch.float64, **options: Any) -> list[nn.Module]:
    shape = SHAPES[config.architecture]
    return [build_model(config, shape, CLASSES, seed=seed, **options).to(dtype) for seed in range(replicas)]


def own_batches(
    models: Sequence[nn.Module], config: ModelConfig, steps: int, samples: int
) -> list[list[tuple[Tensor, Tensor]]]:
    """For each replica its own batches of (inputs, targets)."""
    dtype = next(models[0].parameters()).dtype
    batches = []
    for replica in range(len(models)):
        random = torch.Generator().manual_seed(100 + replica)
        x = torch.randn(steps, samples, *SHAPES[config.architecture], generator=random, dtype=torch.float64).to(dtype)
        y = torch.randint(0, CLASSES, (steps, samples), generator=random)
        batches.append(list(zip(x, y, strict=True)))
    return batches


def optimizer_of(model: nn.Module, name: str) -> torch.optim.Optimizer:
    if name == "adamw":
        # ε well above rounding: a gradient that is zero but for rounding would otherwise be divided by itself.
        return torch.optim.AdamW(model.parameters(), lr=0.003, weight_decay=0.1, eps=1e-5, fused=True)
    return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=0.01, fused=True)


def train_alone(model: nn.Module, batches: list[tuple[Tensor, Tensor]], optimizer: str) -> None:
    stepper = optimizer_of(model, optimizer)
    for x, y in batches:
        stepper.zero_grad()
        F.cross_entropy(model(x), y).backward()
        stepper.step()


def train_stacked(stacked: nn.Module, batches: list[list[tuple[Tensor, Tensor]]], optimizer: str) -> None:
    """Cross-entropy is a mean over each replica's samples, summed over replicas."""
    stepper, replicas = optimizer_of(stacked, optimizer), len(batches)
    for step in zip(*batches, strict=True):
        x = torch.cat([x for x, _ in step], 1)  # (N, R·C, H, W)
        y = torch.stack([y for _, y in step], 1)  # (N, R)
        stepper.zero_grad()
        logits = stacked(x).view(len(x) * replicas, CLASSES)
        (F.cross_entropy(logits, y.flatten(), reduction="sum") / len(x)).backward()
        stepper.step()


def assert_states_close(actual: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    """Relative to the largest value of each tensor; counts must agree exactly."""
    assert list(actual) == list(expected)
    for name, value in expected.items():
        assert actual[name].shape == value.shape, name
        error = (actual[name] - value).abs().max().item()
        assert error <= tolerance * max(value.abs().max().item(), 1e-3) * value.is_floating_point(), (name, error)


def check(config: ModelConfig, replicas: int, optimizer: str, dtype: torch.dtype, steps: int, **options: Any) -> None:
    models = networks(config, replicas, dtype, **options)
    batches = own_batches(models, config, steps, samples=6)
    stacked = replicate(models)
    train_stacked(stacked, batches, optimizer)
    x = torch.cat([replica[0][0] for replica in batches], 1)
    stacked.eval()
    outputs = stacked(x).unflatten(1, (replicas, CLASSES))
    tolerance = 1e-9 if dtype == torch.float64 else 1e-4
    for replica, model in enumerate(models):
        start = copy.deepcopy(model.state_dict())
        train_alone(model, batches[replica], optimizer)
        moved = max((model.state_dict()[name] - start[name]).abs().max().item() for name in start)
        assert moved > 0.01
        assert_states_close(replica_state_dict(stacked, replica, replicas), model.state_dict(), tolerance)
        alone = model.eval()(batches[replica][0][0])
        torch.testing.assert_close(outputs[:, replica], alone, rtol=10 * tolerance, atol=10 * tolerance)


# ---- replica r of R is the same seed trained alone -------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("replicas", [1, 3, 8])
@pytest.mark.parametrize("config", [MLP, RESNET8, RESNET20], ids=lambda config: config.name)
def test_a_replica_is_its_seed_trained_alone(config: ModelConfig, replicas: int, optimizer: str) -> None:
    check(config, replicas, optimizer, torch.float64, steps=4)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("replicas", [1, 3, 8])
@pytest.mark.parametrize("config", [MLP, RESNET8], ids=lambda config: config.name)
def test_a_replica_is_its_seed_trained_alone_in_single_precision(config: ModelConfig, replicas: int, optimizer: str) -> None:
    check(config, replicas, optimizer, torch.float32, steps=3)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("replicas", [1, 3])
def test_a_replica_of_a_deep_network_is_its_seed_trained_alone(replicas: int, optimizer: str) -> None:
    check(RESNET56, replicas, optimizer, torch.float64, steps=2)


@pytest.mark.parametrize(
    ("replicas", "optimizer"),
    [
        *((1, "sgd"), (1, "adamw"), (3, "sgd")),
        *(pytest.param(*slow, marks=pytest.mark.slow) for slow in ((3, "adamw"), (8, "sgd"), (8, "adamw"))),
    ],
)
def test_a_replica_of_torchvisions_resnet18_is_its_seed_trained_alone(replicas: int, optimizer: str) -> None:
    check(RESNET18, replicas, optimizer, torch.float64, steps=1)


@pytest.mark.slow
@pytest.mark.parametrize("replicas", [1, 3, 8])
def test_a_replica_of_torchvisions_resnet50_is_its_seed_trained_alone(replicas: int) -> None:
    # In double precision only: with m = 6 in most of its layers one step magnifies single rounding beyond any tolerance.
    check(RESNET50, replicas, "sgd", torch.float64, steps=1)


@pytest.mark.parametrize("convention", ["consistent_unbiased", "consistent_biased", "inverted"])
@pytest.mark.parametrize("config", [MLP, RESNET8], ids=lambda config: config.name)
def test_a_replica_is_its_seed_trained_alone_under_every_convention(config: ModelConfig, convention: str) -> None:
    check(config, 3, "sgd", torch.float64, steps=4, convention=convention)


@pytest.mark.parametrize("norm", ["group", "layer", "none"])
@pytest.mark.parametrize("config", [MLP, RESNET8], ids=lambda config: config.name)
def test_a_replica_is_its_seed_trained_alone_under_every_norm(config: ModelConfig, norm: str) -> None:
    check(with_norm(config, norm), 3, "sgd", torch.float64, steps=4)


def test_a_replica_is_its_seed_trained_alone_with_ghost_batches_and_a_cumulative_average() -> None:
    check(MLP, 3, "sgd", torch.float64, steps=4, norm_batch_size=4, momentum=None, convention="inverted", eps=1e-3)


@pytest.mark.parametrize("norm_batch_size", [None, 3])
def test_every_moving_average_of_a_replica_is_its_seeds_own(norm_batch_size: int | None) -> None:
    models = networks(RESNET8, 3, norm_batch_size=norm_batch_size)
    batches = own_batches(models, RESNET8, steps=3, samples=6)
    after = replicate(models)
    for model in (after, *models):
        for layer in batchnorm_layers(model).values():
            layer.track_all_statistics()
    before = replicate(models[:2])
    train_stacked(before, batches[:2], "sgd")
    train_stacked(after, batches, "sgd")
    train_alone(models[1], batches[1], "sgd")
    for name, layer in batchnorm_layers(models[1]).items():
        for statistic in EMA_STATISTICS:
            for alone, *stacks in zip(
                layer.ema(statistic),
                batchnorm_layers(before)[name].ema(statistic),
                batchnorm_layers(after)[name].ema(statistic),
                strict=True,
            ):
                for stack, replicas in zip(stacks, (2, 3), strict=True):
                    torch.testing.assert_close(stack.view(replicas, -1)[1], alone, rtol=1e-9, atol=1e-12)


@settings(max_examples=25, deadline=None)
@given(
    replicas=st.integers(2, 5),
    groups=st.integers(1, 3),
    inputs=st.integers(1, 3),
    outputs=st.integers(1, 3),
    kernel=st.integers(1, 3),
    stride=st.integers(1, 2),
    dilation=st.integers(1, 2),
    bias=st.booleans(),
    dimensions=st.integers(1, 3),
    mode=st.sampled_from(["zeros", "circular"]),
)
def test_any_convolution_is_stacked(
    replicas: int,
    groups: int,
    inputs: int,
    outputs: int,
    kernel: int,
    stride: int,
    dilation: int,
    bias: bool,
    dimensions: int,
    mode: str,
) -> None:
    kind: Any = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dimensions - 1]
    options = {"stride": stride, "dilation": dilation, "padding": 1, "groups": groups, "bias": bias, "padding_mode": mode}
    layers = [kind(inputs * groups, outputs * groups, kernel, dtype=torch.float64, **options) for _ in range(replicas)]
    x = torch.randn(2, replicas, inputs * groups, *[6] * dimensions, dtype=torch.float64)
    expected = torch.cat([layer(x[:, replica]) for replica, layer in enumerate(layers)], 1)
    torch.testing.assert_close(replicate(layers)(x.flatten(1, 2)), expected)


# ---- nothing crosses -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("norm", ["batch", "group", "layer", "none"])
@pytest.mark.parametrize("config", [MLP, RESNET8], ids=lambda config: config.name)
@pytest.mark.parametrize("poisoned", [0, 1])
def test_a_replica_of_nan_leaves_the_others_bit_for_bit_alone(
    config: ModelConfig, norm: str, optimizer: str, poisoned: int
) -> None:
    models = networks(with_norm(config, norm), 3, torch.float32, convention="inverted")
    batches = own_batches(models, config, steps=3, samples=4)
    healthy = replicate(models)
    with torch.no_grad():
        for parameter in models[poisoned].parameters():
            parameter.fill_(torch.nan)
    sick = replicate(models)
    train_stacked(healthy, batches, optimizer)
    train_stacked(sick, batches, optimizer)
    assert all(value.isnan().all() for name, value in replica_state_dict(sick, poisoned, 3).items() if "weight" in name)
    for replica in {0, 1, 2} - {poisoned}:
        one, other = replica_state_dict(healthy, replica, 3), replica_state_dict(sick, replica, 3)
        assert all(torch.equal(one[name], other[name]) for name in one)
        assert all(value.isfinite().all() for value in other.values())


@pytest.mark.parametrize("channels", [1, 3, 5, 16, 17])
@pytest.mark.parametrize("kernel", [1, 3])
def test_nan_stays_within_its_replica_whatever_the_width_of_a_convolution(channels: int, kernel: int) -> None:
    layers = [nn.Conv2d(channels, channels, kernel, padding=kernel // 2) for _ in range(3)]
    x = torch.randn(4, 3, channels, 8, 8)
    results = []
    for value in (0.5, torch.nan):
        nn.init.constant_(layers[1].weight, value)
        stacked = replicate(layers)
        inputs = x.index_fill(1, torch.tensor(1), value).flatten(1, 2).requires_grad_()
        outputs = stacked(inputs)
        outputs.square().sum().backward()
        gradients = [parameter.grad for parameter in (inputs, *stacked.parameters())]
        assert all(gradient is not None for gradient in gradients)
        input_gradient, weight_gradient, bias_gradient = (gradient for gradient in gradients if gradient is not None)
        by_replica = (
            *(outputs.unflatten(1, (3, -1))[:, [0, 2]], input_gradient.unflatten(1, (3, -1))[:, [0, 2]]),
            *(weight_gradient.unflatten(0, (3, -1))[[0, 2]], bias_gradient.unflatten(0, (3, -1))[[0, 2]]),
        )
        results.append(by_replica)
    assert all(torch.equal(healthy, sick) for healthy, sick in zip(*results, strict=True))


@pytest.mark.parametrize("config", [MLP, RESNET8, RESNET18], ids=lambda config: config.name)
def test_the_gradient_of_a_replicas_output_is_zero_for_every_other_replicas_input(config: ModelConfig) -> None:
    stacked = replicate(networks(config, 3, torch.float32))
    x = torch.randn(4, 3 * SHAPES[config.architecture][0], 8, 8, requires_grad=True)
    stacked(x).unflatten(1, (3, CLASSES))[:, 1].square().sum().backward()
    assert x.grad is not None
    by_replica = x.grad.unflatten(1, (3, -1)).abs().sum((0, 2, 3, 4))
    assert by_replica[1] > 0
    assert by_replica[[0, 2]].eq(0).all()


# ---- states ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "replicas", "norm"),
    [
        *itertools.product((MLP, RESNET8), (1, 2, 3), ("batch", "group", "none")),
        *((RESNET18, 1, "batch"), (RESNET18, 2, "none"), (RESNET18, 3, "batch")),
    ],
)
def test_a_replicas_state_is_bit_for_bit_that_of_its_network_and_loads(
    config: ModelConfig, replicas: int, norm: str
) -> None:
    models = networks(with_norm(config, norm), replicas, torch.float32)
    stacked = replicate(models)
    for replica, model in enumerate(models):
        state = replica_state_dict(stacked, replica, replicas)
        assert {name: (value.dtype, value.shape) for name, value in state.items()} == {
            name: (value.dtype, value.shape) for name, value in model.state_dict().items()
        }
        assert all(torch.equal(value, model.state_dict()[name]) for name, value in state.items())
        assert all(value.is_contiguous() for value in state.values())
        networks(with_norm(config, norm), 1, torch.float32)[0].load_state_dict(state, strict=True)


def test_a_stack_goes_on_from_its_own_state_dict() -> None:
    models = networks(RESNET8, 3)
    batches = own_batches(models, RESNET8, steps=2, samples=4)
    stacked, resumed = replicate(models), replicate(list(reversed(models)))
    train_stacked(stacked, batches, "sgd")
    resumed.load_state_dict(stacked.state_dict(), strict=True)
    stacked.eval()
    resumed.eval()
    x = torch.randn(4, 9, 8, 8, dtype=torch.float64)
    assert torch.equal(stacked(x), resumed(x))


def test_trained_states_can_be_stacked_again() -> None:
    models = networks(MLP, 3)
    stacked = replicate(models)
    train_stacked(stacked, own_batches(models, MLP, steps=2, samples=4), "sgd")
    for replica, model in enumerate(models):
        model.load_state_dict(replica_state_dict(stacked, replica, 3))
    again = replicate(models)
    assert again.state_dict().keys() == stacked.state_dict().keys()
    assert all(torch.equal(value, stacked.state_dict()[name]) for name, value in again.state_dict().items())


def test_a_state_is_a_copy() -> None:
    stacked = replicate(networks(MLP, 2))
    before = {name: value.clone() for name, value in stacked.state_dict().items()}
    for value in replica_state_dict(stacked, 1, 2).values():
        value.zero_()
    assert all(torch.equal(value, before[name]) for name, value in stacked.state_dict().items())


@pytest.mark.parametrize(
    ("replica", "replicas", "message"),
    [(3, 3, "replica: 3 is not among 3"), (-1, 3, "replica: -1 is not"), (0, 2, "replicas: 2 .* use 3")],
)
def test_a_replica_that_is_not_there_has_no_state(replica: int, replicas: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replica_state_dict(replicate(networks(MLP, 3)), replica, replicas)


# ---- one replica, and what stacking keeps ----------------------------------------------------------------------------


@pytest.mark.parametrize("config", [MLP, RESNET8, RESNET18], ids=lambda config: config.name)
def test_one_replica_is_the_plain_network_bit_for_bit_and_a_copy(config: ModelConfig) -> None:
    models = networks(config, 1, torch.float32)
    stacked = replicate(models)
    batches = own_batches(models, config, steps=2, samples=4)
    assert [type(module) for module in stacked.modules()] == [type(module) for module in models[0].modules()]
    train_stacked(stacked, batches, "sgd")
    train_alone(models[0], batches[0], "sgd")
    assert all(torch.equal(value, stacked.state_dict()[name]) for name, value in models[0].state_dict().items())


def test_stacking_leaves_the_single_networks_alone() -> None:
    models = networks(RESNET8, 2)
    before = [copy.deepcopy(model.state_dict()) for model in models]
    types = [type(module) for module in models[0].modules()]
    train_stacked(replicate(models), own_batches(models, RESNET8, steps=1, samples=4), "sgd")
    assert [type(module) for module in models[0].modules()] == types
    for model, state in zip(models, before, strict=True):
        assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_batchnorm_keeps_class_options_and_names() -> None:
    models = networks(RESNET8, 3, convention="flax", momentum=0.3, eps=1e-4, norm_batch_size=2)
    stacked = batchnorm_layers(replicate(models))
    assert list(stacked) == list(batchnorm_layers(models[0]))
    for name, layer in batchnorm_layers(models[0]).items():
        wide = stacked[name]
        assert type(wide) is type(layer)
        assert wide.num_features == 3 * layer.num_features
        assert (wide.convention, wide.momentum, wide.eps, wide.norm_batch_size) == (layer.convention, 0.3, 1e-4, 2)


def test_what_does_not_learn_stays_so() -> None:
    models = networks(MLP, 2)
    for model in models:
        model.get_submodule("linear1").requires_grad_(False)
        model.get_submodule("norm1").requires_grad_(False)
        model.eval()
    stacked = replicate(models)
    learns = {name for name, parameter in stacked.named_parameters() if parameter.requires_grad}
    assert learns == {name for name, parameter in models[0].named_parameters() if parameter.requires_grad}
    assert not any(module.training for module in stacked.modules())


class Twice(nn.Module):
    """Uses one layer twice, and keeps it under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.again = self.first
        self.norm = BatchNorm1d(4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.again(F.relu(self.norm(self.first(x))))
        return out


def test_a_users_module_with_a_layer_used_twice_keeps_it_one_layer() -> None:
    models = [Twice().double() for _ in range(3)]
    stacked = replicate(models)
    assert stacked.get_submodule("first") is stacked.get_submodule("again")
    x = torch.randn(5, 3, 4, dtype=torch.float64)
    expected = torch.cat([model(x[:, replica]) for replica, model in enumerate(models)], 1)
    torch.testing.assert_close(stacked(x.flatten(1)), expected)


def test_autocast_gives_a_replica_the_precision_it_would_have_alone() -> None:
    models = [nn.Linear(6, 4, bias=bias) for bias in (True, True)]
    x = torch.randn(5, 12)
    with torch.autocast("cpu", torch.bfloat16):
        assert replicate(models)(x).dtype == models[0](x[:, :6]).dtype == torch.bfloat16


# ---- refusals --------------------------------------------------------------------------------------------------------


class Scale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


@pytest.mark.parametrize(
    ("layer", "name"),
    [
        (nn.Dropout, "Dropout"),
        (lambda: nn.LayerNorm(4), "LayerNorm"),
        (nn.PReLU, "PReLU"),
        (Scale, "Scale"),
        (lambda: nn.Softmax(1), "Softmax"),
    ],
)
def test_a_layer_that_cannot_be_stacked_is_named_with_its_place(layer: Any, name: str) -> None:
    models = [nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.ReLU(), layer())) for _ in range(2)]
    with pytest.raises(UserError, match=rf"layer '1\.1' \({name}\) has no replicated form; use replicas=1, or"):
        replicate(models)
    assert replicate(models[:1])(torch.randn(3, 4)).shape == (3, 4)


def test_a_reparametrised_layer_is_refused() -> None:
    models = [nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))) for _ in range(2)]
    with pytest.raises(UserError, match="has no replicated form"):
        replicate(models)


@pytest.mark.parametrize(
    "other", [nn.Linear(4, 5), nn.Linear(4, 4, bias=False), nn.Conv1d(4, 4, 1), nn.Sequential(nn.Linear(4, 4))]
)
def test_networks_of_different_structure_are_refused(other: nn.Module) -> None:
    for models in (
        [nn.Sequential(nn.Linear(4, 4)), nn.Sequential(other)],
        [nn.Sequential(other), nn.Sequential(nn.Linear(4, 4))],
    ):
        with pytest.raises(ValueError, match="models: number 1 differs from number 0 at layer '0"):
            replicate(models)


def test_a_longer_network_is_refused() -> None:
    short, long = nn.Sequential(nn.Linear(4, 4)), nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    for models in ([short, long], [long, short]):
        with pytest.raises(ValueError, match="models: number 1 differs from number 0 at layer"):
            replicate(models)


def test_tensors_shared_between_layers_are_refused() -> None:
    models = [nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)) for _ in range(2)]
    for model in models:
        model.get_submodule("1").weight = model.get_submodule("0").weight
    with pytest.raises(ValueError, match="models: '1' shares its weight with '0'"):
        replicate(models)


def test_networks_that_keep_different_statistics_are_refused() -> None:
    models = networks(MLP, 2)
    batchnorm_layers(models[1])["norm2"].track_all_statistics()
    with pytest.raises(ValueError, match="models: number 1 differs from number 0 at layer 'norm2'"):
        replicate(models)


def test_replicas_that_have_seen_different_numbers_of_batches_are_refused() -> None:
    models = networks(MLP, 2, torch.float32)
    models[1](torch.randn(4, 1, 8, 8))
    with pytest.raises(ValueError, match="num_batches_tracked of layer 'norm1' differs between replicas"):
        replicate(models)


def test_no_network_is_refused() -> None:
    with pytest.raises(ValueError, match="models: none given"):
        replicate([])
