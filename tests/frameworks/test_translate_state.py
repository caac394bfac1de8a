"""The three goals on small networks; oracles are bnstudy's layers under the target's convention, fed the same batches."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from torch import nn

import bnstudy.batchnorm.layers as ours
from bnstudy.batchnorm.conventions import CONVENTIONS, bessel
from bnstudy.errors import UserError
from bnstudy.frameworks.translate.optimizer import groups_for, translate_optimizer
from bnstudy.frameworks.translate.settings import Settings, settings_of
from bnstudy.frameworks.translate.state import translate_state
from bnstudy.frameworks.translate.values import measured_values

FACTORS = [name for name, convention in CONVENTIONS.items() if convention.accumulate != "total"]
"""Conventions whose stored variances differ by a factor."""
PAIRS = list(itertools.permutations(FACTORS, 2))


def network(convention: str, eps: float = 1e-3, momentum: float | None = 0.2) -> nn.Sequential:
    torch.manual_seed(0)
    options = {"eps": eps, "momentum": momentum, "convention": convention}
    return nn.Sequential(
        nn.Conv2d(2, 3, 3),
        ours.BatchNorm2d(3, **options),
        nn.ReLU(),
        nn.Conv2d(3, 4, 2),
        ours.BatchNorm2d(4, **options),
        nn.Flatten(),
        nn.Linear(4, 5),
        ours.BatchNorm1d(5, **options),
        nn.Linear(5, 2),
    ).double()


def batches(count: int, seed: int, size: int = 4) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(size, 2, 4, 4, dtype=torch.float64, generator=generator) * 2 + 1 for _ in range(count)]


def loaded(model: nn.Sequential, result) -> nn.Sequential:
    model.load_state_dict(result.state)
    for name, eps in result.eps.items():
        model.get_submodule(name).eps = eps
    return model


def feed(model: nn.Module, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    with torch.no_grad():
        return [model.train()(x) for x in inputs]


@pytest.mark.parametrize(("source", "target"), list(itertools.permutations(CONVENTIONS, 2)))
def test_keep_inference_changes_no_output_and_no_tensor(source, target):
    model = network(source)
    feed(model, batches(5, 1))
    result = translate_state(model.state_dict(), source, target, "inference", eps=1e-3)
    other = loaded(network(target), result)
    x = batches(1, 2)[0]
    torch.testing.assert_close(other.eval()(x), model.eval()(x), rtol=0, atol=0)


def test_keep_inference_folds_an_eps_that_the_target_cannot_have():
    model = network("paper")
    feed(model, batches(5, 1))
    result = translate_state(model.state_dict(), "paper", "flax", "inference", eps=1e-3, target_eps=1e-5)
    assert set(result.eps.values()) == {1e-5}
    x = batches(1, 2)[0]
    torch.testing.assert_close(loaded(network("flax"), result).eval()(x), model.eval()(x), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_keep_training_continues_outputs_and_keeps_running_variances_in_step(source, target):
    model = network(source)
    feed(model, batches(5, 1))
    m = measured_values(model, batches(1, 1)[0])
    result = translate_state(model.state_dict(), source, target, "training", eps=1e-3, values=m)
    other = loaded(network(target), result)
    for mine, theirs in zip(feed(model, batches(5, 3)), feed(other, batches(5, 3)), strict=True):
        torch.testing.assert_close(theirs, mine, rtol=1e-11, atol=1e-12)
    kinds = CONVENTIONS[source].accumulate, CONVENTIONS[target].accumulate
    for name, values in m.items():
        a, b = (bessel(values) if kind == "unbiased" else 1.0 for kind in kinds)
        expected = model.get_submodule(name).running_var * b / a
        torch.testing.assert_close(other.get_submodule(name).running_var, expected, rtol=1e-12, atol=0)
        torch.testing.assert_close(
            other.get_submodule(name).running_mean, model.get_submodule(name).running_mean, rtol=1e-12, atol=1e-13
        )


@pytest.mark.parametrize(
    ("source", "target"),
    [("consistent_biased", "consistent_unbiased"), ("consistent_unbiased", "consistent_biased")],
)
def test_between_the_consistent_two_keep_training_keeps_inference_as_well(source, target):
    model = network(source)
    feed(model, batches(5, 1))
    m = measured_values(model, batches(1, 1)[0])
    other = loaded(network(target), translate_state(model.state_dict(), source, target, "training", eps=1e-3, values=m))
    feed(model, batches(3, 3))
    feed(other, batches(3, 3))
    x = batches(1, 2)[0]
    torch.testing.assert_close(other.eval()(x), model.eval()(x), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("momentum", [0.2, None])
@pytest.mark.parametrize(
    ("source", "target"), [pair for pair in PAIRS if len({CONVENTIONS[n].normalize for n in pair}) == 1]
)
def test_as_trained_is_the_target_fed_the_same_batches_and_follows_it_from_there(source, target, momentum):
    model, twin = network(source, momentum=momentum), network(target, momentum=momentum)
    feed(model, batches(6, 1))
    feed(twin, batches(6, 1))
    m = measured_values(model, batches(1, 1)[0])
    alpha = "cumulative" if momentum is None else momentum
    result = translate_state(model.state_dict(), source, target, "as-trained", eps=1e-3, values=m, momentum=alpha)
    moved = loaded(network(target, momentum=momentum), result)
    for x in batches(4, 5):
        for key, value in twin.state_dict().items():
            torch.testing.assert_close(moved.state_dict()[key], value, rtol=1e-12, atol=1e-13)
        torch.testing.assert_close(moved.eval()(x), twin.eval()(x), rtol=1e-11, atol=1e-12)
        feed(moved, [x])
        feed(twin, [x])


@pytest.mark.parametrize("goal", ["inference", "training", "as-trained"])
@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_there_and_back_again_is_exact_to_rounding_in_float32(source, target, goal):
    model = network(source).float()
    feed(model, [x.float() for x in batches(5, 1)])
    m = measured_values(model, batches(1, 1)[0].float())
    there = translate_state(model.state_dict(), source, target, goal, eps=1e-3, values=m, momentum=0.2)
    back = translate_state(there.state, target, source, goal, eps=there.eps, values=m, momentum=0.2)
    for key, value in model.state_dict().items():
        torch.testing.assert_close(back.state[key], value, rtol=3e-7, atol=0)
    assert back.eps == pytest.approx(dict.fromkeys(there.eps, 1e-3), rel=1e-14)


def test_the_given_state_is_left_alone():
    model = network("paper")
    feed(model, batches(3, 1))
    before = copy.deepcopy(model.state_dict())
    m = measured_values(model, batches(1, 1)[0])
    translate_state(model.state_dict(), "paper", "karpathy", "training", eps=1e-3, values=m)
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key])


OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05),
    "sgd momentum decay": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=0.01, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01, eps=1e-4, weight_decay=0.01, amsgrad=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, eps=1e-4, weight_decay=0.1),
}


def learn(model: nn.Module, optimizer: torch.optim.Optimizer, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    outputs = []
    for x in inputs:
        optimizer.zero_grad()
        y = model.train()(x)
        (y - x.mean((1, 2, 3)).unsqueeze(1)).square().mean().backward()
        optimizer.step()
        outputs.append(y.detach())
    return outputs


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize(
    ("source", "target"),
    [("consistent_biased", "consistent_unbiased"), ("consistent_unbiased", "paper"), ("paper", "inverted")],
)
def test_training_with_a_translated_optimizer_goes_on_as_if_nothing_had_happened(source, target, kind, named):
    model = network(source)
    optimizer = OPTIMIZERS[kind](model.named_parameters() if named else model.parameters())
    learn(model, optimizer, batches(5, 1))
    m = measured_values(model, batches(1, 1)[0])
    result = translate_state(model.state_dict(), source, target, "training", eps=1e-3, values=m)
    names = None if named else [name for name, _ in model.named_parameters()]
    state = translate_optimizer(optimizer.state_dict(), result.gains, names)
    other = loaded(network(target), result)
    continued = OPTIMIZERS[kind](groups_for(state, other.named_parameters()))
    continued.load_state_dict(state)
    expected = learn(model, optimizer, batches(20, 3))
    for mine, theirs in zip(expected, learn(other, continued, batches(20, 3)), strict=True):
        torch.testing.assert_close(theirs, mine, rtol=1e-7, atol=1e-8)


def test_without_the_optimizer_translation_training_would_part():
    model = network("consistent_biased")
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    learn(model, optimizer, batches(5, 1))
    m = measured_values(model, batches(1, 1)[0])
    result = translate_state(model.state_dict(), "flax", "karpathy", "training", eps=1e-3, values=m)
    other = loaded(network("karpathy"), result)
    naive = OPTIMIZERS["sgd"](other.parameters())
    mine, theirs = (learn(net, opt, batches(20, 3))[-1] for net, opt in ((model, optimizer), (other, naive)))
    assert (mine - theirs).abs().max() > 1e-3


# ---- refusals ---------------------------------------------------------------------------------------------------------


def state_of(model: nn.Module) -> dict[str, torch.Tensor]:
    return dict(model.state_dict())


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({}, {"goal": "both"}, "goal: 'both' is unknown"),
        ({}, {"source": "caffe2"}, "source: 'caffe2' is no framework"),
        ({}, {"goal": "as-trained", "momentum": 0.1}, "values: m, the values per channel in training, is unknown"),
        ({}, {"goal": "as-trained", "values": {"1": 4}}, "momentum: the weight of the new batch in training is unknown"),
        ({}, {"goal": "as-trained", "values": {"1": 4}, "momentum": 0.1}, "values: layer '4' is missing"),
        ({"1.num_batches_tracked": None}, {"goal": "as-trained"}, "steps: layer '1' does not count its batches"),
        ({}, {"goal": "as-trained", "steps": 3}, "steps: 3 was given but layer '1' counted 5"),
        ({"1.running_var": torch.full((3,), 1e-3)}, {"goal": "as-trained"}, "check momentum and steps"),
        ({"1.running_mean": None}, {}, "'1.running_var' has no '1.running_mean' beside it"),
        ({"1.weight": torch.ones(4)}, {}, "'1.weight' has shape (4,), '1.running_var' has (3,); they must be equal"),
        ({"1.running_var": torch.ones(3, 1)}, {}, "'1.running_var' has shape (3, 1)"),
        ({"1.weight": None}, {"goal": "training", "target": "karpathy"}, "keep: layer '1' has no γ"),
        ({"1.weight": None}, {"target_eps": 1e-2}, "target_eps: layer '1' has no γ to fold ε into"),
        ({}, {"goal": "training", "target_eps": 1e-2}, "can be folded into γ for --keep inference only"),
        ({}, {"eps": {"1": 1e-3}}, "eps: layer '4' is missing"),
    ],
)
def test_what_is_wrong_or_missing_is_said(change, options, message):
    model = network("paper")
    feed(model, batches(5, 1))
    state = {key: value for key, value in (state_of(model) | change).items() if value is not None}
    m = {"1": 16, "4": 4, "7": 4}
    asked = {"source": "paper", "target": "flax", "goal": "inference", "eps": 1e-3} | options
    if options.get("goal") == "as-trained" and not {"values", "momentum"} & options.keys():
        asked |= {"values": m, "momentum": 0.2}
    if options.get("goal") == "training":
        asked |= {"values": m}
    with pytest.raises(UserError) as error:
        translate_state(state, asked.pop("source"), asked.pop("target"), asked.pop("goal"), **asked)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_state_without_batchnorm_is_refused():
    with pytest.raises(UserError, match="no BatchNorm buffers"):
        translate_state(nn.Linear(2, 2).state_dict(), "torch", "flax", "inference", eps=1e-5)


def test_nothing_is_needed_where_nothing_is_rescaled():
    state = state_of(network("paper"))
    assert translate_state(state, "torch", "tinygrad", "as-trained", eps=1e-3).state.keys() == state.keys()
    assert translate_state(state, "torch", "mlx", "training", eps=1e-3).state.keys() == state.keys()


NAMINGS = {
    "flax linen": ("batch_stats/{}/mean", "batch_stats/{}/var", "params/{}/scale", "params/{}/bias"),
    "flax nnx": ("{}.mean", "{}.var", "{}.scale", "{}.bias"),
    "keras": ("{}/moving_mean", "{}/moving_variance", "{}/gamma", "{}/beta"),
    "paddle": ("{}._mean", "{}._variance", "{}.weight", "{}.bias"),
    "torch in a wrapper": ("module.{}.running_mean", "module.{}.running_var", "module.{}.weight", "module.{}.bias"),
}


@pytest.mark.parametrize("naming", NAMINGS)
def test_every_framework_naming_is_understood_and_kept(naming):
    keys = [key.format("block1/bn") if "/" in key else key.format("block1.bn") for key in NAMINGS[naming]]
    state = dict(zip(keys, (torch.zeros(3), torch.full((3,), 2.0), torch.ones(3), torch.zeros(3)), strict=True))
    name = {"flax linen": "block1/bn", "keras": "block1/bn", "torch in a wrapper": "module.block1.bn"}.get(
        naming, "block1.bn"
    )
    result = translate_state(state, "consistent_biased", "karpathy", "training", eps=1e-3, values={name: 4})
    assert list(result.state) == keys
    torch.testing.assert_close(result.state[keys[1]], torch.full((3,), 2 * 4 / 3))
    torch.testing.assert_close(result.state[keys[2]], torch.full((3,), (4 / 3) ** 0.5))
    assert result.eps == {name: pytest.approx(1e-3 * 4 / 3)}


def test_settings_are_read_from_a_model_and_m_is_measured():
    model = network("consistent_biased", eps=1e-3, momentum=0.2)
    assert settings_of(model) == Settings("consistent_biased", 1e-3, 0.2)
    measured = settings_of(model, batches(1, 0)[0])
    assert (measured.batch_size, measured.values) == (4, {"1": 16, "4": 4, "7": 4})
    assert model.training
    assert int(model[1].num_batches_tracked) == 0
    model[1].momentum = 0.3
    with pytest.raises(UserError, match="momentum: layers differ"):
        settings_of(model)
    with pytest.raises(UserError, match="no BatchNorm layers"):
        settings_of(nn.Linear(2, 2))


def test_a_layer_that_sees_two_sizes_has_no_single_m():
    layer = nn.BatchNorm1d(3)
    twice = nn.Sequential(layer, nn.Unflatten(1, (3, 1)), nn.Upsample(2), layer)
    with pytest.raises(ValueError, match="sees 4 and 8 values per channel"):
        measured_values(twice, torch.randn(4, 3))
