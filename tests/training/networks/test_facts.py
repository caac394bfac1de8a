"""What planning finds out about a network, against the same network built and run as a user would."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from bnstudy.training.config import ModelConfig
from bnstudy.training.networks import build_model, network_facts
from tests.tiny import RESNET8

MLP = ModelConfig()
RESNET18 = ModelConfig("resnet18", "torchvision")
RESNET50 = ModelConfig("resnet50", "torchvision")
NETWORKS = [MLP, ModelConfig(depth=5, width=3), RESNET8, RESNET18, RESNET50]


@pytest.mark.parametrize("norm", ["batch", "group", "none"])
@pytest.mark.parametrize("config", NETWORKS, ids=lambda config: f"{config.name} {config.depth} {config.width}")
@pytest.mark.parametrize("input_shape", [(1, 8, 8), (3, 33, 20)])
def test_the_facts_are_those_of_the_built_network(config: ModelConfig, norm: str, input_shape: tuple[int, ...]) -> None:
    config = ModelConfig(config.name, config.architecture, config.depth, config.width, norm)
    model = build_model(config, input_shape, 10, seed=3).eval()
    positions: dict[str, int] = {}
    sizes = [0]

    def note(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(layer: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
                positions[name] = args[0][0, 0].numel()
            if isinstance(layer, nn.Linear | nn.Conv2d):
                sizes.append(output[0].numel())  # of the head last

        return hook

    for name, layer in model.named_modules():
        layer.register_forward_hook(note(name))
    model(torch.randn(3, *input_shape))
    facts = network_facts(config, input_shape, 10)
    assert facts.input_shape == input_shape
    assert facts.positions == positions
    assert list(facts.positions) == [name for name, _ in model.named_modules() if name in positions]
    assert facts.activations == max(sizes[:-1])
    assert facts.weights == max(parameter.numel() for parameter in model.parameters())
    assert facts.unstackable is None


@pytest.mark.parametrize("side", [8, 28, 32])
def test_the_last_stage_of_torchvisions_resnet_has_one_value_a_sample_on_small_images(side: int) -> None:
    seen = network_facts(RESNET18, (3, side, side), 10).values_per_channel(6)
    assert {m for name, m in seen.items() if name.startswith("layer4")} == {6}
    assert seen["bn1"] == 6 * (side // 2) ** 2


@pytest.mark.parametrize("config", [MLP, RESNET8, RESNET18], ids=lambda config: config.name)
def test_training_is_refused_exactly_where_a_layer_has_one_value(config: ModelConfig) -> None:
    for samples in (1, 2):
        model = build_model(config, (1, 8, 8), 10, seed=0)
        if 1 in network_facts(config, (1, 8, 8), 10).values_per_channel(samples).values():
            with pytest.raises(ValueError, match="more than 1 value per channel"):
                model(torch.randn(samples, 1, 8, 8))
        else:
            assert model(torch.randn(samples, 1, 8, 8)).isfinite().all()


@pytest.mark.parametrize(("batch_size", "group"), [(8, 4), (4, 4), (3, 4), (1, 4), (7, None)])
def test_a_ghost_batch_counts_its_own_samples(batch_size: int, group: int | None) -> None:
    facts = network_facts(MLP, (1, 8, 8), 10)
    assert facts.values_per_channel(batch_size, group) == dict.fromkeys(("norm1", "norm2"), min(batch_size, group or 99))


def test_a_network_that_no_machine_could_hold_is_measured_too() -> None:
    width = 10**7
    facts = network_facts(ModelConfig(width=width), (1, 8, 8), 10)
    assert (facts.activations, facts.weights) == (width, width**2)


def test_measuring_draws_nothing_from_the_global_generator_and_is_done_once() -> None:
    before = torch.random.get_rng_state()
    config = ModelConfig(width=13)
    assert network_facts(config, (1, 8, 8), 10) is network_facts(ModelConfig(width=13), (1, 8, 8), 10)
    assert torch.equal(before, torch.random.get_rng_state())
