"""New running statistics: what they are, what they are worth, and where they go."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from scipy import stats
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import bnstudy
from bnstudy.diagnosis.gains import harmful, held
from bnstudy.diagnosis.remedies import remedy
from bnstudy.diagnosis.scoring import Means
from bnstudy.diagnosis.weights import Weights, check_output, load_weights, writer
from bnstudy.errors import UserError
from bnstudy.frameworks.translate.files import write_together

Pair = tuple[Tensor, Tensor]
M = 8
BATCHNORMS = ("1", "4")
KEYS = [f"{layer}.{name}" for layer in BATCHNORMS for name in ("running_mean", "running_var")]


def mlp(convention: str = "paper", width: int = 32) -> nn.Sequential:
    def norm() -> nn.Module:
        return bnstudy.BatchNorm1d(width, convention=convention) if convention != "paper" else nn.BatchNorm1d(width)

    return nn.Sequential(
        nn.Linear(64, width), norm(), nn.ReLU(), nn.Linear(width, width), norm(), nn.ReLU(), nn.Linear(width, 10)
    )


def digits(size: int = M, count: int | None = None, seed: int = 1) -> list[Pair]:
    inputs, targets = load_digits(return_X_y=True)
    x = torch.tensor((inputs - inputs.mean(0)) / (inputs.std(0) + 1e-3), dtype=torch.float32)
    parts = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed)).split(size)
    return [(x[part], torch.tensor(targets)[part]) for part in parts if len(part) == size][:count]


def trained(convention: str) -> nn.Sequential:
    torch.manual_seed(0)
    model = mlp(convention)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    for epoch in range(3):
        for inputs, targets in digits(seed=epoch):
            optimizer.zero_grad()
            F.cross_entropy(model(inputs), targets).backward()
            optimizer.step()
            for group in optimizer.param_groups:
                group["lr"] *= 0.995
    return model.eval()


@pytest.fixture(scope="module")
def paper() -> nn.Sequential:
    return trained("paper")


@pytest.fixture(scope="module")
def flax() -> nn.Sequential:
    return trained("flax")


def in_numpy(model: nn.Sequential, inputs: list[Tensor], c: float = 1.0) -> dict[str, np.ndarray]:
    """Pooled statistics of both layers in float64, the network on batch statistics with c times the biased variance."""
    parameters = {key: value.double().numpy() for key, value in model.state_dict().items()}
    x = [part.double().numpy() for part in inputs]
    state = {}
    for layer in BATCHNORMS:
        linear = str(int(layer) - 1)
        x = [part @ parameters[f"{linear}.weight"].T + parameters[f"{linear}.bias"] for part in x]
        everything = np.concatenate(x)
        state |= {f"{layer}.running_mean": everything.mean(0), f"{layer}.running_var": c * everything.var(0)}
        gain, shift = parameters[f"{layer}.weight"], parameters[f"{layer}.bias"]
        x = [np.maximum(0, gain * (part - part.mean(0)) / np.sqrt(c * part.var(0) + 1e-5) + shift) for part in x]
    return state


def evaluation_loss(model: nn.Module, state: dict[str, Tensor], data: list[Pair]) -> list[float]:
    clone = copy.deepcopy(model).eval()
    clone.load_state_dict(state, strict=False)
    with torch.no_grad():
        return [float(F.cross_entropy(clone(inputs).double(), targets)) for inputs, targets in data]


@pytest.mark.parametrize(("convention", "k"), [("paper", 1.0), ("flax", 1.0), ("karpathy", M / (M - 1))])
def test_recalibrated_statistics_are_pooled_ones_times_k_of_the_calibrating_half(convention: str, k: float) -> None:
    model, data = trained(convention), digits(count=20)
    made = remedy(model, data)
    expected = in_numpy(model, [inputs for index, (inputs, _) in enumerate(data) if not held(index)], k)
    assert sorted(made.state) == sorted(KEYS)
    for key, value in made.state.items():
        assert value.dtype == torch.float32
        np.testing.assert_allclose(value.double().numpy(), expected[key], rtol=2e-5, atol=2e-6)
    assert (made.calibrating, made.measuring) == (10, 10)
    assert made.choices == dict.fromkeys(BATCHNORMS, "recalibrate")


def test_held_out_batches_of_their_own_leave_all_others_to_calibrate_on(paper: nn.Module) -> None:
    data, other = digits(count=20), digits(count=7, seed=2)
    made = remedy(paper, data, held_out=other)
    expected = in_numpy(paper, [inputs for inputs, _ in data])
    for key, value in made.state.items():
        np.testing.assert_allclose(value.double().numpy(), expected[key], rtol=2e-5, atol=2e-6)
    assert (made.calibrating, made.measuring) == (20, 7)


def test_the_held_out_gain_and_its_error_equal_a_computation_by_hand(paper: nn.Module) -> None:
    model, data = copy.deepcopy(paper), digits(count=20)
    model[4].running_mean += 2
    made = remedy(model, data)
    measuring = [pair for index, pair in enumerate(data) if held(index)]
    before, after = (np.array(evaluation_loss(model, state, measuring)) for state in ({}, made.state))
    row = made.gains.set_index("metric").loc["loss"]
    assert row["before"] == pytest.approx(before.mean(), rel=1e-6)
    assert row["after"] == pytest.approx(after.mean(), rel=1e-6)
    assert row["gain"] == pytest.approx((before - after).mean(), rel=1e-6)
    assert row["error"] == pytest.approx((before - after).std(ddof=1) / math.sqrt(10), rel=1e-6)
    assert row["direction"] == "lower"
    assert row["gain"] > 5 * row["error"] > 0
    assert made.gains.set_index("metric").loc["accuracy", "gain"] > 0.1
    assert made.harmful == ()


def test_the_model_and_the_generators_are_left_as_they_were(paper: nn.Module) -> None:
    before = {key: value.clone() for key, value in paper.state_dict().items()}
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    remedy(paper, digits(count=4))
    assert torch.equal(torch.rand(1), expected)
    assert not paper.training
    assert all(torch.equal(value, before[key]) for key, value in paper.state_dict().items())


def test_statistics_of_a_flax_model_in_torchs_layers_are_translated_by_bessels_factor(flax: nn.Module) -> None:
    model = mlp()
    model.load_state_dict(flax.state_dict())
    made = remedy(model, digits(), "translate")
    assert made.convention == "consistent_biased"
    for layer in BATCHNORMS:
        stored = flax.state_dict()
        torch.testing.assert_close(made.state[f"{layer}.running_var"], stored[f"{layer}.running_var"] * (M / (M - 1)))
        assert torch.equal(made.state[f"{layer}.running_mean"], stored[f"{layer}.running_mean"])
    by_name = remedy(model, digits(count=6), "translate", source="keras")
    assert all(torch.equal(value, made.state[key]) for key, value in by_name.state.items())


def test_there_is_nothing_to_translate_in_a_model_of_its_own_convention(paper: nn.Module) -> None:
    with pytest.raises(UserError, match=r"^translate: .* no convention but their own"):
        remedy(paper, digits(), "translate")
    with pytest.raises(
        UserError, match=r"^translate: 'consistent_unbiased' stores the unbiased variance, as these layers do"
    ):
        remedy(paper, digits(count=4), "translate", source="karpathy")


def test_each_layer_gets_what_the_last_pattern_that_fits_it_says(flax: nn.Module) -> None:
    model = mlp()
    model.load_state_dict(flax.state_dict())
    data = digits(count=8)
    made = remedy(model, data, {"*": "keep", "1": "recalibrate", "4": "translate"}, source="flax")
    assert made.choices == {"1": "recalibrate", "4": "translate"}
    pooled = in_numpy(model, [inputs for index, (inputs, _) in enumerate(data) if not held(index)])
    np.testing.assert_allclose(made.state["1.running_var"].numpy(), pooled["1.running_var"], rtol=2e-5)
    torch.testing.assert_close(made.state["4.running_var"], flax.state_dict()["4.running_var"] * (M / (M - 1)))
    kept = remedy(model, data, {"*": "recalibrate", "[4]": "keep"})
    assert kept.choices == {"1": "recalibrate", "4": "keep"}
    assert sorted(kept.state) == ["1.running_mean", "1.running_var"]


@pytest.mark.parametrize(
    ("choice", "said"),
    [
        ({"head.*": "keep"}, "remedy: 'head.*' fits no layer with stored statistics; use patterns for names such as '1'"),
        ({"*": "mend"}, "remedy: 'mend' for '*' is unknown; use recalibrate, translate, keep"),
        ({"*": "keep"}, "remedy: every layer is kept, so there is nothing to write; recalibrate or translate some"),
    ],
)
def test_a_choice_that_makes_no_sense_is_one_line(choice: dict[str, str], said: str, paper: nn.Module) -> None:
    with pytest.raises(UserError) as caught:
        remedy(paper, digits(count=4), choice)
    assert str(caught.value) == said


def test_a_single_batch_leaves_none_to_measure_on(paper: nn.Module) -> None:
    with pytest.raises(UserError, match=r"^held_out: a single batch leaves none"):
        remedy(paper, digits(count=1))


def test_a_layer_with_several_names_is_written_under_each() -> None:
    norm = nn.BatchNorm1d(64)
    model = nn.Sequential(norm, nn.Linear(64, 64), norm)
    made = remedy(model, digits(count=6), metric="output_rms")
    assert sorted(made.state) == ["0.running_mean", "0.running_var", "2.running_mean", "2.running_var"]
    assert torch.equal(made.state["0.running_var"], made.state["2.running_var"])


def test_a_model_that_is_itself_a_layer_has_keys_without_a_name() -> None:
    made = remedy(nn.BatchNorm1d(64), digits(count=6), metric="output_rms")
    assert sorted(made.state) == ["running_mean", "running_var"]


def test_half_precision_buffers_stay_so() -> None:
    model = nn.Sequential(nn.BatchNorm1d(64).to(torch.bfloat16))
    data = [(inputs.to(torch.bfloat16), targets) for inputs, targets in digits(count=6)]
    made = remedy(model, data, metric="output_rms")
    assert {value.dtype for value in made.state.values()} == {torch.bfloat16}


def test_alternating_domains_are_on_both_sides_of_the_split() -> None:
    index = np.arange(64)
    out = np.array([held(int(each)) for each in index])
    for period in (2, 4):
        shares = [out[index % period == phase].mean() for phase in range(period)]
        assert shares == [0.5] * period
    assert [int(each) for each in out[:8]] == [0, 1, 1, 0, 1, 0, 0, 1]


def test_a_shuffling_loader_deals_the_same_halves_in_every_pass_and_a_changing_one_is_told(paper: nn.Module) -> None:
    inputs, targets = (torch.cat(part) for part in zip(*digits(count=20), strict=True))
    shuffling = DataLoader(TensorDataset(inputs, targets), M, shuffle=True)
    assert remedy(paper, shuffling).notes == ()
    generator = torch.Generator().manual_seed(0)
    changing = DataLoader(TensorDataset(inputs, targets), M, shuffle=True, generator=generator)
    (note,) = remedy(paper, changing).notes
    assert note.startswith("the batches differ from pass to pass")


def pairs_of(before: np.ndarray, after: np.ndarray) -> Means:
    means = Means(["before", "after"])
    for pair in zip(before, after, strict=True):
        means.add(pair, 8)
    return means


@pytest.mark.parametrize("direction", ["higher", "lower", None])
@pytest.mark.parametrize("shift", [0.0, 0.04, 0.2])
def test_harm_is_what_a_paired_t_test_says(direction: str | None, shift: float) -> None:
    random = np.random.default_rng(0)
    before = 1 + 0.1 * random.normal(size=20)
    after = before + random.normal(scale=0.1, size=20) + (shift if direction == "lower" else -shift)
    worse = (after - before).mean() * (1 if direction == "lower" else -1) > 0.005
    p = stats.ttest_rel(before, after).pvalue
    expected = ("loss",) if direction is not None and worse and p < 0.05 else ()
    assert harmful({"loss": pairs_of(before, after)}, {"loss": direction}) == expected
    # Where another metric gains for certain, a doubtful harm does not count.
    both = {"loss": pairs_of(before, after), "accuracy": pairs_of(before, before + 0.5 + 1e-3 * random.normal(size=20))}
    expected = expected if p < 0.001 else ()
    assert harmful(both, {"loss": direction, "accuracy": "higher"}) == expected


@pytest.mark.parametrize(("metric", "least"), [("loss", 0.005), ("accuracy", 0.001), ("mse", 0.01 * 2.0)])
@pytest.mark.parametrize("factor", [0.9, 1.1])
def test_harm_too_small_to_matter_is_none(metric: str, least: float, factor: float) -> None:
    worse = -least if metric == "accuracy" else least
    before = 2 - least + 1e-6 * np.random.default_rng(0).normal(size=20)
    means = pairs_of(before, before + factor * worse)
    direction = "higher" if metric == "accuracy" else "lower"
    assert harmful({metric: means}, {metric: direction}) == ((metric,) if factor > 1 else ())


def test_statistics_that_make_a_metric_nan_are_harmful_and_those_that_mend_it_are_not() -> None:
    for pair, expected in (((0.5, math.nan), ("loss",)), ((math.nan, 0.5), ()), ((math.nan, math.nan), ())):
        means = pairs_of(*(np.full(3, side) for side in pair))
        assert harmful({"loss": means}, {"loss": "lower"}) == expected


def test_statistics_that_a_buffer_cannot_hold_are_refused_with_its_name() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm1d(64), nn.Linear(64, 10))
    wide = [(400 * inputs, targets) for inputs, targets in digits(count=12)]
    for kind, fits in ((torch.float16, False), (torch.bfloat16, True), (torch.float32, True)):
        data = [(inputs.to(kind), targets) for inputs, targets in wide]
        if fits:
            assert all(bool(value.isfinite().all()) for value in remedy(model.to(kind), data).state.values())
            continue
        with pytest.raises(UserError, match=r"^remedy: layer '0' stores float16, which ends at 65504, .* keep the layer in"):
            remedy(copy.deepcopy(model).to(kind), data)


def test_a_small_but_likely_harm_is_refused_on_an_untrained_model_too() -> None:
    """Statistics of other batches than the held-out ones: worse, though not for certain."""
    random = np.random.default_rng(4)
    before = 2.3 + 0.05 * random.normal(size=25)
    noise = random.normal(size=25)
    after = before + 0.028 + 0.055 * (noise - noise.mean()) / noise.std(ddof=1)  # 0.028 ± 0.011
    assert harmful({"loss": pairs_of(before, after)}, {"loss": "lower"}) == ("loss",)


def test_a_metric_without_a_direction_is_reported_as_a_change(paper: nn.Module) -> None:
    metrics = {"loss": F.cross_entropy, "spread": lambda outputs, targets: outputs.std()}
    gains = remedy(paper, digits(count=6), metric=metrics).gains.set_index("metric")
    assert gains["direction"].to_dict() == {"loss": "lower", "spread": None}
    spread = gains.loc["spread"]
    assert spread["gain"] == pytest.approx(spread["after"] - spread["before"])
    loss = gains.loc["loss"]
    assert loss["gain"] == pytest.approx(loss["before"] - loss["after"])


def test_statistics_of_other_data_are_harmful(paper: nn.Module) -> None:
    wrong = [(3 * inputs + 2, targets) for inputs, targets in digits(count=20)]
    made = remedy(paper, wrong, held_out=digits(count=40, seed=2))
    assert "loss" in made.harmful
    assert (made.gains["gain"] < 0).all()


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_a_file_keeps_all_but_the_running_statistics(suffix: str, paper: nn.Module, tmp_path: Path) -> None:
    source, out = tmp_path / f"old{suffix}", tmp_path / f"new{suffix}"
    state = dict(paper.state_dict())
    if suffix == ".safetensors":
        save_file(state, source, {"made": "by hand"})
    else:
        torch.save({"epoch": 3, "model": state, "optimizer": {"lr": torch.tensor(0.1)}}, source)
    model = mlp()
    weights = load_weights(model, source)
    assert weights.notes == ()
    made = remedy(model, digits(count=8))
    write_together({out: writer(model, weights, made.state, out)})
    if suffix == ".safetensors":
        written = load_file(out)
    else:
        content = torch.load(out, weights_only=True)
        assert content["epoch"] == 3
        assert torch.equal(content["optimizer"]["lr"], torch.tensor(0.1))
        written = content["model"]
    assert written.keys() == state.keys()
    for key, value in written.items():
        assert torch.equal(value, made.state.get(key, state[key]))
    losses = [np.mean(evaluation_loss(paper, each, digits(count=8))) for each in (made.state, written)]
    assert losses[0] == losses[1]


def test_a_wrappers_prefix_is_left_out_and_put_back(paper: nn.Module, tmp_path: Path) -> None:
    source, out = tmp_path / "old.pt", tmp_path / "new.pt"
    torch.save({f"module.{key}": value for key, value in paper.state_dict().items()}, source)
    model = mlp()
    weights = load_weights(model, source)
    assert "'module.'" in weights.notes[0]
    made = remedy(model, digits(count=8))
    write_together({out: writer(model, weights, made.state, out)})
    written = torch.load(out, weights_only=True)
    assert all(key.startswith("module.") for key in written)
    assert torch.equal(written["module.1.running_var"], made.state["1.running_var"])


def test_a_model_without_a_file_is_written_as_a_state_dict(paper: nn.Module, tmp_path: Path) -> None:
    made = remedy(paper, digits(count=8))
    for out in (tmp_path / "new.pt", tmp_path / "new.safetensors"):
        write_together({out: writer(paper, Weights(), made.state, out)})
        written = torch.load(out, weights_only=True) if out.suffix == ".pt" else load_file(out)
        assert written.keys() == paper.state_dict().keys()
        assert torch.equal(written["4.running_mean"], made.state["4.running_mean"])
        assert torch.equal(written["4.num_batches_tracked"], paper.state_dict()["4.num_batches_tracked"])


def test_missing_batchnorm_buffers_are_a_note_and_their_counts_unknown(paper: nn.Module, tmp_path: Path) -> None:
    source = tmp_path / "parameters.pt"
    torch.save({key: value for key, value in paper.state_dict().items() if "running" not in key}, source)
    model = mlp()
    (note,) = load_weights(model, source).notes
    assert note.endswith("lacks 4 BatchNorm buffers, '1.running_mean' first: the model's own are left as they were built")
    torch.save({key: value for key, value in paper.state_dict().items() if "num_batches" not in key}, source)
    model = mlp()
    assert load_weights(model, source).notes == ()
    assert model[1].num_batches_tracked is None
    assert sorted(remedy(model, digits(count=6)).state) == sorted(KEYS)


def test_a_tied_tensor_may_be_missing_under_one_of_its_names(tmp_path: Path) -> None:
    norm = nn.BatchNorm1d(64)
    source = tmp_path / "tied.safetensors"
    model = nn.Sequential(norm, nn.Linear(64, 64), norm)
    save_file({key: value.clone() for key, value in model.state_dict().items() if not key.startswith("2.")}, source)
    assert load_weights(model, source).notes == ()


def other(key: str, value: object) -> dict[str, object]:
    return mlp().state_dict() | {key: value}


UNFIT = {
    "no tensors": (
        {"model": {"a": torch.ones(1)}, "epoch": 1},
        "holds no tensors by name at its top; name the state with --entry: model",
    ),
    "parameters missing": (
        {key: value for key, value in mlp().state_dict().items() if not key.startswith("6.")},
        "lacks '6.weight' and 1 other tensor of the model's 16",
    ),
    "names of another model": (
        {f"body.{key}": value for key, value in mlp().state_dict().items()},
        "lacks '0.weight' and 9 other tensors of the model's 16; it has 'body.0.weight', which the model has not",
    ),
    "another shape": (other("3.weight", torch.ones(2, 2)), "'3.weight' has shape (2, 2) in "),
}


@pytest.mark.parametrize("name", UNFIT)
def test_weights_that_do_not_fit_are_told_in_one_line(name: str, tmp_path: Path) -> None:
    content, said = UNFIT[name]
    source = tmp_path / "weights.pt"
    torch.save(content, source)
    with pytest.raises(UserError) as caught:
        load_weights(mlp(), source)
    assert said in str(caught.value)
    assert str(caught.value).startswith("--weights: ")
    assert "\n" not in str(caught.value)


def test_weights_with_more_than_the_model_are_a_note(tmp_path: Path) -> None:
    source = tmp_path / "weights.pt"
    torch.save(other("ema.decay", torch.ones(1)), source)
    (note,) = load_weights(mlp(), source).notes
    assert note.endswith("holds 1 tensor that the model has not, 'ema.decay' first")


def test_a_file_that_may_not_be_written_is_refused_beforehand(tmp_path: Path) -> None:
    source, old = tmp_path / "weights.pt", tmp_path / "old.pt"
    torch.save({"epoch": 1, "model": mlp().state_dict()}, source)
    old.touch()
    weights = load_weights(mlp(), source)
    refused = {
        "is the file of the weights": source,
        "exists; name another file, or give --overwrite": old,
        "does not exist": tmp_path / "nowhere" / "new.pt",
        "has no known suffix": tmp_path / "new.onnx",
        "safetensors holds one flat state": tmp_path / "new.safetensors",
    }
    for said, out in refused.items():
        with pytest.raises(UserError, match=said) as caught:
            check_output("--recalibrate", out, weights, overwrite=False)
        assert str(caught.value).startswith("--recalibrate: ")
    check_output("--recalibrate", old, weights, overwrite=True)
    check_output("--recalibrate", tmp_path / "new.pt", weights, overwrite=False)
