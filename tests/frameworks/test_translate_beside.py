"""What else lies in a checkpoint: optimizers and schedulers that must follow γ, second states, trees, and what is stale."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from bnstudy.batchnorm.layers import BatchNorm1d
from bnstudy.errors import UserError
from bnstudy.frameworks.translate.command import translate
from bnstudy.frameworks.translate.files import load
from bnstudy.frameworks.translate.optimizer import groups_for
from bnstudy.frameworks.translate.options import Options

RESCALING = Options("flax", "karpathy", keep="training", batch_size=8, eps=1e-5)
SCHEDULERS = {
    "steps": lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5),
    "one cycle": lambda optimizer: torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.02, total_steps=30),
    "warm-up, then cosine": lambda optimizer: torch.optim.lr_scheduler.SequentialLR(
        optimizer,
        [
            torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, total_iters=3),
            torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 20),
        ],
        [3],
    ),
}


def network(convention: str, eps: float = 1e-5) -> nn.Sequential:
    torch.manual_seed(0)
    norms = [BatchNorm1d(4, eps=eps, convention=convention) for _ in range(2)]
    return nn.Sequential(nn.Linear(3, 4), norms[0], nn.ReLU(), nn.Linear(4, 4), norms[1], nn.Linear(4, 2)).double()


def learn(model, optimizer, scheduler, steps: range) -> list[torch.Tensor]:
    outputs = []
    for step in steps:
        x = torch.randn(8, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        y = model.train()(x)
        (y - x[:, :2]).square().mean().backward()
        optimizer.step()
        scheduler.step()
        outputs.append(y.detach())
    return outputs


@pytest.mark.parametrize("kind", SCHEDULERS)
def test_a_lightning_checkpoint_s_training_goes_on_as_if_nothing_had_happened(kind, tmp_path):
    model = network("consistent_biased")
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, eps=1e-4, weight_decay=0.1)
    scheduler = SCHEDULERS[kind](optimizer)
    learn(model, optimizer, scheduler, range(5))
    saved = {
        "epoch": 2,
        "state_dict": model.state_dict(),
        "optimizer_states": [optimizer.state_dict()],
        "lr_schedulers": [scheduler.state_dict()],
    }
    torch.save(copy.deepcopy(saved), tmp_path / "run.ckpt")
    lines = translate(tmp_path / "run.ckpt", tmp_path / "out.ckpt", RESCALING)
    (note,) = [line for line in lines if line.startswith("γ was rescaled")]
    assert "optimizer_states/0, lr_schedulers/0" in note
    assert "groups_for" in note
    after = torch.load(tmp_path / "out.ckpt", weights_only=True)
    other = network("karpathy", eps=1e-5 * 8 / 7)
    other.load_state_dict(after["state_dict"])
    groups = groups_for(after["optimizer_states"][0], other.named_parameters())
    continued = torch.optim.AdamW([group | {"initial_lr": 0.01} for group in groups], lr=0.01)
    rates = SCHEDULERS[kind](continued)
    continued.load_state_dict(after["optimizer_states"][0])
    rates.load_state_dict(after["lr_schedulers"][0])
    expected = learn(model, optimizer, scheduler, range(5, 25))
    for mine, theirs in zip(expected, learn(other, continued, rates, range(5, 25)), strict=True):
        torch.testing.assert_close(theirs, mine, rtol=1e-7, atol=1e-8)


def write(path, **entries) -> None:
    model = network("consistent_biased")
    torch.save({"state_dict": model.state_dict(), **{key: make(model) for key, make in entries.items()}}, path)


def notes(tmp_path, options=RESCALING, **entries) -> list[str]:
    write(tmp_path / "in.pt", **entries)
    return [line for line in translate(tmp_path / "in.pt", tmp_path / "out.pt", options) if line.startswith("γ was")]


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.1)


def test_a_file_without_an_optimizer_says_what_one_that_goes_on_needs(tmp_path):
    (note,) = notes(tmp_path)
    assert "holds no optimizer's state: one that goes on needs translate_optimizer" in note


def test_schedulers_that_cannot_follow_are_named(tmp_path):
    def cosine(model):
        return torch.optim.lr_scheduler.CosineAnnealingLR(sgd(model), 20, eta_min=1e-3).state_dict()

    rescaled, stale = notes(tmp_path, optimizer=lambda model: sgd(model).state_dict(), schedule=cosine)
    assert "with it optimizer:" in rescaled
    assert stale.endswith("must be built anew: schedule")


def test_a_scheduler_beside_two_optimizers_is_named(tmp_path):
    def steps(model):
        return torch.optim.lr_scheduler.StepLR(sgd(model), 2).state_dict()

    def pair(model):
        return [torch.optim.SGD(model.named_parameters(), lr=0.1).state_dict() for _ in range(2)]

    rescaled, stale = notes(tmp_path, optimizer_states=pair, lr_schedulers=lambda model: [steps(model)])
    assert "optimizer_states/0, optimizer_states/1" in rescaled
    assert stale.endswith("lr_schedulers/0")


def test_an_optimizer_of_some_parameters_without_names_is_not_guessed_at(tmp_path):
    def half(model):
        return torch.optim.SGD(model[1].parameters(), lr=0.1).state_dict()  # γ and β of the first layer, as 0 and 1

    write(tmp_path / "in.pt", optimizer=half)
    with pytest.raises(UserError, match="no names, and it has 2 of the 10 that the file could hold"):
        translate(tmp_path / "in.pt", tmp_path / "out.pt", RESCALING)
    assert not (tmp_path / "out.pt").exists()


def test_an_optimizer_is_left_alone_where_no_gain_is_rescaled(tmp_path):
    write(tmp_path / "in.pt", optimizer_states=lambda model: [sgd(model).state_dict()])
    lines = translate(tmp_path / "in.pt", tmp_path / "out.pt", Options("torch", "flax", keep="inference"))
    assert not any("γ" in line for line in lines)
    before, after = (torch.load(tmp_path / name, weights_only=True) for name in ("in.pt", "out.pt"))
    assert before["optimizer_states"] == after["optimizer_states"]


def test_moments_inside_a_flat_state_are_named_as_stale(tmp_path):
    state = {f"batch_stats/bn/{word}": torch.ones(3) for word in ("mean", "var")}
    state |= {f"{root}/bn/{word}": torch.ones(3) for root in ("params", "opt_state/0/mu") for word in ("scale", "bias")}
    torch.save(state, tmp_path / "in.pt")
    (note,) = [line for line in translate(tmp_path / "in.pt", tmp_path / "out.pt", RESCALING) if "γ was" in line]
    assert note.endswith("must be built anew: opt_state/0/mu/bn/scale … (2 tensors)")


# ---- where the state is -------------------------------------------------------------------------------------------------


def layer(**more) -> dict[str, torch.Tensor]:
    words = {"running_mean": torch.zeros(3), "running_var": torch.ones(3), "weight": torch.ones(3)}
    return {f"bn.{word}": tensor for word, tensor in words.items()} | more


TREE = {
    "params": {"bn": {"scale": torch.ones(3), "bias": torch.zeros(3)}, "fc": {"kernel": torch.ones(3, 3)}},
    "batch_stats": {"bn": {"mean": torch.zeros(3), "var": torch.full((3,), 2.0)}},
}
PLACES = {
    "at the top": (layer(), "torch", ()),
    "under a key": ({"model": layer(), "epoch": 3}, "torch", ("model",)),
    "two keys deep": ({"run": {"model": layer()}, "normalize": {"mean": torch.ones(3)}}, "torch", ("run", "model")),
    "beside another's": ({"model": layer(), "obs": {f"a.{w}": torch.ones(3) for w in ("mean", "var", "scale")}}, "torch",
                         ("model",)),
    "a tree": (TREE, "flax", ()),
    "a tree under a key": ({"variables": TREE, "step": 3}, "flax", ()),
}  # fmt: skip


@pytest.mark.parametrize("case", PLACES)
def test_the_state_is_found_where_it_is_and_written_back_there(case, tmp_path):
    content, source, entry = PLACES[case]
    torch.save(content, tmp_path / "in.pt")
    checkpoint = load(tmp_path / "in.pt", scheme=source)
    assert checkpoint.entry == entry
    assert len([key for key in checkpoint.state if key.endswith(("running_var", "var"))]) == 1
    translate(tmp_path / "in.pt", tmp_path / "out.pt", Options(source, "karpathy", keep="training", batch_size=4))
    after = torch.load(tmp_path / "out.pt", weights_only=True)
    assert flatten(after).keys() == flatten(content).keys()
    changed = {path[-1] for path, value in flatten(after).items() if not torch.equal(value, flatten(content)[path])}
    assert changed <= {"bn.weight", "bn.running_var", "scale", "var"}
    assert changed & {"bn.weight", "scale"}


def flatten(content, path=()) -> dict[tuple[str, ...], torch.Tensor]:
    if not isinstance(content, dict):
        return {path: torch.as_tensor(content)}
    return {key: value for name, item in content.items() for key, value in flatten(item, (*path, name)).items()}


def test_a_state_further_down_can_be_named_and_others_stay(tmp_path):
    content = {"run": {"model": layer(), "ema": layer()}}
    torch.save(content, tmp_path / "in.pt")
    with pytest.raises(UserError, match="holds several states; choose one of run/model, run/ema"):
        load(tmp_path / "in.pt")
    assert load(tmp_path / "in.pt", "run/ema").entry == ("run", "ema")
    with pytest.raises(UserError, match=r"'run/x' is no mapping in .*; use run/model, run/ema"):
        load(tmp_path / "in.pt", "run/x")


def test_a_file_whose_references_multiply_is_refused_quickly(tmp_path):
    content: dict = {"a": {}}
    for _ in range(15):
        content = {str(place): content for place in range(9)}
    torch.save(content, tmp_path / "in.pt")
    with pytest.raises(UserError, match="holds more than 200,000 mappings and lists"):
        load(tmp_path / "in.pt")
