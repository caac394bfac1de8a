"""Layer probes against plain NumPy on frozen networks, and against truth where it is known."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from bnstudy.batchnorm.conventions import POPULATION_STATISTICS
from bnstudy.batchnorm.layers import BatchNorm1d, BatchNorm2d
from bnstudy.batchnorm.mode import batchnorm_layers
from bnstudy.batchnorm.population import Population
from bnstudy.batchnorm.theory import layer_ratios, noise_of_average
from bnstudy.training.config import DatasetConfig
from bnstudy.training.data import Dataset, load_dataset
from bnstudy.training.loop import Training
from bnstudy.training.measuring.batch_mode import Seen, observe
from bnstudy.training.measuring.measurement import measure_block
from bnstudy.training.measuring.predict import WATCHED, Parts, predict
from bnstudy.training.measuring.probes import PROBED_STATISTICS, Stack, in_batch_mode, probe_rows
from bnstudy.training.networks.replicas import replica_state_dict, replicate
from bnstudy.training.seeds import generator
from tests.tiny import RESNET8, tiny
from tests.training.measuring.test_predict import state_of

Array = Any
WITH_ERRORS = ("m_eff", "biased_ratio", "variation")
NUMBERS = [
    *(column for name in WITH_ERRORS for column in (name, f"{name}_se")),
    *("train_moment", "eval_moment", "ratio", "ratio_se"),
]
KEYS = ["seed", "layer", "statistic"]
Watched = tuple[dict[str, Population], dict[str, Seen]]


def watched(model: nn.Module, inputs: Tensor, batch_size: int, seeds: Sequence[int], batches: int) -> Watched:
    return observe(model, inputs, batch_size, [generator(seed, "population") for seed in seeds], batches)


def table(
    model: nn.Module,
    inputs: Tensor,
    batch_size: int,
    seeds: Sequence[int],
    batches: int = 200,
    statistics: Sequence[str] = PROBED_STATISTICS,
    stack: Stack | None = None,
) -> pd.DataFrame:
    """The rows that the probes give, in the order in which they give them."""
    population, seen = watched(model, inputs, batch_size, seeds, batches)
    layers = batchnorm_layers(model)
    moments: dict[str, Parts] = {statistic: {} for statistic in statistics}
    for statistic, parts in moments.items():
        predict(model, inputs, len(seeds), statistic, population, moments=parts)
    trained = {name: in_batch_mode(layers[name], layer) for name, layer in seen.items()}
    return pd.DataFrame(probe_rows(layers, trained, population, moments, seeds, stack))


def trained(digits: Dataset, seeds: Sequence[int], **changes: Any) -> Training:
    training = Training(tiny(**({"precision": "float64", "steps": 5} | changes)), digits, seeds)
    training.run_epoch()
    return training


def probed(training: Training, **options: Any) -> pd.DataFrame:
    rows = table(training.model, training.inputs, training.config.batch_size, training.seeds, **options)
    return rows.set_index(KEYS).sort_index()


class NumpyMlp:
    """[Linear, BatchNorm, ReLU] twice, in NumPy, float64; notes what goes into each BatchNorm."""

    def __init__(self, state: dict[str, Tensor], eps: float, ddof: int) -> None:
        self.state = {name: tensor.numpy() for name, tensor in state.items()}
        self.eps, self.ddof = eps, ddof

    def inputs(self, x: Array, stored: dict[str, tuple[Array, Array]] | None = None) -> dict[str, Array]:
        """Inputs of both layers for (n, F) samples that are one batch, or under stored statistics."""
        seen = {}
        for index in (1, 2):
            x = x @ self.state[f"linear{index}.weight"].T
            seen[f"norm{index}"] = x
            mean, var = (x.mean(0), x.var(0, ddof=self.ddof)) if stored is None else stored[f"norm{index}"]
            x = (x - mean) / np.sqrt(var + self.eps)
            x = np.maximum(x * self.state[f"norm{index}.weight"] + self.state[f"norm{index}.bias"], 0)
        return seen


def shares(x: Array) -> tuple[float, float]:
    """Mean over channels of Var(μ_B)/σ² of batches x (batches, m, channels), and its error, channel by channel."""
    means, biased = x.mean(1), x.var(1)
    between, within = means.var(0, ddof=1), biased.mean(0)
    total = between + within
    at = np.concatenate([within / total**2, -between / total**2]) / len(total)  # ∂/∂V, ∂/∂S
    values = np.concatenate([(means - means.mean(0)) ** 2, biased], 1)
    return float((between / total).mean()), math.sqrt(at @ np.cov(values.T, ddof=1) @ at / len(x))


def variation(x: Array) -> float:
    """Mean over channels of CV²(s²) of batches x (batches, m, channels)."""
    biased = x.var(1)
    return float((biased.var(0, ddof=1) / biased.mean(0) ** 2).mean())


def expect_numpys(training: Training, rows: pd.DataFrame, batches: int, alive: Array = None) -> None:
    """Every row is what NumPy makes of the frozen network and the same draw; `alive` by (replica, layer), default all."""
    config, replicas, seeds = training.config, len(training.seeds), training.seeds
    group = config.norm_batch_size or config.batch_size
    data = training.inputs.flatten(1).double().numpy()
    population, _ = watched(training.model, training.inputs, config.batch_size, seeds, 0)
    for replica, seed in enumerate(seeds):
        ddof = int(config.variance.normalize == "unbiased")
        network = NumpyMlp(replica_state_dict(training.model, replica, replicas), config.eps, ddof)
        random = generator(seed, "population")
        used = len(data) // config.batch_size * config.batch_size
        order = np.concatenate([torch.randperm(len(data), generator=random)[:used].numpy() for _ in range(30)])
        cut = [
            part
            for start in range(0, batches * config.batch_size, config.batch_size)
            for part in np.split(order[start : start + config.batch_size], range(group, config.batch_size, group))
        ]
        samples = [data[index] for index in cut if len(index) == group][: int(rows["batches"].iloc[0])]
        half = len(samples) // 2
        in_batches = [network.inputs(batch) for batch in samples]
        for name in ("norm1", "norm2"):
            kept = np.ones(config.model.width, bool) if alive is None else alive.get((replica, name), slice(None))
            x = np.stack([seen[name] for seen in in_batches])[..., kept]
            divisor = x[half:].var(1, ddof=ddof) + config.eps
            share, share_se = shares(x[:half])
            biased, biased_se = shares(x[half:])
            vary = variation(x[half:])
            moment = (x[half:].var(1) / divisor).mean()
            for statistic in PROBED_STATISTICS:
                stored = {}
                for path, layer in batchnorm_layers(training.model).items():
                    pair = population[path].statistic(statistic) if "population" in statistic else layer.ema(statistic)
                    stored[path] = tuple(values.view(replicas, -1)[replica].numpy() for values in pair)
                y = network.inputs(data, stored)[name][:, kept]  # type: ignore[arg-type]
                mean, var = (values[kept] for values in stored[name])
                evaluation = ((y - mean) ** 2 / (var + config.eps)).mean()
                expected = {
                    **{"m_eff": 1 / share, "m_eff_se": share_se / share**2},
                    **{"biased_ratio": 1 - biased, "biased_ratio_se": biased_se, "variation": vary},
                    **{"train_moment": moment, "eval_moment": evaluation, "ratio": evaluation / moment},
                }
                found = rows.loc[(seed, name, statistic)]
                assert {column: found[column] for column in expected} == pytest.approx(expected, rel=1e-8, abs=1e-12)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"variance": "inverted"},
        {"variance": "consistent_unbiased", "batch_size": 2},
        {"batch_size": 3, "momentum": None},
        {"variance": "inverted", "norm_batch_size": 4},
        {"norm_batch_size": 3},
    ],
)
@pytest.mark.parametrize("batches", [4, 25])
def test_every_column_is_numpys(digits: Dataset, changes: dict[str, Any], batches: int) -> None:
    training = trained(digits, [3, 0], **changes)
    expect_numpys(training, probed(training, batches=batches), batches)


@pytest.mark.parametrize("variance", ["paper", "inverted"])
def test_predictions_are_theorys_at_what_was_measured(digits: Dataset, variance: str) -> None:
    training = trained(digits, [1], variance=variance)
    rows = probed(training, stack="plain").loc[1].reset_index().sort_values("layer_index")
    for statistic, own in rows.groupby("statistic"):
        kind, stored = str(statistic).split("_")
        inverse, variations = 1 / own["m_eff"].to_numpy(), own["variation"].to_numpy()
        if stored == "total":
            variations = variations * (1 - inverse) ** 2 + 2 * inverse**2
        weights = 0.1 / 1.9 if kind == "ema" else 1 / 13
        noise = [noise_of_average(weights, *pair) for pair in zip(inverse, variations, strict=True)]
        expected = layer_ratios(training.convention.normalize, stored, 8, inverse.tolist(), noise=noise)
        assert own["predicted_ratio"].tolist() == pytest.approx(expected, rel=1e-12)
    first = probed(training)["predicted_ratio"]  # of layers that do not stand on each other, the first alone
    assert first.xs("norm2", level="layer").isna().all()
    assert first.xs("norm1", level="layer").tolist() == pytest.approx(
        probed(training, stack="plain")["predicted_ratio"].xs("norm1", level="layer").tolist()
    )


def test_the_rows_are_every_seed_layer_and_statistic_once(digits: Dataset) -> None:
    config = tiny(model=RESNET8, epochs=1, probe_batches=6)
    measured = measure_block(config, digits, [4, 0])
    layers = list(batchnorm_layers(Training(config, digits, [0]).model))
    found = [(row["seed"], row["layer"], row["statistic"]) for row in measured.layers]
    assert len(found) == len(set(found))
    assert set(found) == set(itertools.product((4, 0), layers, PROBED_STATISTICS))
    columns = {*KEYS, "layer_index", "batches", "m", *NUMBERS, "predicted_ratio", "growth"}
    assert all(set(row) == columns for row in measured.layers)
    assert all(row["layer_index"] == layers.index(row["layer"]) for row in measured.layers)
    assert {row["batches"] for row in measured.layers} == {6}
    positions = {"norm": 64, "stage1": 64, "stage2": 16, "stage3": 4}
    assert all(row["m"] == 8 * positions[row["layer"].split(".")[0]] for row in measured.layers)
    assert all(math.isfinite(row[column]) for row in measured.layers for column in (*NUMBERS, "growth"))


def test_a_baseline_and_a_training_without_probes_have_no_rows(digits: Dataset) -> None:
    assert measure_block(tiny(epochs=1, model__norm="group"), digits, [0]).layers == []
    assert measure_block(tiny(epochs=1, probe_batches=0), digits, [0]).layers == []


def test_probing_leaves_no_trace_and_does_not_change_the_other_tables(digits: Dataset) -> None:
    training = trained(digits, [1, 2])
    before = state_of(training.model)
    first = probed(training, batches=8)
    after = state_of(training.model)
    assert before[1] == after[1]
    assert all(torch.equal(value, after[0][name]) for name, value in before[0].items())
    pd.testing.assert_frame_equal(first, probed(training, batches=8), check_exact=True)
    on, off = (measure_block(tiny(epochs=1, probe_batches=batches), digits, [0, 1]) for batches in (8, 0))
    assert (on.metrics, on.folds, on.diverged) == (off.metrics, off.folds, off.diverged)


@pytest.mark.parametrize("model", ["mlp", "resnet8"])
def test_a_replica_in_a_block_equals_the_same_replica_alone(digits: Dataset, model: str) -> None:
    changes: dict[str, Any] = {"model": RESNET8} if model == "resnet8" else {}
    training = trained(digits, [3, 0, 7], variance="inverted", **changes)
    rows = probed(training, batches=30)
    for replica, seed in enumerate(training.seeds):
        one = Training(training.config, digits, [seed])
        one.model.load_state_dict(replica_state_dict(training.model, replica, 3))
        for name, layer in batchnorm_layers(one.model).items():
            stacked = batchnorm_layers(training.model)[name]
            for buffer, values in layer.named_buffers():
                source = stacked.get_buffer(buffer)
                values.copy_(source if source.dim() == 0 else source.view(3, -1)[replica])
        pd.testing.assert_frame_equal(probed(one, batches=30).drop(columns="ratio_se"),
                                      rows.loc[[seed]].drop(columns="ratio_se"), rtol=1e-8)  # fmt: skip


@pytest.mark.parametrize("variance", ["paper", "inverted"])
def test_ghost_batches_are_probed_as_batches_of_their_own_size(digits: Dataset, variance: str) -> None:
    training = trained(digits, [0, 1], variance=variance, norm_batch_size=4, model=RESNET8)
    rows = probed(training, batches=10)
    assert (rows["m"].loc[0, "norm"] == 4 * 64).all()
    assert set(rows["batches"]) == {10}
    layers = batchnorm_layers(training.model)
    _, seen = watched(training.model, training.inputs, 8, [0, 1], 10)
    for layer in layers.values():
        layer.norm_batch_size = None
    population, by_group = watched(training.model, training.inputs, 4, [0, 1], 10)
    for name, layer_seen in seen.items():
        torch.testing.assert_close(layer_seen.means, by_group[name].means, rtol=1e-9, atol=1e-12)
        assert population[name].batches == 26


def test_constant_channels_are_left_out(digits: Dataset) -> None:
    training = trained(digits, [3, 0])
    with torch.no_grad():
        training.model.linear1.weight[1, :, [2, 5]] = 0.0  # type: ignore[union-attr,operator,index]
        training.model.linear2.weight[0, :, 7] = 0.0  # type: ignore[union-attr,operator,index]
    dead = {(1, "norm1"): np.ones(12, bool), (0, "norm2"): np.ones(12, bool)}
    dead[1, "norm1"][[2, 5]] = dead[0, "norm2"][7] = False
    rows = probed(training, batches=20)
    assert np.isfinite(rows[NUMBERS]).all(axis=None)
    expect_numpys(training, rows, 20, dead)


def test_a_layer_without_a_living_channel_has_no_numbers(digits: Dataset) -> None:
    training = trained(digits, [3, 0])
    with torch.no_grad():
        training.model.linear2.weight[0] = 0.0  # type: ignore[union-attr,operator,index]
    missing = probed(training, batches=20)[NUMBERS].isna()
    assert missing.loc[3, "norm2"].all(axis=None)
    assert not missing.drop(index=(3, "norm2")).any(axis=None)


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e200])
def test_a_broken_replica_has_no_numbers_and_the_others_keep_theirs_to_the_bit(digits: Dataset, value: float) -> None:
    training = trained(digits, [3, 0, 1])
    before = probed(training, batches=20, stack="plain")
    with torch.no_grad():
        training.model.linear1.weight[1, 20, 4] = value  # type: ignore[union-attr,operator,index]
    rows = probed(training, batches=20, stack="plain")
    broken_rows = rows.loc[[0], NUMBERS].isna()
    assert broken_rows.loc[0, "norm1"].all(axis=None)
    assert broken_rows.all(axis=None) or value == 1e200  # it overflows in one channel, which gives the next layer zeros
    pd.testing.assert_frame_equal(rows.drop(index=0), before.drop(index=0), check_exact=True)


def test_batch_means_that_do_not_vary_have_an_infinite_m_eff() -> None:
    model = nn.Sequential(BatchNorm2d(3)).double()
    images = torch.randn(50, 3, 4, 4, generator=torch.Generator().manual_seed(0)).double()
    images = torch.cat([images, -images], 3)  # each image's mean is 0, up to rounding
    images -= images.mean((2, 3), keepdim=True)
    rows = table(model, torch.round(images * 2**20) / 2**20, 4, [0], batches=20, statistics=["population_unbiased"])
    assert rows["m_eff"][0] > 1e10
    assert rows["predicted_ratio"][0] == pytest.approx(127 / 128, rel=0.01)
    assert rows["biased_ratio"][0] == pytest.approx(1)


@pytest.mark.parametrize("batches", [1, 3])
def test_too_few_batches_are_refused(batches: int) -> None:
    with pytest.raises(ValueError, match=f"batches: {batches} leave a half without a standard error; use 4 or more"):
        table(nn.Sequential(BatchNorm1d(2)), torch.zeros(2, 2), 2, [0], batches=batches, statistics=["population_total"])


def test_a_layer_that_runs_more_than_once_cannot_be_probed() -> None:
    twice = nn.Sequential(BatchNorm1d(2))
    twice.append(twice[0])
    with pytest.raises(ValueError, match="layer '0' runs more than once in a pass"):
        table(twice, torch.randn(8, 2), 4, [0], batches=4)


def test_a_split_that_is_larger_than_what_is_watched_has_the_moments_of_its_beginning() -> None:
    model = nn.Sequential(BatchNorm1d(4))
    inputs = torch.randn(3 * WATCHED, 4, generator=torch.Generator().manual_seed(0))
    inputs[WATCHED:] *= 3
    rows = table(model, inputs, 8, [0], statistics=["ema_unbiased"])  # stored: mean 0, variance 1
    assert rows["eval_moment"][0] == pytest.approx(float(inputs[:WATCHED].square().mean()), rel=1e-4)


# --- known truth ---------------------------------------------------------------------------------------------------------


def one_layer(layer: type[BatchNorm1d] | type[BatchNorm2d], channels: int, replicas: int, convention: str) -> nn.Module:
    """A network of one BatchNorm layer, stacked; its statistics are those of the inputs themselves."""
    return replicate([nn.Sequential(layer(channels, convention=convention)) for _ in range(replicas)])


def corrected(m_eff: float, batch_size: int, samples: int) -> float:
    """m_eff of batches drawn without replacement: Var(μ_B) is smaller by (n-N)/(n-1), σ² of the split being fixed."""
    return m_eff * (samples - 1) / (samples - batch_size)


def z_scores(rows: pd.DataFrame, m_eff: float) -> dict[str, Array]:
    """How far columns are from the truth, in the table's own standard errors."""
    total = rows[rows["statistic"] == "population_total"]
    return {
        "m_eff": ((total["m_eff"] - m_eff) / total["m_eff_se"]).to_numpy(),
        "biased_ratio": ((total["biased_ratio"] - (1 - 1 / m_eff)) / total["biased_ratio_se"]).to_numpy(),
        "both": (
            (total["biased_ratio"] - (1 - 1 / total["m_eff"]))
            / np.hypot(total["biased_ratio_se"], total["m_eff_se"] / total["m_eff"] ** 2)
        ).to_numpy(),
    }


def planted(rho: float, images: int = 4096, channels: int = 8, side: int = 3) -> Tensor:
    """Images x = √ρ·g_n + √(1-ρ)·e_nhw: pixels of one image have correlation ρ, images are independent."""
    random = np.random.default_rng(0)
    shared, own = random.normal(size=(images, channels, 1, 1)), random.normal(size=(images, channels, side, side))
    return torch.from_numpy(math.sqrt(rho) * shared + math.sqrt(1 - rho) * own).float()


@pytest.fixture(scope="module")
def gaussian() -> Tensor:
    """4,096 samples of 64 independent standard-normal features."""
    return load_dataset(DatasetConfig("gaussian")).train.inputs


@pytest.mark.parametrize("convention", ["paper", "inverted"])
@pytest.mark.parametrize("m", [2, 3, 4, 8, 16, 64])
def test_independent_samples_are_worth_themselves(gaussian: Tensor, m: int, convention: str) -> None:
    rows = table(one_layer(BatchNorm1d, 64, 4, convention), gaussian, m, range(4), statistics=POPULATION_STATISTICS)
    for name, scores in z_scores(rows, corrected(m, m, 4096)).items():
        assert np.abs(scores).max() < 4, name
    assert rows["m_eff_se"].max() < 0.1 * m
    assert ((rows["variation"] - 2 / (m - 1)) / rows["variation_se"]).abs().max() < 4
    moment, rel = 1 if convention == "paper" else (m - 1) / m, 0.01 if m == 2 else 1e-3  # of pairs ε shows
    assert rows["train_moment"].to_numpy() == pytest.approx(moment, rel=rel)
    assert rows["ratio"].to_numpy() == pytest.approx(rows["predicted_ratio"].to_numpy(), rel=0.05 if m < 4 else 0.02)


@pytest.mark.parametrize("rho", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("batch_size", [2, 3, 8, 32])
def test_a_planted_correlation_within_images_has_the_m_eff_of_theory(rho: float, batch_size: int) -> None:
    images, positions = planted(rho), 9
    rows = table(one_layer(BatchNorm2d, 8, 4, "paper"), images, batch_size, range(4), statistics=POPULATION_STATISTICS)
    assert set(rows["m"]) == {batch_size * positions}
    # The split's own spread of image means is what batches are drawn from.
    between = float(images.mean((2, 3)).var(0, correction=1).mean() / images.var((0, 2, 3), correction=0).mean())
    for name, scores in z_scores(rows, corrected(batch_size / between, batch_size, len(images))).items():
        assert np.abs(scores).max() < 4, name
    nominal = batch_size * positions / (1 + (positions - 1) * rho)
    assert batch_size / between == pytest.approx(nominal, rel=0.1)


@settings(max_examples=10)
@given(st.floats(0, 1), st.integers(2, 12), st.integers(0, 1000))
def test_any_planted_correlation_is_recovered(rho: float, batch_size: int, seed: int) -> None:
    images = planted(rho, images=2048)
    rows = table(one_layer(BatchNorm2d, 8, 1, "paper"), images, batch_size, [seed], statistics=["population_total"])
    (score,) = z_scores(rows, batch_size * 9 / (1 + 8 * rho))["m_eff"]
    assert abs(score) < 6  # many examples, and a sample of images of its own


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "batch_size"), [("features", 2), ("features", 8), ("images", 2), ("images", 8), ("features", 32)]
)
def test_standard_errors_are_neither_too_small_nor_too_large(gaussian: Tensor, kind: str, batch_size: int) -> None:
    replicas = 150
    if kind == "features":
        model, inputs, m_eff = one_layer(BatchNorm1d, 64, replicas, "paper"), gaussian, float(batch_size)
    else:
        model, inputs = one_layer(BatchNorm2d, 8, replicas, "paper"), planted(0.3)
        m_eff = batch_size / float(inputs.mean((2, 3)).var(0).mean() / inputs.var((0, 2, 3), correction=0).mean())
    rows = table(model, inputs, batch_size, range(replicas), batches=100, statistics=["population_total"])
    for name, scores in z_scores(rows, corrected(m_eff, batch_size, 4096)).items():
        assert 0.7 < scores.std(ddof=1) < 1.4, name
        assert abs(scores.mean()) < 0.5, name
