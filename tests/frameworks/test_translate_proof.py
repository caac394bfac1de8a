"""Real models moved between frameworks through the command's files; slow, and only with the extra 'audit'.

Torch's resnet18 to Flax, and a small network from torch to Keras and from Keras to tinygrad: weights are laid out anew here,
BatchNorm is left to `bnstudy translate`.
"""

from __future__ import annotations

import os
import shutil

import numpy as np
import pytest
import torch
import torchvision
from safetensors.numpy import load_file as load_arrays
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import save_file
from torch import nn

from bnstudy.frameworks.translate.command import translate
from bnstudy.frameworks.translate.options import Options
from bnstudy.frameworks.translate.settings import dump, settings_of, settings_path

pytestmark = pytest.mark.slow


def batches(count: int, shape: tuple[int, ...], seed: int) -> list[np.ndarray]:
    generator = np.random.default_rng(seed)
    scale = generator.uniform(0.5, 2, (count, 1, shape[1], 1, 1))
    return list((generator.standard_normal((count, *shape)) * scale + 0.3).astype(np.float32))


def unlike_its_start(model: nn.Module) -> nn.Module:
    """γ and β away from 1 and 0, as after training."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5, generator=generator)
            nn.init.normal_(module.bias, 0, 0.2, generator=generator)
    return model


@torch.no_grad()
def feed(model: nn.Module, inputs: list[np.ndarray]) -> None:
    for x in inputs:
        model.train()(torch.from_numpy(x))


@torch.no_grad()
def logits(model: nn.Module, x: np.ndarray) -> np.ndarray:
    return model.eval()(torch.from_numpy(x)).numpy()


def relative(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a / b - 1).max())


# ---- resnet18 to Flax ---------------------------------------------------------------------------------------------------


def flax_resnet18():
    """Torchvision's resnet18 in linen, with torchvision's names."""
    linen = pytest.importorskip("flax.linen", reason="needs the extra 'audit': flax")
    import jax.numpy as jnp

    class Block(linen.Module):
        width: int
        stride: int

        @linen.compact
        def __call__(self, x, train: bool):
            def norm(name):
                return linen.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-5, name=name)

            def conv(name, stride):
                return linen.Conv(self.width, (3, 3), (stride, stride), ((1, 1), (1, 1)), use_bias=False, name=name)

            y = linen.relu(norm("bn1")(conv("conv1", self.stride)(x)))
            y = norm("bn2")(conv("conv2", 1)(y))
            if x.shape != y.shape:
                stride = (self.stride, self.stride)
                x = linen.Conv(self.width, (1, 1), stride, "VALID", use_bias=False, name="downsample_0")(x)
                x = norm("downsample_1")(x)
            return linen.relu(x + y)

    class ResNet18(linen.Module):
        @linen.compact
        def __call__(self, x, train: bool):
            x = linen.Conv(64, (7, 7), (2, 2), ((3, 3), (3, 3)), use_bias=False, name="conv1")(x)
            x = linen.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-5, name="bn1")(x)
            x = linen.max_pool(linen.relu(x), (3, 3), (2, 2), ((1, 1), (1, 1)))
            for stage, width in enumerate((64, 128, 256, 512), start=1):
                for block in range(2):
                    x = Block(width, 2 if block == 0 and stage > 1 else 1, name=f"layer{stage}_{block}")(x, train)
            return linen.Dense(10, name="fc")(jnp.mean(x, (1, 2)))

    return ResNet18()


def to_flax(state: dict[str, np.ndarray]) -> dict:
    """The variables of `flax_resnet18` from a torch state: the layout of weights, nothing of BatchNorm."""
    variables: dict = {"params": {}, "batch_stats": {}}
    leaves = {"running_mean": ("batch_stats", "mean"), "running_var": ("batch_stats", "var"), "bias": ("params", "bias")}
    for key, value in state.items():
        *path, last = key.replace("downsample.", "downsample_").split(".")
        if path[0].startswith("layer"):
            path = [f"{path[0]}_{path[1]}", *path[2:]]
        if last == "weight":
            collection, leaf = "params", "scale" if value.ndim == 1 else "kernel"
            value = value.transpose(2, 3, 1, 0) if value.ndim == 4 else value.T
        elif last in leaves:
            collection, leaf = leaves[last]
        else:
            continue
        place = variables[collection]
        for name in path:
            place = place.setdefault(name, {})
        place[leaf] = value
    return variables


SHAPE = (8, 3, 64, 64)


@pytest.fixture(scope="module")
def resnet(tmp_path_factory):
    """resnet18 after five batches, saved with its settings; its state before them; the folder."""
    pytest.importorskip("flax", reason="needs the extra 'audit': flax")
    folder = tmp_path_factory.mktemp("resnet")
    torch.manual_seed(0)
    model = unlike_its_start(torchvision.models.resnet18(weights=None, num_classes=10))
    start = {key: value.numpy().copy() for key, value in model.state_dict().items()}
    feed(model, batches(5, SHAPE, 2))
    path = folder / "resnet18.safetensors"
    save_file(model.state_dict(), path)
    settings_path(path).write_text(dump(settings_of(model, torch.zeros(SHAPE)), path.name))
    return model, start, path


def nhwc(x: np.ndarray) -> np.ndarray:
    return x.transpose(0, 2, 3, 1)


def test_resnet18_kept_for_inference_gives_the_same_logits_in_flax(resnet, tmp_path):
    model, _, path = resnet
    translate(path, tmp_path / "flax.safetensors", Options("torch", "flax", keep="inference"))
    moved = to_flax(load_arrays(tmp_path / "flax.safetensors"))
    x = batches(1, SHAPE, 9)[0]
    found = np.asarray(flax_resnet18().apply(moved, nhwc(x), train=False))
    expected = logits(model, x)
    assert np.abs(expected).max() > 0.5  # logits worth comparing
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


def test_resnet18_as_trained_holds_the_variances_of_flax_and_follows_it_batch_for_batch(resnet, tmp_path):
    import jax

    _, start, path = resnet
    translate(path, tmp_path / "flax.safetensors", Options("torch", "flax", as_trained=True))
    moved, twin = to_flax(load_arrays(tmp_path / "flax.safetensors")), to_flax(start)
    network = flax_resnet18()

    @jax.jit
    def step(variables, x):
        _, new = network.apply(variables, x, train=True, mutable=["batch_stats"])
        return {**variables, **new}

    for x in batches(5, SHAPE, 2):
        twin = step(twin, nhwc(x))
    compared = 0
    for x in batches(4, SHAPE, 7):
        leaves = zip(
            jax.tree_util.tree_leaves_with_path(moved["batch_stats"]), jax.tree.leaves(twin["batch_stats"]), strict=True
        )
        for (place, mine), theirs in leaves:
            if "var" in str(place[-1]):
                assert relative(np.asarray(mine), np.asarray(theirs)) < 1e-4, place
                compared += 1
        a, b = (np.asarray(network.apply(v, nhwc(x), train=False)) for v in (moved, twin))
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-4)
        moved, twin = step(moved, nhwc(x)), step(twin, nhwc(x))
    assert compared == 4 * 20


def test_moving_the_numbers_alone_would_have_been_off_by_more_than_the_tolerance(resnet, tmp_path):
    _, _, path = resnet
    translate(path, tmp_path / "flax.safetensors", Options("torch", "flax", as_trained=True))
    before, after = load_arrays(path), load_arrays(tmp_path / "flax.safetensors")
    assert relative(before["layer4.1.bn2.running_var"], after["layer4.1.bn2.running_var"]) > 1e-3


# ---- a small network to Keras, and on to tinygrad -------------------------------------------------------------------------

SMALL = (4, 2, 6, 6)


def small_torch() -> nn.Sequential:
    torch.manual_seed(3)
    layers = nn.Sequential(
        nn.Conv2d(2, 4, 3, bias=False),
        nn.BatchNorm2d(4, eps=1e-4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(64, 5, bias=False),
        nn.BatchNorm1d(5, eps=1e-4),
    )
    return unlike_its_start(layers)


def small_keras(state: dict[str, np.ndarray], eps: float):
    """The same network in Keras, channels first in the tensors that are flattened; returns (model, its two BatchNorms)."""
    os.environ.setdefault("KERAS_BACKEND", "jax")
    keras = pytest.importorskip("keras", reason="needs the extra 'audit': keras")
    norms = [keras.layers.BatchNormalization(axis=axis, momentum=0.9, epsilon=eps) for axis in (3, 1)]
    conv, dense = keras.layers.Conv2D(4, 3, use_bias=False), keras.layers.Dense(5, use_bias=False)
    x = keras.Input((6, 6, 2))
    y = keras.layers.ReLU()(norms[0](conv(x)))
    y = keras.layers.Flatten()(keras.layers.Permute((3, 1, 2))(y))
    model = keras.Model(x, norms[1](dense(y)))
    conv.set_weights([state["0.weight"].transpose(2, 3, 1, 0)])
    dense.set_weights([state["4.weight"].T])
    for norm, name in zip(norms, ("1", "5"), strict=True):
        norm.set_weights([state[f"{name}.{part}"] for part in ("weight", "bias", "running_mean", "running_var")])
    return model, norms


def run_keras(model, x: np.ndarray, training: bool) -> np.ndarray:
    import keras

    return np.array(keras.ops.convert_to_numpy(model(nhwc(x), training=training)))


def keras_variances(norms) -> list[np.ndarray]:
    import keras

    return [np.array(keras.ops.convert_to_numpy(norm.moving_variance)) for norm in norms]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small")
    model = small_torch()
    start = {key: value.numpy().copy() for key, value in model.state_dict().items()}
    feed(model, batches(6, SMALL, 4))
    path = folder / "small.safetensors"
    save_file(model.state_dict(), path)
    settings_path(path).write_text(dump(settings_of(model, torch.zeros(SMALL)), path.name))
    return model, start, path


def test_a_small_network_kept_for_inference_gives_the_same_outputs_in_keras(small, tmp_path):
    model, _, path = small
    x = batches(1, SMALL, 8)[0]
    translate(path, tmp_path / "a.safetensors", Options("torch", "keras", keep="inference"))
    same_eps, _ = small_keras(load_arrays(tmp_path / "a.safetensors"), 1e-4)
    np.testing.assert_allclose(run_keras(same_eps, x, False), logits(model, x), rtol=0, atol=1e-4)
    translate(path, tmp_path / "b.safetensors", Options("torch", "keras", keep="inference", target_eps=1e-3))
    own_eps, _ = small_keras(load_arrays(tmp_path / "b.safetensors"), 1e-3)
    np.testing.assert_allclose(run_keras(own_eps, x, False), logits(model, x), rtol=0, atol=1e-4)


def test_a_small_network_as_trained_holds_the_variances_of_keras_and_follows_it(small, tmp_path):
    _, start, path = small
    translate(path, tmp_path / "keras.safetensors", Options("torch", "keras", as_trained=True))
    moved, moved_norms = small_keras(load_arrays(tmp_path / "keras.safetensors"), 1e-4)
    twin, twin_norms = small_keras(start, 1e-4)
    for x in batches(6, SMALL, 4):
        run_keras(twin, x, True)
    for x in batches(4, SMALL, 6):
        for mine, theirs in zip(keras_variances(moved_norms), keras_variances(twin_norms), strict=True):
            assert relative(mine, theirs) < 1e-4
        np.testing.assert_allclose(run_keras(moved, x, False), run_keras(twin, x, False), rtol=0, atol=1e-4)
        run_keras(moved, x, True)
        run_keras(twin, x, True)


def require_tinygrad():
    os.environ.setdefault("DEV", "PYTHON" if shutil.which("clang") is None else "CPU")  # read when it is imported
    return pytest.importorskip("tinygrad", reason="needs the extra 'audit': tinygrad")


class SmallTinygrad:
    """The same network in tinygrad."""

    def __init__(self, state: dict[str, np.ndarray], eps: float) -> None:
        tinygrad = require_tinygrad()
        from tinygrad.nn import BatchNorm

        self.tensor = tinygrad.Tensor
        self.conv, self.dense = self.tensor(state["0.weight"]), self.tensor(np.ascontiguousarray(state["4.weight"].T))
        self.norms = [BatchNorm(4, eps=eps), BatchNorm(5, eps=eps)]
        for norm, name in zip(self.norms, ("1", "5"), strict=True):
            for part in ("weight", "bias", "running_mean", "running_var"):
                getattr(norm, part).assign(self.tensor(state[f"{name}.{part}"])).realize()

    def __call__(self, x: np.ndarray, training: bool) -> np.ndarray:
        from tinygrad.helpers import Context

        with Context(TRAINING=int(training)):
            y = self.norms[0](self.tensor(x).conv2d(self.conv)).relu().flatten(1)
            result = self.norms[1](y.dot(self.dense)).numpy()
        for norm in self.norms:
            norm.running_mean.realize()
            norm.running_var.realize()
        return result

    @property
    def variances(self) -> list[np.ndarray]:
        return [norm.running_var.numpy().copy() for norm in self.norms]


def test_a_small_network_goes_from_keras_to_tinygrad_by_either_goal(small, tmp_path):
    _, start, _ = small
    require_tinygrad()
    trained, norms = small_keras(start, 1e-4)
    twin = SmallTinygrad(start, 1e-4)
    for x in batches(6, SMALL, 4):
        run_keras(trained, x, True)
        twin(x, True)
    names = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
    arrays = {
        f"{layer}/{part}": np.array(value)
        for layer, norm in zip(("bn1", "bn5"), norms, strict=True)
        for part, value in zip(names, norm.get_weights(), strict=True)
    }
    save_arrays(arrays, tmp_path / "keras.safetensors")
    (tmp_path / "m.yaml").write_text("bn1: [4, 4]\nbn5: 4\n")

    def moved(options: Options, file: str) -> SmallTinygrad:
        translate(tmp_path / "keras.safetensors", tmp_path / file, options)
        found = load_arrays(tmp_path / file)
        renamed = {f"{key[2]}.{names[key.split('/')[1]]}": value for key, value in found.items()}
        return SmallTinygrad(start | renamed, 1e-4)

    x = batches(1, SMALL, 8)[0]
    kept = moved(Options("keras", "tinygrad", keep="inference", eps=1e-4), "kept.safetensors")
    np.testing.assert_allclose(kept(x, False), run_keras(trained, x, False), rtol=0, atol=1e-4)
    options = Options(
        "keras", "tinygrad", as_trained=True, eps=1e-4, batch_size=4, per_layer=tmp_path / "m.yaml", momentum=0.1, steps=6
    )
    as_trained = moved(options, "trained.safetensors")
    for x in batches(3, SMALL, 6):
        for mine, theirs in zip(as_trained.variances, twin.variances, strict=True):
            assert relative(mine, theirs) < 1e-4
        np.testing.assert_allclose(as_trained(x, False), twin(x, False), rtol=0, atol=1e-4)
        as_trained(x, True)
        twin(x, True)
