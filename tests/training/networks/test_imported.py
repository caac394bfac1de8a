"""A network of the user's own trains as the study's own do, and a factory that does not bring one is told so in a line."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from bnstudy.batchnorm.mode import batchnorm_layers
from bnstudy.errors import UserError
from bnstudy.sweeps.config import Config
from bnstudy.training.checkpoint import load_checkpoint, save_checkpoint
from bnstudy.training.config import ModelConfig
from bnstudy.training.data import Dataset, DatasetShape
from bnstudy.training.imported import with_imports
from bnstudy.training.loop import Training
from bnstudy.training.measuring import measure_block
from bnstudy.training.networks import NetworkFacts, block_size, build_model, network_facts
from bnstudy.training.networks.grouping import ACTIVATIONS, WEIGHTS
from tests.tiny import tiny
from tests.training import own

IMAGES = DatasetShape("classification", (1, 8, 8), 10, 104, 40)


def imported(name: str, **args: Any) -> ModelConfig:
    return ModelConfig("import", "import", factory=f"tests.training.own:{name}", args=args)


def of(name: str, **changes: Any) -> Config:
    return tiny(model=imported(name), probe_batches=8, **changes)


def facts(model: ModelConfig, shape: DatasetShape = IMAGES) -> NetworkFacts:
    return network_facts(model, shape.input_shape, shape.outputs)


def block_of(config: Config, shape: DatasetShape) -> int:
    return block_size(config, facts(config.model, shape))


def state(training: Training) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in training.model.state_dict().items()}


@pytest.mark.parametrize("variance", ["paper", "consistent_unbiased"])
@pytest.mark.parametrize("norm_batch_size", [None, 4])
def test_the_study_s_own_mlp_gives_the_same_numbers_bit_for_bit_when_a_user_writes_it(
    digits: Dataset, variance: str, norm_batch_size: int | None
) -> None:
    ours = tiny(variance, probe_batches=8, norm_batch_size=norm_batch_size, eps=1e-3, momentum=0.2)
    theirs = dataclasses.replace(ours, model=imported("mlp"))
    one, other = (measure_block(config, digits, [1, 2]) for config in (ours, theirs))
    assert one.metrics == other.metrics
    assert one.folds == other.folds
    # What theory says of layers that stand on each other is known of the study's own network alone.
    apart = {"layer": "", "predicted_ratio": 0.0}
    assert [row | apart for row in one.layers] == [row | apart for row in other.layers]


def test_layers_take_the_configuration_s_convention_and_constants_and_the_generator_is_given_back() -> None:
    before = torch.random.get_rng_state()
    settings: dict[str, Any] = {"convention": "inverted", "eps": 0.25, "momentum": None, "norm_batch_size": 4}
    model = build_model(imported("mlp", width=5), (1, 8, 8), 10, seed=3, **settings)
    assert torch.equal(before, torch.random.get_rng_state())
    assert model.training
    layers = batchnorm_layers(model)
    assert list(layers) == ["2", "5"]
    for layer in layers.values():
        assert layer.convention.name == "inverted"
        assert (layer.num_features, layer.eps, layer.momentum, layer.norm_batch_size) == (5, 0.25, None, 4)


def test_a_seed_decides_the_weights() -> None:
    one, same, other = (build_model(imported("conv"), (1, 8, 8), 10, seed=seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["conv1.weight"], other["conv1.weight"])


@pytest.mark.parametrize("name", ["conv", "mlp"])
def test_networks_that_treat_channels_alike_train_as_replicas_each_as_if_alone(digits: Dataset, name: str) -> None:
    config = of(name, precision="float64", epochs=1)
    assert facts(config.model).unstackable is None
    together = measure_block(config, digits, [0, 1]).metrics
    alone = [row for seed in (0, 1) for row in measure_block(config, digits, [seed]).metrics]
    key = ("seed", "epoch", "split", "statistic")
    losses = [{tuple(row[part] for part in key): row["loss"] for row in rows} for rows in (together, alone)]
    assert losses[0].keys() == losses[1].keys()
    for cell, loss in losses[0].items():
        assert loss == pytest.approx(losses[1][cell], rel=1e-9), cell


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("dropped", "layer '4' (Dropout) has no replicated form"),
        ("functional_dropout", "its forward draws random numbers"),
        ("joined", "its forward mixes the channels of two networks"),
        ("counted", "its forward mixes the channels of two networks"),
        ("tied", "'other' shares its weight with 'one', which replicas cannot"),
    ],
)
def test_networks_that_cannot_be_stacked_train_one_by_one(digits: Dataset, name: str, reason: str) -> None:
    config = of(name, epochs=1)
    assert facts(config.model).unstackable == reason
    assert block_of(config, IMAGES) == 1
    assert block_of(dataclasses.replace(config, device="cuda"), IMAGES) == 1
    assert block_of(dataclasses.replace(config, replicas=1), IMAGES) == 1
    with pytest.raises(UserError) as caught:
        block_of(dataclasses.replace(config, replicas=4), IMAGES)
    assert str(caught.value) == (
        f"replicas: 4 networks of 'tests.training.own:{name}' cannot train as one module ({reason}); use 1, or auto"
    )
    with pytest.raises(UserError, match="cannot train as one module"):
        Training(config, digits, [0, 1])
    measured = measure_block(config, digits, [0])
    assert not measured.diverged
    assert {row["statistic"] for row in measured.metrics} >= {"batch", "ema_total", "population_total"}
    assert len(measured.layers) == 6 * len(batchnorm_layers(build_model(config.model, (1, 8, 8), 10, seed=0)))


def test_the_block_follows_the_rule_by_the_sizes_of_the_network() -> None:
    found = facts(imported("conv"))
    assert (found.activations, found.weights) == (4 * 8 * 8, 4 * 4 * 9)
    batch_size = ACTIVATIONS["resnet"] // (4 * found.activations)
    assert block_of(of("conv"), IMAGES) == 16
    assert block_of(of("conv", batch_size=batch_size), IMAGES) == 4
    assert block_of(of("conv", replicas=3), IMAGES) == 3
    features = DatasetShape("regression", (64,), 1, 100, 100)
    width = WEIGHTS["mlp"] // 64 // 2
    assert block_of(tiny(model=imported("mlp", width=width, depth=1), batch_size=2), features) == 2


def test_dropout_draws_from_the_seed_whatever_was_drawn_before_and_gives_the_generator_back(digits: Dataset) -> None:
    runs = []
    for disturbance in (1, 2):
        torch.manual_seed(disturbance)
        training = Training(of("dropped"), digits, [5])
        before = torch.random.get_rng_state()
        training.run_epoch()
        assert torch.equal(before, torch.random.get_rng_state())
        torch.rand(disturbance)
        training.run_epoch()
        runs.append(state(training))
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])


@pytest.mark.parametrize("name", ["dropped", "tied"])
def test_an_interrupted_training_goes_on_with_the_same_numbers(digits: Dataset, name: str, tmp_path: Path) -> None:
    config = of(name)
    whole, first, second = (Training(config, digits, [3]) for _ in range(3))
    first.run_epoch()
    save_checkpoint(first, [], tmp_path / "it.safetensors")
    load_checkpoint(second, tmp_path / "it.safetensors")
    second.run_epoch()
    for _ in range(2):
        whole.run_epoch()
    expected, found = state(whole), state(second)
    assert all(torch.equal(expected[key], found[key]) for key in expected)


@pytest.mark.parametrize("changes", [{"port__variance": "paper", "port__epochs": 1}, {"precision": "bfloat16"}])
def test_a_port_and_reduced_precision_work_with_an_import(digits: Dataset, changes: dict[str, Any]) -> None:
    assert not measure_block(of("conv", variance="consistent_biased", **changes), digits, [0, 1]).diverged


def test_the_identity_control_works_with_an_import(digits: Dataset) -> None:
    config = tiny("consistent_biased", model=imported("conv"), variance__rescaled=True, precision="float64", probe_batches=0)
    other = tiny("consistent_unbiased", model=imported("conv"), precision="float64", probe_batches=0)
    control, original = (measure_block(each, digits, [0]).metrics for each in (config, other))
    loss = [
        next(row["loss"] for row in rows if row["statistic"] == statistic and row["epoch"] == 2)
        for rows, statistic in ((control, "ema_biased"), (original, "ema_unbiased"))
    ]
    assert loss[0] == pytest.approx(loss[1], rel=1e-6)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", ["conv", "dropped"])
def test_an_import_trains_on_the_gpu_twice_alike(digits: Dataset, name: str) -> None:
    there = dataclasses.replace(
        digits,
        **{
            split: dataclasses.replace(part, inputs=part.inputs.cuda(), targets=part.targets.cuda())
            for split, part in (("train", digits.train), ("test", digits.test))
        },
    )
    one, other = (measure_block(of(name, device="cuda"), there, [0]).metrics for _ in range(2))
    assert one == other


OWN = "'tests.training.own:"
CALLED = "it is called as build(input_shape, outputs, **model.args)"
ONCE = "use a BatchNorm layer for each place, none idle"
MISTAKES = {
    "raises": [f"{OWN}raises' raises RuntimeError: out of ideas (own.py, line ", CALLED],
    "no_module": [f"{OWN}no_module' returns a list; use return a torch.nn.Module"],
    "no_norm": [f"{OWN}no_norm' builds no BatchNorm layer", "use BatchNorm1d, BatchNorm2d or BatchNorm3d"],
    "group_norm": [f"{OWN}group_norm' builds no BatchNorm layer"],
    "lazy": [f"{OWN}lazy' builds layers whose sizes are not known yet", "not lazy"],
    "synchronised": [f"{OWN}synchronised' builds layers that cannot be studied", "SyncBatchNorm", "use BatchNorm1d"],
    "untracked": ["layer '2' with track_running_stats=False", "use True"],
    "one_output_more": ["gives outputs of shape (2, 11) in evaluation mode", "use (2, 10) for 2 samples of shape (1, 8, 8)"],
    "pair": ["gives a tuple in training mode", "use (2, 10)"],
    "for_images": ["raises RuntimeError: Given groups=1", "in evaluation mode, on 2 samples of shape (1, 8, 8)"],
    "twice": ["layer '2', which runs 2 times in a pass", ONCE],
    "idle": ["layer 'spare', which never runs in evaluation mode", ONCE],
    "kept": [f"{OWN}kept' gives networks that share their parameters", "build a new network in each call"],
    "unseeded": ["gives another '1.weight' under the same seed", "PyTorch's own random numbers"],
    "frozen": ["builds nothing that can be trained", "requires_grad"],
    "NUMBER": ["is of type int, which cannot be called"],
    "cnov": ["tests.training.own has no 'cnov'; did you mean conv?"],
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_factory_that_builds_something_else_is_told_so_in_one_line(name: str) -> None:
    with pytest.raises(UserError) as caught:
        facts(imported(name))
    text = str(caught.value)
    assert text.startswith("model.factory: ")
    assert len(text.splitlines()) == 1
    for part in MISTAKES[name]:
        assert part in text


@pytest.mark.parametrize(
    ("model", "text"),
    [
        (
            ModelConfig("import", "import"),
            "model.factory: null names no function; model=import needs model.factory=pkg.module:function",
        ),
        (imported("conv", wdith=3), "unexpected keyword argument 'wdith'"),
        (dataclasses.replace(imported("conv"), norm="group"), "model.norm: 'group' is the factory's own affair"),
        (
            dataclasses.replace(imported("conv"), args={"width": {1, 2}}),
            "model.args: {'width': {1, 2}} has a value that cannot",
        ),
        (dataclasses.replace(imported("conv"), args={"a-b": 1}), "model.args: 'a-b' is no name of an argument"),
        (dataclasses.replace(imported("conv"), source="other"), "has changed since the study was planned; run it again"),
        (ModelConfig(factory="nets:build"), "model.factory: 'nets:build' is nothing to model 'mlp'; use model=import"),
        (ModelConfig(args={"width": 3}), "model.args: {'width': 3} is nothing to model 'mlp'; use model=import"),
    ],
)
def test_a_setting_that_an_import_cannot_have_is_refused_in_one_line(model: ModelConfig, text: str) -> None:
    with pytest.raises(UserError) as caught:
        build_model(model, (1, 8, 8), 10, seed=0)
    assert text in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_an_import_is_called_what_its_factory_is_unless_it_is_named() -> None:
    assert with_imports(of("conv")).model.name == "tests.training.own:conv"
    named = of("conv")
    named.model.name = "mine"
    assert with_imports(named).model.name == "mine"
    assert with_imports(tiny()) == tiny()


def test_the_source_s_digest_is_that_of_the_factory_s_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("digested.py").write_text("from tests.training.own import conv\n")
    here = ModelConfig("import", "import", factory="digested:conv")
    digests = []
    for comment in ("", "# edited", ""):
        Path("digested.py").write_text(f"from tests.training.own import conv\n{comment}")
        source = with_imports(tiny(model=here)).model.source
        assert source is not None
        digests.append(source)
    assert len(digests[0]) == 16
    assert digests[0] != digests[1]
    assert digests[0] == digests[2]
    assert digests[0] != with_imports(of("conv")).model.source


def test_checking_is_not_repeated_for_a_source_that_was_checked() -> None:
    own._KEPT.clear()
    resolved = with_imports(of("conv")).model
    assert facts(resolved) is facts(resolved)
