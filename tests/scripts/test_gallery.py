"""The gallery of planted faults: the right finding comes first, and healthy models are left in peace."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bnstudy.diagnosis.diagnose import diagnose
from bnstudy.diagnosis.result import KINDS
from bnstudy.errors import UserError
from scripts.gallery.case import Fault, recipe
from scripts.gallery.faults import FAULTS, HEALTHY, fault
from scripts.gallery.figures import shares
from scripts.gallery.networks import KINDS_OF_MODEL, batchnorms, feeding
from scripts.gallery.page import markdown, write
from scripts.gallery.run import Gallery, diagnosed, run_gallery
from scripts.gallery.sampling import mild
from scripts.gallery.subjects import digits, samples, trained

OF_MLP = [each for each in FAULTS if "mlp" in each.models]
OF_RESNET = [each for each in FAULTS if "resnet" in each.models]


def named(each: Fault) -> str:
    return each.name


def wrong(rows: pd.DataFrame) -> str:
    return "\n".join(f"{row.fault} {row.draw} ({row.planted}): {row.found}" for row in rows[~rows.right].itertuples())


@pytest.mark.parametrize("planted", OF_MLP, ids=named)
def test_the_first_finding_in_an_mlp_is_the_planted_fault(planted: Fault) -> None:
    row = diagnosed(planted, "mlp", 0).row
    assert row["right"], row["found"]


@pytest.mark.parametrize("draw", [0, 1])
def test_nothing_is_found_in_a_healthy_mlp(draw: int) -> None:
    row = diagnosed(HEALTHY, "mlp", draw).row
    assert row["found"] == "healthy"


def test_layers_without_statistics_are_the_whole_story() -> None:
    row = diagnosed(fault("no_statistics"), "mlp", 0).row
    assert row["found"] == "no_statistics"  # nothing is stored, so there is nothing that more batches could settle


def test_every_kind_of_finding_that_names_a_cause_has_its_planted_fault() -> None:
    no_cause = {"unexplained", "not_separable"}
    assert {kind for each in (HEALTHY, *FAULTS) for kind in each.expected} == set(KINDS) - no_cause


def test_every_fault_but_the_chain_and_single_images_is_planted_in_both_networks() -> None:
    assert [each.name for each in FAULTS if each.models != KINDS_OF_MODEL] == ["single_samples", "repeated_batch"]


@pytest.mark.parametrize("kind", KINDS_OF_MODEL)
def test_subjects_have_learned_their_digits(kind: str) -> None:
    model = trained(recipe(kind, 0)).eval()
    inputs, targets = samples()
    assert len(targets) == 1437
    assert float((model(inputs).argmax(1) == targets).double().mean()) > 0.95


def test_a_draw_is_the_same_whenever_it_is_made_and_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first = fault("dead_channels").plant("mlp", 5)
    again = fault("dead_channels").plant("mlp", 5)
    other = fault("dead_channels").plant("mlp", 6)
    assert torch.equal(before, torch.get_rng_state())
    assert first.planted == again.planted
    states = first.model.state_dict(), again.model.state_dict()
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert other.planted != first.planted


def test_a_fault_planted_after_training_does_not_touch_the_subject_that_others_share() -> None:
    sound = copy.deepcopy(trained(recipe("mlp", 2)).state_dict())
    for name in ("reset", "invalid_statistics", "no_statistics", "zero_gain"):
        fault(name).plant("mlp", 2)
    after = trained(recipe("mlp", 2)).state_dict()
    assert all(torch.equal(sound[key], after[key]) for key in sound)


def test_a_chain_on_one_batch_shrinks_by_the_bessel_factor_of_every_layer() -> None:
    case = fault("repeated_batch").plant("mlp", 0)
    said = diagnose(case.model, case.batches)
    shrunk = math.sqrt(63 / 64) ** 20  # each layer stores 64/63 times the variance that it divides by
    x = case.batches[0]
    ratio = float(copy.deepcopy(case.model).eval()(x).std() / copy.deepcopy(case.model).train()(x).std())
    assert ratio == pytest.approx(shrunk, rel=1e-3)
    levels = said.levels.set_index("condition")["value"]
    assert levels["own"] / levels["batch"] == pytest.approx(shrunk, rel=1e-3)
    assert f"{shrunk:.4f}" in " ".join(said.findings[0].evidence)
    assert said.layers.m_eff.gt(1e6).all()


def test_dead_channels_see_a_constant_and_store_no_variance() -> None:
    case = fault("dead_channels").plant("mlp", 0)
    name = case.planted.split(" of ")[2].split()[0]
    layer = batchnorms(case.model)[name]
    dead = feeding(case.model, name).weight.abs().sum(1) == 0
    assert layer.running_var is not None
    assert int(dead.sum()) == int(case.planted.split()[0])
    assert float(layer.running_var[dead].max()) < 1e-6 < float(layer.running_var[~dead].min())


def test_a_ported_checkpoint_stores_the_biased_variance_in_torchs_own_layers() -> None:
    case = fault("wrong_convention").plant("mlp", 0)
    layers = batchnorms(case.model)
    assert {type(layer) for layer in layers.values()} == {nn.BatchNorm1d}
    name, layer = next(iter(layers.items()))
    linear = feeding(case.model, name)
    variances = [linear(x.flatten(1)).numpy().astype(np.float64).var(0) for x, _ in case.batches]
    assert layer.running_var is not None
    stored = np.log(layer.running_var.numpy() / np.mean(variances, 0)).mean()
    # At the layer's input both conventions agree up to the average's luck; Bessel's would be log(4/3) = 0.29 at m = 4.
    assert abs(stored) < 0.1


def test_the_table_counts_right_first_findings_and_the_page_quotes_the_tool(tmp_path) -> None:
    seen = []
    gallery = run_gallery(2, ["mlp"], ["healthy", "reset"], progress=lambda done, total: seen.append((done, total)))
    assert seen == [(number, 4) for number in (1, 2, 3, 4)]
    assert list(gallery.draws.fault) == ["healthy", "healthy", "reset", "reset"]
    assert list(gallery.draws.draw) == [0, 1, 0, 1]
    spoilt = Gallery(gallery.draws.assign(right=[True, True, False, True]), gallery.layers, gallery.terms)
    table = shares(spoilt).set_index("fault")
    assert table.right.to_dict() == {"healthy": 2, "reset": 1}
    # Wilson's interval of 1 in 2: centre 1/2, half width z·√(1/(4n) + z²/(4n²))/(1 + z²/n).
    z, n = 1.959964, 2
    half = z * math.sqrt(1 / (4 * n) + z**2 / (4 * n**2)) / (1 + z**2 / n)
    assert table.low["reset"] == pytest.approx(0.5 - half, abs=1e-5)
    text = markdown(spoilt, {"command": "as typed"})
    assert "right in 1 of 2 draws" in text
    assert "0 of 2 healthy models" in text
    assert gallery.draws.summary[2] in text
    assert "Not recognised: MLP, draw 0" in text
    assert "- command: as typed" in text
    files = write(gallery, {}, tmp_path)
    assert {file.relative_to(tmp_path).as_posix() for file in files} == {
        "gallery.md",
        "gallery/draws.parquet",
        "gallery/layers.parquet",
        "gallery/shares.svg",
        "gallery/terms.parquet",
        "gallery/terms.svg",
        "gallery/variances.svg",
    }
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "gallery" / "draws.parquet"), gallery.draws)


def test_what_is_not_in_the_gallery_is_said_in_a_line() -> None:
    with pytest.raises(UserError, match=r"faults: 'rust' is not in the gallery; choose among healthy, wrong_convention"):
        run_gallery(1, faults=["rust"])
    with pytest.raises(UserError, match=r"models: 'vgg' is not in the gallery; choose among mlp, resnet"):
        run_gallery(1, ["vgg"])
    with pytest.raises(UserError, match=r"draws: 0 is too few"):
        run_gallery(0)


@pytest.mark.slow
@pytest.mark.parametrize("planted", OF_MLP, ids=named)
def test_nine_of_ten_mlps_show_the_planted_fault_first(planted: Fault) -> None:
    rows = run_gallery(10, ["mlp"], [planted.name]).draws
    assert rows.right.sum() >= 9, wrong(rows)


@pytest.mark.slow
@pytest.mark.parametrize("planted", OF_RESNET, ids=named)
def test_every_variant_in_torchvisions_resnet_shows_the_planted_fault_first(planted: Fault) -> None:
    rows = run_gallery(len(planted.variants), ["resnet"], [planted.name]).draws
    assert rows.right.all(), wrong(rows)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS_OF_MODEL)
def test_nothing_is_found_in_ten_healthy_models(kind: str) -> None:
    rows = run_gallery(10, [kind], ["healthy"]).draws
    assert list(rows.found) == ["healthy"] * 10, wrong(rows)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "seed", "changes"),
    [
        ("mlp", 0, {"learning_rate": 0.1, "epochs": 8.0, "weight_decay": 0.01}),
        ("mlp", 1, {"learning_rate": 0.03, "epochs": 20.0}),
        ("mlp", 2, {"learning_rate": 0.01, "epochs": 20.0, "batch_size": 16, "sampler": mild}),
        ("mlp", 3, {"learning_rate": 0.03, "epochs": 8.0, "momentum": 0.2, "batch_size": 16}),
        ("mlp", 4, {"optimizer": "adamw", "learning_rate": 1e-3, "epochs": 8.0}),
        ("mlp", 5, {"optimizer": "adamw", "learning_rate": 3e-3, "epochs": 20.0, "momentum": None}),
        ("mlp", 6, {"learning_rate": 0.01, "epochs": 20.0, "momentum": None, "batch_size": 16}),
        ("resnet", 0, {"optimizer": "adamw", "learning_rate": 1e-3, "epochs": 6.0, "batch_size": 16}),
        ("resnet", 1, {"learning_rate": 0.01, "epochs": 6.0, "batch_size": 16}),
    ],
)
def test_nothing_is_found_where_the_learning_rate_stays_and_evaluation_is_no_worse(
    kind: str, seed: int, changes: dict[str, Any]
) -> None:
    subject = recipe(kind, seed, annealed=False, **changes)
    model, given = trained(subject), subject.given()
    losses = []
    for mode in (False, True):
        network = copy.deepcopy(model).train(mode)
        losses.append([float(F.cross_entropy(network(x).double(), y)) for x, y in given])
    worse = np.subtract(*losses)
    assert worse.mean() < 0.005 + 2 * worse.std() / math.sqrt(len(worse)), "then something would be wrong"
    assert [finding.kind for finding in diagnose(model, given).findings] == ["healthy"]


def test_a_mean_over_all_updates_is_slow_where_the_weights_move_fast() -> None:
    subject = recipe("mlp", 0, annealed=False, optimizer="adamw", learning_rate=3e-3, epochs=3.0, momentum=None)
    (found,) = diagnose(trained(subject), subject.given()).findings
    assert found.kind == "slow_average"
    assert "momentum None (cumulative)" in found.evidence[0]


def test_the_digits_are_scikit_learns() -> None:
    assert len(digits().train) == 1437
    assert len(digits().test) == 360
