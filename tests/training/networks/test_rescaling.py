"""Unbiased normalisation with (γ, ε) and biased normalisation with (γ/√c, ε/c) are one function, all along a training.

What is compared are two trainings of the harness, `consistent_unbiased` and `consistent_biased_rescaled`, each the other's
oracle: same seeds, same batches, other constants everywhere. A difference is the largest one of any output, as a share of
the largest output of the step; outputs are in training mode at every step, and under each arm's own stored statistics at
some. It starts at rounding, about 1e-16, and training amplifies it: the tolerances are those of docs/method.md, "The
identity control".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bnstudy.analysis.schemas import TERMS
from bnstudy.analysis.tables import study_tables
from bnstudy.batchnorm.conventions import RESCALED
from bnstudy.batchnorm.mode import batchnorm_layers
from bnstudy.errors import UserError
from bnstudy.sweeps.config import Config
from bnstudy.sweeps.identity import training_fields, training_id
from bnstudy.training.checks import check
from bnstudy.training.config import DatasetConfig
from bnstudy.training.data import Dataset, load_dataset
from bnstudy.training.loop import Training
from bnstudy.training.measuring import measure_block
from bnstudy.training.measuring.predict import predict
from bnstudy.training.networks import replica_state_dict
from tests.analysis.studies import run_study
from tests.tiny import RESNET8, tiny

EVERYTHING: dict[str, Any] = {"optimizer__weight_decay": 5e-3, "optimizer__decay_norm": True}
ADAMW: dict[str, Any] = {"optimizer__name": "adamw", "optimizer__scaling": "sqrt", "optimizer__lr": 0.002}


@pytest.fixture(scope="module")
def all_digits() -> Dataset:
    return load_dataset(DatasetConfig())


def control(**changes: Any) -> Config:
    return tiny("consistent_biased", variance__name=RESCALED, variance__rescaled=True, **changes)


def outputs_along(training: Training, own: str, every: int, probe: Tensor) -> list[Tensor]:
    """Outputs in training mode of every step, and under a stored statistic before the first and at every so many."""
    seen: list[Tensor] = []

    def note(module: nn.Module, args: Any, output: Tensor) -> None:
        if module.training:
            seen.append(output.detach().clone())

    def look(step: int) -> None:
        if step % every == 0:
            for layer in batchnorm_layers(training.model).values():
                layer.take_pending()
            seen.append(predict(training.model, probe, len(training.seeds), own))

    hook = training.model.register_forward_hook(note)
    look(0)
    while not training.finished:
        training.run_epoch(look)
    hook.remove()
    return seen


def apart(
    dataset: Dataset,
    seeds: tuple[int, ...] = (0,),
    every: int = 20,
    spoil: Callable[[Training], None] = lambda training: None,
    **changes: Any,
) -> float:
    """The largest difference between the two arms' outputs along a training."""
    probe = dataset.test.inputs[:40].double()
    changes = {"precision": "float64", **changes}
    unbiased = Training(tiny("consistent_unbiased", **changes), dataset, seeds)
    rescaled = Training(control(**changes), dataset, seeds)
    spoil(rescaled)
    pairs = zip(
        outputs_along(unbiased, "ema_unbiased", every, probe),
        outputs_along(rescaled, "ema_biased", every, probe),
        strict=True,
    )
    return max(float((ours - theirs).abs().max() / ours.abs().max()) for ours, theirs in pairs)


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer__weight_decay": 5e-3},
        EVERYTHING,
        EVERYTHING | {"optimizer__nesterov": True, "schedule__name": "cosine", "schedule__warmup": 0.1},
    ],
    ids=["decay spares the gains", "decay of everything", "nesterov, cosine, warm-up"],
)
def test_sgd_outputs_stay_within_1e_12_over_1000_steps_at_m_32(all_digits: Dataset, changes: dict[str, Any]) -> None:
    assert apart(all_digits, batch_size=32, steps=1000, every=100, **changes) < 1e-12


@pytest.mark.parametrize("changes", [{}, EVERYTHING, EVERYTHING | {"optimizer__nesterov": True}])
def test_sgd_outputs_stay_within_1e_8_over_100_steps_at_m_4(all_digits: Dataset, changes: dict[str, Any]) -> None:
    assert apart(all_digits, (0, 1, 2, 3), batch_size=4, steps=100, **changes) < 1e-8


@pytest.mark.parametrize("decay_norm", [False, True])
@pytest.mark.parametrize(
    ("m", "steps", "eps", "tolerance"), [(32, 1000, 1e-4, 1e-12), (4, 100, 1e-4, 1e-8), (32, 300, 1e-8, 1e-8)]
)
def test_adamw_outputs_do_too(
    all_digits: Dataset, m: int, steps: int, eps: float, tolerance: float, decay_norm: bool
) -> None:
    """Under its usual ε of 1e-8 within 1e-8: where gradients are as small, as of units that are off, a step is g/ε, and
    rounding of 1e-17 in g becomes 1e-9 in the step. Measured over 1,000 steps at m = 32: 7e-11; with ε = 1e-4: 1e-14.
    """
    changes = ADAMW | {"optimizer__weight_decay": 0.1, "optimizer__decay_norm": decay_norm, "optimizer__eps": eps}
    assert apart(all_digits, batch_size=m, steps=steps, every=100, **changes) < tolerance


@pytest.mark.parametrize(
    "changes",
    [{}, {"norm_batch_size": 4}, {"momentum": None}, {"optimizer__nesterov": True}, ADAMW | {"optimizer__eps": 1e-4}],
    ids=["sgd", "ghost batches", "cumulative average", "nesterov", "adamw"],
)
def test_every_layer_of_a_resnet_has_a_c_of_its_own(digits: Dataset, changes: dict[str, Any]) -> None:
    changes = EVERYTHING | {"model": RESNET8, "steps": 30} | changes
    training = Training(control(**changes), digits, [0, 1])
    assert len(set(training.factors.values())) == 3  # 8×8, 4×4 and 2×2 positions
    positions = {"stage2": 16, "stage3": 4}
    for name, c in training.factors.items():
        m = (changes.get("norm_batch_size") or 8) * positions.get(name.partition(".")[0], 64)
        assert c == m / (m - 1)
    assert apart(digits, (0, 1), every=5, **changes) < 1e-10


def test_the_group_of_ghost_batches_gives_m(digits: Dataset) -> None:
    training = Training(control(norm_batch_size=4), digits, [0])
    assert set(training.factors.values()) == {4 / 3}
    assert apart(digits, norm_batch_size=4) < 1e-10
    assert apart(digits, norm_batch_size=4, batch_size=16, drop_last=False) < 1e-10  # 104 = 6·16 + 2·4: m is constant


def lr_not_rescaled(training: Training) -> None:
    for group in training.optimizer.param_groups:
        group["lr_factor"] = 1.0


def decay_not_rescaled(training: Training) -> None:
    for group in training.optimizer.param_groups:
        group["weight_decay"] = training.config.optimizer.weight_decay


def adamw_eps_not_rescaled(training: Training) -> None:
    for group in training.optimizer.param_groups:
        group["eps"] = training.config.optimizer.eps


def eps_not_rescaled(training: Training) -> None:
    for layer in batchnorm_layers(training.model).values():
        layer.eps = training.config.eps


def gain_not_rescaled(training: Training) -> None:
    for layer in batchnorm_layers(training.model).values():
        layer.weight.data.fill_(1.0)


def variance_from_1(training: Training) -> None:
    for layer in batchnorm_layers(training.model).values():
        layer.running_var.fill_(1.0)
        layer.ema_var_biased.fill_(1.0)


def the_same_c_everywhere(training: Training) -> None:
    for layer in batchnorm_layers(training.model).values():
        layer.eps = min(layer.eps for layer in batchnorm_layers(training.model).values())


@pytest.mark.parametrize("m", [4, 26])
@pytest.mark.parametrize(
    ("spoil", "changes"),
    [
        (lr_not_rescaled, {}),
        (lr_not_rescaled, ADAMW),
        (decay_not_rescaled, EVERYTHING),
        (decay_not_rescaled, EVERYTHING | ADAMW),
        (adamw_eps_not_rescaled, ADAMW | {"optimizer__eps": 1e-3}),
        (eps_not_rescaled, {}),
        (gain_not_rescaled, {}),
        (variance_from_1, {}),
        (the_same_c_everywhere, {"model": RESNET8}),
    ],
)
def test_one_constant_left_alone_breaks_the_identity_by_orders_of_magnitude(
    digits: Dataset, spoil: Callable[[Training], None], changes: dict[str, Any], m: int
) -> None:
    changes = {"batch_size": m, "steps": 20, "every": 5, "optimizer__eps": 1e-4} | changes
    assert apart(digits, **changes) < 1e-11
    assert apart(digits, spoil=spoil, **changes) > 1e-8


def test_replicas_of_the_control_are_the_seeds_alone(digits: Dataset) -> None:
    config = control(precision="float64", steps=20, **EVERYTHING)
    together = Training(config, digits, [5, 0])
    while not together.finished:
        together.run_epoch()
    for replica, seed in enumerate([5, 0]):
        alone = Training(config, digits, [seed])
        while not alone.finished:
            alone.run_epoch()
        stacked = replica_state_dict(together.model, replica, 2)
        for name, value in alone.model.state_dict().items():
            torch.testing.assert_close(stacked[name], value, rtol=1e-9, atol=1e-12)


def test_every_number_that_a_gap_is_made_of_is_the_other_arms(digits: Dataset) -> None:
    """Its own statistic, `batch`, and the matched ones: k = 1 here and c there."""
    changes: dict[str, Any] = {"precision": "float64", "batch_size": 4}
    ours, theirs = (
        {(row["seed"], row["epoch"], row["split"], row["statistic"]): row["loss"] for row in block.metrics}
        for block in (
            measure_block(config, digits, [0, 1]) for config in (tiny("consistent_unbiased", **changes), control(**changes))
        )
    )
    same = ("batch", "online", "matched_ema_unbiased", "matched_population_unbiased", "matched_population_total")
    for key, loss in ours.items():
        if key[3] in same:
            assert theirs[key] == pytest.approx(loss, rel=1e-10), key
        elif key[3] == "ema_unbiased":
            assert theirs[(*key[:3], "ema_biased")] == pytest.approx(loss, rel=1e-10), key


def test_tables_have_the_control_as_an_arm_of_its_own(tmp_path: Any) -> None:
    arms = ("paper", "consistent_biased", "consistent_unbiased")
    configs = [tiny(name, precision="float64", epochs=1) for name in arms] + [control(precision="float64", epochs=1)]
    tables = study_tables(run_study(tmp_path, configs), "tiny")
    assert set(tables["jobs"]["normalize"]) == {"biased", "unbiased", "biased_rescaled"}
    assert tables["jobs"]["training"].nunique() == 3
    gaps = tables["gaps"].set_index(["convention", "seed", "split", "metric"])
    assert set(gaps.index.unique("convention")) == {*arms, RESCALED}
    numbers = ["gap", *TERMS, "own", "batch"]
    null, other = gaps.loc[RESCALED, numbers], gaps.loc["consistent_biased", numbers]
    unbiased = gaps.loc["consistent_unbiased", numbers]
    assert (null - unbiased).abs().max(axis=None) < 1e-9
    assert (other - unbiased).abs().max(axis=None) > 1e-3


def test_the_control_is_a_training_of_its_own_and_leaves_old_names_alone() -> None:
    assert training_id(control()) != training_id(tiny("consistent_biased")) == training_id(tiny("paper"))
    assert "variance.rescaled" not in training_fields(tiny())
    assert training_fields(control())["variance.rescaled"] is True


@pytest.mark.parametrize(
    ("changes", "start", "remedy"),
    [
        ({"variance__accumulate": "unbiased"}, "variance.accumulate: 'unbiased' is not for the identity", "use 'biased'"),
        ({"variance__normalize": "unbiased"}, "variance.normalize: 'unbiased' is not for the identity", "use 'biased'"),
        ({"model__norm": "group"}, "model.norm: 'group' has no variance", "use 'batch'"),
        ({"norm_batch_size": 3}, "norm_batch_size: 3 leaves a smaller group of 2 samples", "null"),
        ({"drop_last": False, "batch_size": 16}, "drop_last: false leaves a last batch of 8 samples", "use true"),
        ({"batch_size": 50}, "dataset.test_size: 40 is measured as one smaller batch", "use 50 or more"),
    ],
)
def test_where_it_is_no_identity_it_is_refused_in_one_line(changes: dict[str, Any], start: str, remedy: str) -> None:
    with pytest.raises(UserError) as caught:
        check(control(**changes))
    text = str(caught.value)
    assert text.startswith(start)
    assert text.endswith(remedy)
    assert "\n" not in text


def test_what_leaves_m_constant_is_accepted() -> None:
    for changes in ({}, {"drop_last": False}, {"drop_last": False, "batch_size": 16, "norm_batch_size": 8}):
        check(control(**changes))
