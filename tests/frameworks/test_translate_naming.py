"""Which tensors of a file are a BatchNorm layer's: names that frameworks write, and whatever else lies beside them."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from bnstudy.errors import UserError
from bnstudy.frameworks.translate.frameworks import FRAMEWORKS, framework
from bnstudy.frameworks.translate.layers import batchnorm_layers
from bnstudy.frameworks.translate.naming import SCHEMES
from bnstudy.frameworks.translate.state import translate_state
from tests.frameworks.written import WRITTEN

SHAPES = {"": (3,), "-": (), "1x3": (1, 3), "3x3": (3, 3)}


def state_of(keys: tuple[str, ...]) -> dict[str, Tensor]:
    found = {}
    for place, key in enumerate(keys):
        name, _, shape = key.partition(" ")
        count = shape == "-"
        found[name] = torch.tensor(7) if count else torch.full(SHAPES[shape], 1.0 + place)
    return found


def found(state: dict[str, Tensor], source: str) -> tuple[tuple[str | None, ...], ...]:
    layers = batchnorm_layers(state, "state", framework(source, "source").names).found
    return tuple((each.name, each.mean, each.variance, each.gain, each.shift, each.count) for each in layers)


@pytest.mark.parametrize("name", WRITTEN)
def test_the_names_that_a_framework_writes_are_found_layer_by_layer(name):
    case = WRITTEN[name]
    assert found(state_of(case.keys), case.source) == case.layers


@pytest.mark.parametrize("name", sorted(WRITTEN.keys() - {"MLX"}))  # whose layer without γ and β nothing else tells
def test_names_of_one_framework_are_found_whatever_the_source_is(name):
    case = WRITTEN[name]
    for source in ("torch", "flax", "keras", "haiku", "paper"):
        assert found(state_of(case.keys), source) == case.layers


def test_every_source_has_a_scheme():
    assert {each.names for each in FRAMEWORKS.values()} <= SCHEMES.keys()
    assert framework("consistent_biased", "source").names == ""


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, case in WRITTEN.items() if case.program])
def test_the_installed_framework_writes_these_names_today(name, tmp_path):
    case, path = WRITTEN[name], tmp_path / "state.safetensors"
    program = case.program + (
        "\nfrom safetensors.numpy import save_file\n"
        f"save_file({{str(key): np.ascontiguousarray(value) for key, value in state.items()}}, {str(path)!r})"
    )
    backend = {"JAX_PLATFORMS": "cpu", "KERAS_BACKEND": "jax", "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | backend, capture_output=True, text=True, check=False, timeout=300
    )
    if "ModuleNotFoundError" in done.stderr:
        pytest.skip(f"needs the extra 'audit': {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    state = load_file(path)
    assert {key.partition(" ")[0] for key in case.keys} <= state.keys()
    assert set(found(state, case.source)) == set(case.layers)
    result = translate_state(state, case.source, "karpathy", "inference", eps=1e-5)
    assert all(torch.equal(result.state[key], value) for key, value in state.items())


# ---- what is no layer's -------------------------------------------------------------------------------------------------

TORCH = state_of(WRITTEN["torch"].keys)
OTHERS = {
    "an input's mean and std": {"normalize.mean": (3,), "normalize.std": (3,)},
    "an input's mean and variance": {"normalize.mean": (3,), "normalize.var": (3,)},
    "observations": {"obs_rms.mean": (7,), "obs_rms.var": (7,), "obs_rms.count": ()},
    "observations, in a module": {"rms.running_mean": (7,), "rms.running_var": (7,), "rms.count": ()},
    "a mean alone": {"head.mean": (3,)},
    "a variance alone": {"evo.running_var": (3,), "evo.weight": (3,), "evo.v": (3,)},
    "a distribution": {"policy.mean.weight": (3, 3), "policy.var.weight": (3, 3)},
    "Flax's words, other shapes": {"n.mean": (3,), "n.var": (), "n.scale": (3,)},
    "a moving average of a loss": {"loss/moving_mean": ()},
    "four equal tensors": {f"gru.vars.{place}": (3, 3) for place in range(4)},
}


@pytest.mark.parametrize("case", OTHERS)
@pytest.mark.parametrize("goal", ["inference", "training", "as-trained"])
def test_other_tensors_beside_a_torch_model_are_left_alone(case, goal):
    others = {key: torch.full(shape, 2.0) for key, shape in OTHERS[case].items()}
    state = others | TORCH
    assert found(state, "torch") == WRITTEN["torch"].layers
    result = translate_state(state, "torch", "inverted", goal, eps=1e-5, values={"net.1": 4}, momentum=0.1)
    assert all(torch.equal(result.state[key], value) for key, value in others.items())


def test_what_looks_like_a_layer_s_and_was_left_alone_is_named():
    state = TORCH | {key: torch.ones(3) for key in ("rms.running_mean", "rms.running_var")}
    state |= {f"flaxen.{word}": torch.ones(3) for word in ("mean", "var", "scale")}
    (first, second) = batchnorm_layers(state, "state", "torch").notes
    assert first.endswith("that a BatchNorm layer has them: rms.running_mean, rms.running_var")
    assert second.endswith("named in the way of flax, not of torch: flaxen.var")


@settings(max_examples=200, deadline=None)
@given(
    name=st.sampled_from([name for name, case in WRITTEN.items() if case.source in ("torch", "keras", "paddle", "haiku")]),
    words=st.lists(st.sampled_from(["mean", "var", "std", "scale", "count", "offset", "mu", "value", "moving_mean"]),
                   max_size=6),
    joint=st.sampled_from([".", "/"]),
)  # fmt: skip
def test_no_tensor_of_another_name_changes_what_is_found(name, words, joint):
    case = WRITTEN[name]
    others = {f"other{joint}{word}": torch.ones(5) for word in words}
    state = others | state_of(case.keys)
    assert found(state, case.source) == case.layers


REFUSED = {
    "no layer": ({"fc.weight": (3, 3)}, "torch", "no BatchNorm buffers in it; X.running_mean and X.running_var with γ, β"),
    "no layer of Haiku's": ({"fc.w": (3, 3)}, "haiku", "X.mean_ema.average and X.var_ema.average expected"),
    "statistics of nothing": (OTHERS["observations, in a module"], "torch", "rms.running_var have nothing beside them"),
    "half a layer": ({"bn.running_var": (3,), "bn.num_batches_tracked": ()}, "torch",
                     "'bn.running_var' has no 'bn.running_mean' beside it"),
    "matrices": ({"bn.running_mean": (3, 2), "bn.running_var": (3, 2), "bn.weight": (3, 2)}, "torch",
                 "'bn.running_var' has shape (3, 2) of torch.float32; one floating-point value a channel expected"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_state_without_a_complete_layer_is_refused_in_one_line(case):
    shapes, source, message = REFUSED[case]
    with pytest.raises(UserError) as error:
        batchnorm_layers({key: torch.ones(shape) for key, shape in shapes.items()}, "file", source)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_layers_that_flax_scans_over_are_translated_together():
    state = {f"batch_stats/s/{word}": torch.full((2, 3), 4.0) for word in ("mean", "var")}
    state |= {f"params/s/{word}": torch.ones(2, 3) for word in ("scale", "bias")}
    result = translate_state(state, "flax", "karpathy", "training", eps=1e-3, values={"s": 4})
    torch.testing.assert_close(result.state["batch_stats/s/var"], torch.full((2, 3), 4 * 4 / 3))
    torch.testing.assert_close(result.state["params/s/scale"], torch.full((2, 3), (4 / 3) ** 0.5))


def test_haiku_s_uncorrected_average_goes_along():
    state = state_of(WRITTEN["Haiku"].keys)
    hidden, average = (f"batch_norm/~/var_ema/{word}" for word in ("hidden", "average"))
    result = translate_state(state, "haiku", "karpathy", "training", eps=1e-3, values={"batch_norm": 4})
    for key in (hidden, average):
        torch.testing.assert_close(result.state[key], state[key] * 4 / 3)
    result = translate_state(state, "haiku", "torch", "as-trained", eps=1e-3, values={"batch_norm": 4}, momentum=0.1)
    w = 0.9**7
    torch.testing.assert_close(result.state[average], w + (1 - w) * 4 / 3 * state[average])
    torch.testing.assert_close(result.state[hidden], state[hidden] * 4 / 3)
