"""How many seeds train together is a fixed function of model, batch and input size."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bnstudy.sweeps.config import Config
from bnstudy.training.config import ModelConfig
from bnstudy.training.data import DatasetShape
from bnstudy.training.networks import block_size, build_model, network_facts
from bnstudy.training.networks.grouping import LARGEST

DIGITS = DatasetShape("classification", (1, 8, 8), 10, 1437, 360)
FASHION = DatasetShape("classification", (1, 28, 28), 10, 60_000, 10_000)
MLP = ModelConfig()
RESNET8 = ModelConfig("resnet8", "resnet", 8, 16)
RESNET18 = ModelConfig("resnet18", "torchvision")

models = st.one_of(
    st.builds(ModelConfig, st.just("mlp"), st.just("mlp"), st.integers(1, 8), st.integers(1, 4096)),
    st.builds(ModelConfig, st.just("resnet"), st.just("resnet"), st.sampled_from([8, 20, 56]), st.integers(1, 256)),
    st.just(RESNET18),
)
sides = st.integers(1, 64)
batch_sizes = st.integers(1, 4096)


def block_of(config: Config, shape: DatasetShape) -> int:
    return block_size(config, network_facts(config.model, shape.input_shape, shape.outputs))


def images(side: int) -> DatasetShape:
    return DatasetShape("classification", (3, side, side), 10, 50_000, 10_000)


@given(models, batch_sizes, sides)
def test_a_block_is_a_power_of_two_up_to_the_largest(model: ModelConfig, batch_size: int, side: int) -> None:
    block = block_of(Config(model=model, batch_size=batch_size), images(side))
    assert 1 <= block <= LARGEST
    assert math.log2(block).is_integer()


@given(models, batch_sizes, batch_sizes, sides)
def test_a_larger_batch_never_makes_a_larger_block(model: ModelConfig, one: int, other: int, side: int) -> None:
    small, large = sorted((one, other))
    config = Config(model=model)
    blocks = [block_of(replace(config, batch_size=size), images(side)) for size in (small, large)]
    assert blocks[0] >= blocks[1]


@given(models, batch_sizes, sides, sides)
def test_a_larger_image_never_makes_a_larger_block(model: ModelConfig, batch_size: int, one: int, other: int) -> None:
    config = Config(model=model, batch_size=batch_size)
    small, large = (block_of(config, images(side)) for side in sorted((one, other)))
    assert small >= large


@given(models, batch_sizes, sides, st.integers(1, 100), st.sampled_from(["cpu", "cuda"]))
def test_a_number_of_replicas_overrules_the_rule(
    model: ModelConfig, batch_size: int, side: int, replicas: int, device: str
) -> None:
    config = Config(model=model, batch_size=batch_size, replicas=replicas, device=device)
    assert block_of(config, images(side)) == replicas


@given(models, batch_sizes, sides)
def test_seeds_epochs_and_convention_do_not_change_the_block(model: ModelConfig, batch_size: int, side: int) -> None:
    config = Config(model=model, batch_size=batch_size)
    other = replace(config, seeds=3, epochs=99, momentum=None, eps=1e-3, variance=replace(config.variance, name="flax"))
    assert block_of(config, images(side)) == block_of(other, images(side))


@pytest.mark.parametrize(
    ("model", "shape", "batch_size", "block"),
    [
        (MLP, DIGITS, 8, 16),
        (MLP, DIGITS, 128, 16),
        (MLP, DIGITS, 512, 4),
        (MLP, FASHION, 8, 8),
        (RESNET8, DIGITS, 32, 16),
        (RESNET8, DIGITS, 64, 8),
        (RESNET8, FASHION, 2, 16),
        (RESNET8, FASHION, 32, 1),
        (RESNET18, DIGITS, 2, 1),
    ],
)
def test_the_study_s_models_group_as_they_were_measured_to_gain(
    model: ModelConfig, shape: DatasetShape, batch_size: int, block: int
) -> None:
    assert block_of(Config(model=model, batch_size=batch_size), shape) == block


@pytest.mark.parametrize(
    "model", [MLP, ModelConfig(depth=1), ModelConfig(width=4), RESNET8, pytest.param(RESNET18, marks=pytest.mark.slow)]
)
def test_the_limit_on_weights_is_that_of_the_network_s_largest_layer(
    model: ModelConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = build_model(model, DIGITS.input_shape, DIGITS.outputs, seed=0)
    largest = max(parameter.numel() for parameter in network.parameters() if parameter.dim() > 1)
    config = Config(model=model, batch_size=2)
    for limit, block in ((4 * largest, 4), (4 * largest - 1, 2), (largest - 1, 1)):
        monkeypatch.setattr("bnstudy.training.networks.grouping.WEIGHTS", dict.fromkeys(("mlp", "resnet"), limit))
        assert block_of(config, DIGITS) == block
