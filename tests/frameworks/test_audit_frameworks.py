"""Every row of the audit against bnstudy's own layer, fed the same five batches; slow, since each framework is a process."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest
import torch

from bnstudy.batchnorm.layers import BatchNorm2d
from bnstudy.frameworks.audit import table
from bnstudy.frameworks.audit.behaviour import identify
from bnstudy.frameworks.audit.processes import Measurement, measure
from bnstudy.frameworks.audit.registry import ENTRIES, entries
from bnstudy.frameworks.translate.frameworks import FRAMEWORKS

pytestmark = pytest.mark.slow

RESULTS = Path(__file__).parents[2] / "results" / "audit"
EXPECTED = {
    "torch": "paper",
    "torch-compile": "paper",
    "torch-functional": "paper",
    "onnxruntime": "consistent_biased",
    "onnx-reference": "consistent_biased",
    "onnx-dynamo": "unknown",
    "onnx-operator": "consistent_biased",
    "torchvision-frozen": "unknown",
    "timm-batchnormact": "paper",
    "timm-frozen": "unknown",
    "timm-splitbatchnorm": "unknown",
    "timm-evonorm-b0": "unknown",
    "flax-linen": "consistent_biased",
    "flax-nnx": "consistent_biased",
    "haiku": "consistent_biased",
    "equinox-batch": "consistent_biased",
    "equinox-ema": "unknown",
    "keras-torch": "consistent_biased",
    "keras-jax": "consistent_biased",
    "keras-tensorflow": "consistent_biased",
    "tensorflow-fused": "paper",
    "tinygrad": "paper",
    "mlx": "paper",
    "paddle": "consistent_biased",
    "karpathy": "consistent_unbiased",
}


@functools.cache
def measured(name: str) -> Measurement:
    return measure(entries([name])[0])


def seen(name: str):
    found = measured(name)
    if found.status == "missing":
        pytest.skip(f"needs the extra 'audit': {found.reason}")
    assert found.status == "measured", found.reason
    assert found.observations is not None
    return found.observations


def test_the_registry_and_this_page_name_the_same_layers():
    assert [entry.name for entry in ENTRIES] == list(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_a_framework_is_bnstudy_s_layer_under_the_identified_convention_over_five_updates(name):
    observations = seen(name)
    behaviour = identify(observations)
    assert behaviour.convention == EXPECTED[name]
    if behaviour.convention == "unknown":
        assert behaviour.oddities
        return
    run = observations.main
    layer = BatchNorm2d(run.gain.size, eps=behaviour.eps, convention=behaviour.convention)
    layer.load_state_dict(
        {
            "weight": torch.tensor(run.gain),
            "bias": torch.tensor(run.shift),
            "running_mean": torch.tensor(run.means[0]),
            "running_var": torch.tensor(run.variances[0]),
            "num_batches_tracked": torch.tensor(0),
        }
    )
    alpha, d = behaviour.weight, 1 - behaviour.weight
    for t in range(1, 6):
        corrected = behaviour.bias_correction == "in the stored average"
        layer.momentum = alpha / (1 - d**t) if corrected else alpha
        y = layer.train()(torch.tensor(run.inputs[t - 1])).detach().numpy()
        np.testing.assert_allclose(y, run.outputs[t - 1], rtol=0, atol=1e-5)
        np.testing.assert_allclose(layer.running_mean.numpy(), run.means[t], rtol=0, atol=1e-5)
        np.testing.assert_allclose(layer.running_var.numpy(), run.variances[t], rtol=0, atol=1e-5)
        probe = torch.tensor(run.probes[t - 1])
        if behaviour.bias_correction == "at inference":
            layer.override = (layer.running_mean / (1 - d**t), layer.running_var / (1 - d**t))
        evaluated = layer.eval()(probe).detach().numpy()
        layer.override = None
        np.testing.assert_allclose(evaluated, run.evaluations[t - 1], rtol=0, atol=1e-5)


def test_the_moving_average_mode_of_equinox_is_what_was_said_of_it():
    run = seen("equinox-ema").main
    mean, var = run.inputs[0].mean((0, 2, 3)), run.inputs[0].var((0, 2, 3))  # the first batch replaces the start
    for t in range(5):
        if t:
            mean = 0.99 * mean + 0.01 * run.inputs[t].mean((0, 2, 3))
            var = 0.99 * var + 0.01 * run.inputs[t].var((0, 2, 3))
        y = (run.inputs[t] - mean[:, None, None]) / np.sqrt(var + 1e-5)[:, None, None]
        np.testing.assert_allclose(y, run.outputs[t], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(var, run.variances[t + 1], rtol=1e-5)


def test_batch_mode_of_equinox_divides_its_start_value_too():
    observations = seen("equinox-batch")
    assert "divides the start value 1" in identify(observations).remarks[0]
    run = observations.main
    slope = run.evaluations[0].std((0, 2, 3)) / run.probes[0].std((0, 2, 3))
    used = 1 / slope**2 - 1e-5  # what inference divided by after one batch
    np.testing.assert_allclose(used, (0.99 + 0.01 * run.inputs[0].var((0, 2, 3))) / 0.01, rtol=1e-4)


@pytest.mark.parametrize("name", ["torchvision-frozen", "timm-frozen", "onnx-dynamo"])
def test_a_frozen_layer_uses_what_it_stores_in_either_mode(name):
    observations = seen(name)
    behaviour = identify(observations)
    assert (behaviour.normalize, behaviour.accumulate, behaviour.eps) == ("stored", "nothing", 1e-5)
    written = observations.written
    expected = (written.probe - written.mean[:, None, None]) / np.sqrt(written.variance + 1e-5)[:, None, None]
    np.testing.assert_allclose(written.training, expected, rtol=1e-4, atol=1e-5)


def test_split_batchnorm_stores_the_statistics_of_the_first_half_only():
    run = seen("timm-splitbatchnorm").main
    half = run.inputs[0][:2].var((0, 2, 3), ddof=1)
    np.testing.assert_allclose(run.variances[1], 0.9 + 0.1 * half, rtol=1e-5)


def test_what_translation_believes_of_frameworks_was_measured():
    committed = table.read(RESULTS).set_index("name")
    for framework in FRAMEWORKS.values():
        row = committed.loc[framework.row]
        assert row["convention"] == framework.convention.name
        assert row["eps"] == pytest.approx(framework.eps)
        assert (row["bias_correction"] == "in the stored average") == framework.bias_corrected
        assert row["momentum_means"] == framework.weighs
        if framework.momentum is not None:
            assert row["weight"] == pytest.approx(framework.momentum)


def test_the_committed_table_covers_at_least_eight_frameworks_with_versions():
    committed = table.read(RESULTS)
    good = committed[committed["status"] == "measured"]
    assert good["framework"].nunique() >= 8
    assert good["version"].str.match(r"\d+\.\d+").all()
    assert dict(zip(good["name"], good["convention"], strict=True)).items() <= EXPECTED.items()
    named = good[good["convention"] != "unknown"]
    assert (named["difference"] <= 1e-5).all()
    assert (named["runner_up"] > 1000 * named["residual"]).all()


@pytest.mark.parametrize("name", EXPECTED)
def test_the_committed_row_is_what_the_same_version_does_today(name):
    committed = table.read(RESULTS)
    committed = committed[committed["name"] == name]
    seen(name)
    fresh = table.row(measured(name))
    if committed.empty or committed.iloc[0]["versions"] != fresh["versions"]:
        pytest.skip("the committed row is of other versions")
    same = ["convention", "normalize", "accumulate", "schedule", "momentum_means", "bias_correction", "eps_place", "single",
            "oddities", "remarks"]  # fmt: skip
    assert committed.iloc[0][same].to_dict() == {key: fresh[key] for key in same}
