"""Layer probes against plain NumPy on frozen networks, and against truth where it is known."""

from __future__ import annotations

import copy
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

from bnstudy.batchnorm.conventions import CONVENTIONS, POPULATION_STATISTICS
from bnstudy.batchnorm.layers import BatchNorm1d, BatchNorm2d
from bnstudy.batchnorm.mode import batchnorm_layers
from bnstudy.batchnorm.population import Population
from bnstudy.batchnorm.theory import predict as theory
from bnstudy.training.config import DatasetConfig
from bnstudy.training.data import Dataset, load_dataset
from bnstudy.training.loop import Training
from bnstudy.training.measuring import measure_block
from bnstudy.training.measuring.predict import population_of
from bnstudy.training.measuring.probes import PROBED_STATISTICS, probe_layers
from bnstudy.training.networks import replica_state_dict, replicate
from bnstudy.training.seeds import generator
from tests.tiny import RESNET8, tiny
from tests.training.measuring.test_predict import state_of

Array = Any
MEASURED = ("m_eff", "biased_ratio", "train_moment", "eval_moment", "ratio", "std_discrepancy", "mean_discrepancy")
NUMBERS = [column for name in (*MEASURED, "predicted_ratio") for column in (name, f"{name}_se")]
KEYS = ["seed", "layer", "statistic"]


def populations(model: nn.Module, inputs: Tensor, batch_size: int, seeds: Sequence[int]) -> dict[str, Population]:
    return population_of(model, inputs, batch_size, [generator(seed, "population") for seed in seeds])


def trained(digits: Dataset, seeds: Sequence[int], **changes: Any) -> tuple[Training, dict[str, Population]]:
    training = Training(tiny(**({"precision": "float64", "steps": 5} | changes)), digits, seeds)
    training.run_epoch()
    return training, populations(training.model, training.inputs, training.config.batch_size, seeds)


def probed(training: Training, population: dict[str, Population], **options: Any) -> pd.DataFrame:
    config = training.config
    rows = probe_layers(training.model, training.inputs, config.batch_size, training.seeds, population, **options)
    return pd.DataFrame(rows).set_index(KEYS).sort_index()


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


def spread_of_a_ratio(above: Array, below: Array) -> tuple[float, float]:
    """Ratio of means, and its error from the covariance of the two means."""
    a, b = above.mean(), below.mean()
    covariance = np.cov(np.stack([above, below]), ddof=1) / len(above)
    gradient = np.array([1 / b, -a / b**2])
    return a / b, math.sqrt(max(0.0, gradient @ covariance @ gradient))


def shares(x: Array) -> tuple[float, float]:
    """Mean over channels of Var(μ_B)/σ² of batches x (batches, m, channels), and its error, channel by channel."""
    means, biased = x.mean(1), x.var(1)
    between, within = means.var(0, ddof=1), biased.mean(0)
    total = between + within
    at = np.concatenate([within / total**2, -between / total**2]) / len(total)  # ∂/∂V, ∂/∂S
    values = np.concatenate([(means - means.mean(0)) ** 2, biased], 1)
    return float((between / total).mean()), math.sqrt(at @ np.cov(values.T, ddof=1) @ at / len(x))


def numpy_columns(
    network: NumpyMlp, samples: Array, stored: dict[str, tuple[Array, Array]], alive: dict[str, Array]
) -> dict[str, dict[str, float]]:
    """Every measured column by layer, from samples (batches, m, F)."""
    half = len(samples) // 2
    in_batches = [network.inputs(batch) for batch in samples]
    at_inference = [network.inputs(batch, stored) for batch in samples[half:]]
    result = {}
    for layer in ("norm1", "norm2"):
        kept = alive[layer]
        x = np.stack([seen[layer] for seen in in_batches])[..., kept]
        share, share_se = shares(x[:half])
        biased, biased_se = shares(x[half:])
        mean, var = (values[kept] for values in stored[layer])
        mu = x[half:].mean(1)
        sigma = np.sqrt(x[half:].var(1, ddof=network.ddof) + network.eps)
        hat = np.sqrt(var + network.eps)
        train = (((x[half:] - mu[:, None]) / sigma[:, None]) ** 2).mean((1, 2))
        y = np.stack([seen[layer] for seen in at_inference])[..., kept]
        evaluation = (((y - mean) / hat) ** 2).mean((1, 2))
        one = np.ones(len(train))
        varies = (x[half:] != x[half:, :1]).any(1).astype(float)
        estimates = {
            "m_eff": (1 / share, share_se / share**2),
            "biased_ratio": (1 - biased, biased_se),
            "train_moment": spread_of_a_ratio(train, one),
            "eval_moment": spread_of_a_ratio(evaluation, one),
            "ratio": spread_of_a_ratio(evaluation, train),
            "std_discrepancy": spread_of_a_ratio((np.abs(hat / sigma - 1) * varies).sum(1), varies.sum(1)),
            "mean_discrepancy": spread_of_a_ratio((np.abs(mean - mu) / sigma * varies).sum(1), varies.sum(1)),
        }
        result[layer] = {f"{name}{end}": pair[i] for name, pair in estimates.items() for i, end in enumerate(("", "_se"))}
    return result


def expect_numpys(training: Training, population: dict[str, Population], rows: pd.DataFrame, alive: Array = None) -> None:
    """Every row is what NumPy makes of the frozen network and the same draw; `alive` by (replica, layer), default all."""
    config, replicas = training.config, len(training.seeds)
    m, batches = config.norm_batch_size or config.batch_size, int(rows["batches"].iloc[0])
    data = training.dataset.train.inputs.flatten(1).double().numpy()
    for replica, seed in enumerate(training.seeds):
        ddof = int(config.variance.normalize == "unbiased")
        network = NumpyMlp(replica_state_dict(training.model, replica, replicas), config.eps, ddof)
        index = torch.randint(len(data), (batches * m,), generator=generator(seed, "probes")).numpy()
        every = {layer: np.ones(config.model.width, bool) for layer in ("norm1", "norm2")}
        living = every if alive is None else {layer: alive.get((replica, layer), every[layer]) for layer in every}
        for statistic in PROBED_STATISTICS:
            stored = {}
            for name, layer in batchnorm_layers(training.model).items():
                pair = population[name].statistic(statistic) if statistic in POPULATION_STATISTICS else layer.ema(statistic)
                stored[name] = tuple(values.view(replicas, -1)[replica].numpy() for values in pair)
            expected = numpy_columns(network, data[index].reshape(batches, m, -1), stored, living)  # type: ignore[arg-type]
            for name in ("norm1", "norm2"):
                found = rows.loc[(seed, name, statistic)]
                assert {column: found[column] for column in expected[name]} == pytest.approx(
                    expected[name], rel=1e-8, abs=1e-12
                ), (seed, name, statistic)


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
    training, population = trained(digits, [3, 0], **changes)
    expect_numpys(training, population, probed(training, population, batches=batches))


def test_predictions_are_theorys_at_the_measured_m_eff(digits: Dataset) -> None:
    for variance in ("paper", "inverted"):
        training, population = trained(digits, [1], variance=variance)
        for (_, _, statistic), row in probed(training, population).iterrows():
            convention = CONVENTIONS[f"{'paper' if statistic.endswith('unbiased') else 'consistent_biased'}"]
            if variance == "inverted":
                convention = CONVENTIONS["consistent_unbiased" if statistic.endswith("unbiased") else "inverted"]
            if statistic in POPULATION_STATISTICS:
                expected = theory(convention, 8, row["m_eff"], statistic).ratio
                assert row["predicted_ratio"] == pytest.approx(expected, rel=1e-12)
            elif statistic != "ema_pooled":
                noise = (1 + 0.1 / 1.9 / row["m_eff"]) * (1 + 0.2 / 1.9 / (row["m_eff"] - 1))
                assert row["predicted_ratio"] == pytest.approx(theory(convention, 8, row["m_eff"]).ratio * noise, rel=1e-12)


def test_the_rows_are_every_seed_layer_and_statistic_once(digits: Dataset) -> None:
    config = tiny(model=RESNET8, epochs=1, probe_batches=6)
    measured = measure_block(config, digits, [4, 0])
    layers = list(batchnorm_layers(Training(config, digits, [0]).model))
    found = [(row["seed"], row["layer"], row["statistic"]) for row in measured.layers]
    assert len(found) == len(set(found))
    assert set(found) == set(itertools.product((4, 0), layers, PROBED_STATISTICS))
    assert all(set(row) == {*KEYS, "batches", "m", *NUMBERS} for row in measured.layers)
    assert {row["batches"] for row in measured.layers} == {6}
    positions = {"norm": 64, "stage1": 64, "stage2": 16, "stage3": 4}
    assert all(row["m"] == 8 * positions[row["layer"].split(".")[0]] for row in measured.layers)
    assert all(math.isfinite(row[column]) for row in measured.layers for column in NUMBERS)


def test_a_baseline_and_a_training_without_probes_have_no_rows(digits: Dataset) -> None:
    assert measure_block(tiny(epochs=1, model__norm="group"), digits, [0]).layers == []
    assert measure_block(tiny(epochs=1, probe_batches=0), digits, [0]).layers == []


def test_probing_leaves_no_trace_and_does_not_change_the_other_tables(digits: Dataset) -> None:
    training, population = trained(digits, [1, 2])
    before = state_of(training.model)
    first = probed(training, population, batches=8)
    after = state_of(training.model)
    assert before[1] == after[1]
    assert all(torch.equal(value, after[0][name]) for name, value in before[0].items())
    assert not any(layer._forward_pre_hooks for layer in batchnorm_layers(training.model).values())
    pd.testing.assert_frame_equal(first, probed(training, population, batches=8), check_exact=True)
    on, off = (measure_block(tiny(epochs=1, probe_batches=batches), digits, [0, 1]) for batches in (8, 0))
    assert (on.metrics, on.distances, on.diverged) == (off.metrics, off.distances, off.diverged)


@pytest.mark.parametrize("model", ["mlp", "resnet8"])
def test_a_replica_in_a_block_equals_the_same_replica_alone(digits: Dataset, model: str) -> None:
    changes: dict[str, Any] = {"model": RESNET8} if model == "resnet8" else {}
    training, population = trained(digits, [3, 0, 7], variance="inverted", **changes)
    rows = probed(training, population, batches=30)
    alone = copy.deepcopy(training)
    for replica, seed in enumerate(training.seeds):
        one = Training(training.config, digits, [seed])
        one.model.load_state_dict(replica_state_dict(training.model, replica, 3))
        for name, layer in batchnorm_layers(one.model).items():
            stacked = batchnorm_layers(alone.model)[name]
            for buffer, values in layer.named_buffers():
                source = stacked.get_buffer(buffer)
                values.copy_(source if source.dim() == 0 else source.view(3, -1)[replica])
        part = {
            name: Population(
                *(values.view(3, -1)[replica] for values in (seen.mean, seen.biased, seen.unbiased, seen.pooled)),
                seen.batches,
                seen.values,
            )
            for name, seen in population.items()
        }
        found = probed(one, part, batches=30)
        pd.testing.assert_frame_equal(found, rows.loc[[seed]], rtol=1e-8)


@pytest.mark.parametrize("variance", ["paper", "inverted"])
def test_ghost_batches_are_probed_as_batches_of_their_own_size(digits: Dataset, variance: str) -> None:
    training, population = trained(digits, [0, 1], variance=variance, norm_batch_size=4, model=RESNET8)
    rows = probed(training, population, batches=10)
    assert (rows["m"].loc[0, "norm"] == 4 * 64).all()
    for layer in batchnorm_layers(training.model).values():
        layer.norm_batch_size = None
    training.config.batch_size = 4
    pd.testing.assert_frame_equal(rows, probed(training, population, batches=10), rtol=1e-9)


def test_more_draws_than_samples_are_measured_as_if_each_were_put_through_the_network(digits: Dataset) -> None:
    training, population = trained(digits, [0, 1])
    assert 40 // 2 * 8 > len(digits.train) > 10 // 2 * 8
    expect_numpys(training, population, probed(training, population, batches=40))
    expect_numpys(training, population, probed(training, population, batches=10))


def test_constant_channels_are_left_out(digits: Dataset) -> None:
    training, _ = trained(digits, [3, 0])
    with torch.no_grad():
        training.model.linear1.weight[1, :, [2, 5]] = 0.0  # type: ignore[union-attr,operator,index]
        training.model.linear2.weight[0, :, 7] = 0.0  # type: ignore[union-attr,operator,index]
    population = populations(training.model, training.inputs, 8, [3, 0])
    dead = {(1, "norm1"): np.ones(12, bool), (0, "norm2"): np.ones(12, bool)}
    dead[1, "norm1"][[2, 5]] = dead[0, "norm2"][7] = False
    rows = probed(training, population, batches=20)
    assert np.isfinite(rows[NUMBERS]).all(axis=None)
    expect_numpys(training, population, rows, dead)


def test_a_layer_without_a_living_channel_has_no_numbers(digits: Dataset) -> None:
    training, population = trained(digits, [3, 0])
    with torch.no_grad():
        training.model.linear2.weight[0] = 0.0  # type: ignore[union-attr,operator,index]
    rows = probed(training, population, batches=20)
    missing = rows[NUMBERS].isna()
    assert missing.loc[3, "norm2"].all(axis=None)
    assert not missing.drop(index=(3, "norm2")).any(axis=None)


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e200])
def test_a_broken_replica_has_no_numbers_and_the_others_keep_theirs_to_the_bit(digits: Dataset, value: float) -> None:
    training, population = trained(digits, [3, 0, 1])
    before = probed(training, population, batches=20)
    with torch.no_grad():
        training.model.linear1.weight[1, 20, 4] = value  # type: ignore[union-attr,operator,index]
    broken = populations(training.model, training.inputs, 8, training.seeds)
    rows = probed(training, broken, batches=20)
    broken_rows = rows.loc[[0], NUMBERS].isna()
    assert broken_rows.loc[0, "norm1"].all(axis=None)
    assert broken_rows.all(axis=None) or value == 1e200  # it overflows in one channel, which gives the next layer zeros
    pd.testing.assert_frame_equal(rows.drop(index=0), before.drop(index=0), check_exact=True)


def test_batch_means_that_do_not_vary_have_an_infinite_m_eff() -> None:
    model = nn.Sequential(BatchNorm2d(3)).double()
    images = torch.randn(50, 3, 4, 4, generator=torch.Generator().manual_seed(0)).double()
    images = torch.cat([images, -images], 3)  # each image's mean is 0, up to rounding
    images -= images.mean((2, 3), keepdim=True)
    rows = probe_layers(model, torch.round(images * 2**20) / 2**20, 4, [0], batches=20, statistics=["ema_unbiased"])
    assert rows[0]["m_eff"] > 1e10
    assert rows[0]["predicted_ratio"] == pytest.approx(127 / 128)
    assert rows[0]["biased_ratio"] == pytest.approx(1)


@pytest.mark.parametrize("batches", [0, 1, 3])
def test_too_few_batches_are_refused(batches: int) -> None:
    with pytest.raises(ValueError, match=f"batches: {batches} leave a half without a standard error; use 4 or more"):
        probe_layers(nn.Sequential(BatchNorm1d(2)), torch.zeros(4, 2), 2, [0], batches=batches)


def test_models_that_cannot_be_probed_are_refused() -> None:
    twice = nn.Sequential(BatchNorm1d(2))
    twice.append(twice[0])
    with pytest.raises(ValueError, match="layer '0' runs more than once in a pass"):
        probe_layers(twice, torch.randn(8, 2), 4, [0], batches=4)
    mixed = nn.Sequential(BatchNorm1d(2, norm_batch_size=2), BatchNorm1d(2))
    with pytest.raises(ValueError, match=r"norm_batch_size: layers have groups of \[2, 4\] samples; probes need one size"):
        probe_layers(mixed, torch.randn(8, 2), 4, [0], batches=4)


# --- known truth ---------------------------------------------------------------------------------------------------------


def one_layer(layer: type[BatchNorm1d] | type[BatchNorm2d], channels: int, replicas: int, convention: str) -> nn.Module:
    """A network of one BatchNorm layer, stacked; its statistics are those of the inputs themselves."""
    return replicate([nn.Sequential(layer(channels, convention=convention)) for _ in range(replicas)])


def table(model: nn.Module, inputs: Tensor, batch_size: int, seeds: Sequence[int]) -> pd.DataFrame:
    population = populations(model, inputs, batch_size, seeds)
    rows = probe_layers(model, inputs, batch_size, seeds, population, statistics=POPULATION_STATISTICS)
    return pd.DataFrame(rows)


def z_scores(rows: pd.DataFrame, m_eff: float) -> dict[str, Array]:
    """How far columns are from the truth, in the table's own standard errors."""
    pooled = rows[rows["statistic"] == "population_pooled"]
    z = {
        "m_eff": (pooled["m_eff"] - m_eff) / pooled["m_eff_se"],
        "biased_ratio": (pooled["biased_ratio"] - (1 - 1 / m_eff)) / pooled["biased_ratio_se"],
        "eval_moment": (pooled["eval_moment"] - 1) / pooled["eval_moment_se"],
    }
    for statistic in POPULATION_STATISTICS:
        own = rows[rows["statistic"] == statistic]
        error = np.hypot(own["ratio_se"], own["predicted_ratio_se"])
        z[f"ratio {statistic}"] = (own["ratio"] - own["predicted_ratio"]) / error
    return {name: scores.to_numpy() for name, scores in z.items()}


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
    model, seeds = one_layer(BatchNorm1d, 64, 4, convention), range(4)
    rows = table(model, gaussian, m, seeds)
    for name, scores in z_scores(rows, m).items():
        assert np.abs(scores).max() < 4, name
    assert rows["m_eff_se"].max() < 0.1 * m
    moment, rel = 1 if convention == "paper" else (m - 1) / m, 0.01 if m == 2 else 1e-3  # of pairs ε shows
    assert rows["train_moment"].to_numpy() == pytest.approx(moment, rel=rel)
    if m >= 8:  # (μ_B - μ)/s_unbiased·√m is Student's t with m-1 degrees of freedom
        t = np.abs(np.random.default_rng(1).standard_t(m - 1, size=10**6)).mean() / math.sqrt(m)
        expected = t * (math.sqrt(m / (m - 1)) if convention == "paper" else 1)
        scores = (rows["mean_discrepancy"] - expected) / np.hypot(rows["mean_discrepancy_se"], 2e-3 * expected)
        assert scores.abs().max() < 4


@pytest.mark.parametrize("rho", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("batch_size", [2, 3, 8, 32])
def test_a_planted_correlation_within_images_has_the_m_eff_of_theory(rho: float, batch_size: int) -> None:
    model, positions = one_layer(BatchNorm2d, 8, 4, "paper"), 9
    rows = table(model, planted(rho), batch_size, range(4))
    assert set(rows["m"]) == {batch_size * positions}
    for name, scores in z_scores(rows, batch_size * positions / (1 + (positions - 1) * rho)).items():
        assert np.abs(scores).max() < 4, name


@settings(max_examples=10)
@given(st.floats(0, 1), st.integers(2, 12), st.integers(0, 1000))
def test_any_planted_correlation_is_recovered(rho: float, batch_size: int, seed: int) -> None:
    rows = table(one_layer(BatchNorm2d, 8, 1, "paper"), planted(rho, images=2048), batch_size, [seed])
    (score,) = z_scores(rows, batch_size * 9 / (1 + 8 * rho))["m_eff"]
    assert abs(score) < 6  # many examples, and a sample of images of its own


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "batch_size"), [("features", 2), ("features", 8), ("images", 2), ("images", 8), ("features", 32)]
)
def test_standard_errors_are_neither_too_small_nor_too_large(gaussian: Tensor, kind: str, batch_size: int) -> None:
    replicas = 150
    if kind == "features":
        rows = table(one_layer(BatchNorm1d, 64, replicas, "paper"), gaussian, batch_size, range(replicas))
        m_eff = float(batch_size)
    else:
        rows = table(one_layer(BatchNorm2d, 8, replicas, "paper"), planted(0.3), batch_size, range(replicas))
        m_eff = batch_size * 9 / (1 + 8 * 0.3)
    for name, scores in z_scores(rows, m_eff).items():
        assert 0.7 < scores.std(ddof=1) < 1.4, name
        assert abs(scores.mean()) < 0.5, name
