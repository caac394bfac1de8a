"""Odd but legitimate models, batches and metrics: a diagnosis is right or one clear line, and leaves all as it was."""

from __future__ import annotations

import copy
import math
import random
import subprocess
import sys
from collections import OrderedDict, namedtuple
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrizations, parametrize
from torch.utils.data import DataLoader, IterableDataset, TensorDataset
from torchvision.ops import FrozenBatchNorm2d

import bnstudy
from bnstudy.diagnosis.diagnose import diagnose
from bnstudy.errors import UserError

Pairs = list[tuple[Any, Any]]


def pairs(count: int = 9, size: int = 8, shape: tuple[int, ...] = (8,), dtype: torch.dtype = torch.float32) -> Pairs:
    generator = torch.Generator().manual_seed(1)
    return [
        ((torch.randn(size, *shape, generator=generator) + 1).to(dtype), torch.randint(3, (size,), generator=generator))
        for _ in range(count)
    ]


FLAT, IMAGES = pairs(), pairs(shape=(2, 6, 6))


def mlp(norm: nn.Module | None = None) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 6), norm or nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))


def conv(norm: nn.Module | None = None) -> nn.Sequential:
    torch.manual_seed(0)
    pool = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    return nn.Sequential(nn.Conv2d(2, 4, 3), norm or nn.BatchNorm2d(4), nn.ReLU(), *pool)


def warm(model: Any, data: Pairs = FLAT) -> Any:
    model.train()
    with torch.no_grad():
        for inputs, _ in data[:5]:
            call(model, inputs)
    return model


def call(model: nn.Module, inputs: Any) -> Any:
    return model(**inputs) if isinstance(inputs, dict) else model(*inputs) if isinstance(inputs, tuple) else model(inputs)


class Around(nn.Module):
    """A small model with a function around it: `forward(model, inputs)`; tensors in `state` are its buffers."""

    def __init__(self, forward: Callable[..., Any], model: nn.Module | None = None, **state: Any) -> None:
        super().__init__()
        self.model, self.function = model or mlp(), forward
        for name, value in state.items():
            if isinstance(value, nn.Module | nn.Parameter):
                setattr(self, name, value)
            else:
                self.register_buffer(name, value)

    def forward(self, inputs: Tensor) -> Any:
        return self.function(self, inputs)


@dataclass
class Answer:
    loss: Tensor | None
    logits: Tensor


class ModelOutput(OrderedDict[str, Any]):
    """What transformers returns: a dict whose keys are attributes as well."""

    def __getattr__(self, name: str) -> Any:
        return self[name]


Named = namedtuple("Named", "loss logits")


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter, self.again, self.norm, self.head = nn.Linear(8, 6), nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.zeros(len(x), 6)
        for _ in range(50):
            hidden = torch.tanh(self.norm(self.enter(x) + self.again(hidden)))
        return self.head(hidden)


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.model = warm(mlp())

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.model(x * mask.exp())


class Shared(nn.Module):
    """Two layers that hold the same tensors as their statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.one, self.two, self.head = nn.Linear(8, 6), nn.BatchNorm1d(6), nn.BatchNorm1d(6), nn.Linear(6, 3)
        self.two.running_mean, self.two.running_var = self.one.running_mean, self.one.running_var

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.two(self.one(self.enter(x)).relu()))


def counting(self: Any, x: Tensor) -> Tensor:
    self.calls += 1
    self.last = x.mean(0)
    self.register_buffer("new", x.sum())
    return self.model(x - self.drift) * (self.drift.copy_(x.mean(0)).sum() * 0 + 1)


def varying(self: Any, x: Tensor) -> Tensor:
    y = self.model(x)
    for _ in range(int(x.abs().sum() * 10) % 3):
        y = self.norm(y + 1)
    return y


def autocast(self: Any, x: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return self.model(x)


def some_rows(self: Any, x: Tensor) -> Tensor:
    chosen = x[x[:, 0] > 1e9]  # of no sample here: a branch that runs on nothing
    return self.model(x) + self.norm(chosen).sum()


def spectral() -> nn.Module:
    model = conv()
    model[0] = parametrizations.spectral_norm(model[0])
    model[5] = nn.utils.spectral_norm(model[5])
    return model


def parametrized() -> nn.Module:
    model = conv()
    parametrize.register_parametrization(model[1], "weight", nn.Softplus())
    return model


def hooked() -> nn.Module:
    model = mlp()
    model[1].register_forward_pre_hook(lambda _, args: (args[0] * 3 + 1,))
    return model


def mixed() -> nn.Module:
    model = conv().bfloat16()
    model[1].float()
    return Around(lambda self, x: self.model(x.bfloat16()), model)


def on(norm: nn.Module, body: nn.Module, flat: int) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(body, norm, nn.Flatten(), nn.Linear(flat, 3))


def lazy() -> nn.Module:
    model = mlp(nn.LazyBatchNorm1d())
    model(FLAT[0][0])
    return model


def scripted_part() -> nn.Module:
    part = torch.jit.script(nn.Sequential(nn.Linear(8, 8), nn.Softplus()))
    return Around(lambda self, x: self.model(self.part(x)), part=part)


SERIES, VOLUMES = pairs(shape=(2, 6)), pairs(shape=(2, 4, 4, 4))
BFLOATS, HALVES, DOUBLES = (pairs(dtype=dtype) for dtype in (torch.bfloat16, torch.float16, torch.float64))
TOKENS = [(torch.randint(20, (8, 5), generator=torch.Generator().manual_seed(seed)), FLAT[seed][1]) for seed in range(9)]
MASK = torch.zeros(8, 1)

WORKING: dict[str, tuple[Callable[[], nn.Module], Pairs]] = {
    "data parallel": (lambda: nn.DataParallel(mlp()), FLAT),
    "half": (lambda: mlp().half(), HALVES),
    "bfloat16": (lambda: mlp().bfloat16(), BFLOATS),
    "bfloat16, other convention": (lambda: mlp(bnstudy.BatchNorm1d(6, convention="karpathy")).bfloat16(), BFLOATS),
    "bfloat16, BatchNorm in float32": (mixed, IMAGES),
    "autocast": (lambda: Around(autocast, conv()), IMAGES),
    "float64": (lambda: mlp().double(), DOUBLES),
    "channels last": (
        lambda: conv().to(memory_format=torch.channels_last),
        [(x.to(memory_format=torch.channels_last), y) for x, y in IMAGES],
    ),
    "not contiguous": (conv, [(x.permute(0, 1, 3, 2), y) for x, y in IMAGES]),
    "spectral norm": (spectral, IMAGES),
    "parametrized gain": (parametrized, IMAGES),
    "lazy, run once": (lazy, FLAT),
    "without γ and β": (lambda: mlp(nn.BatchNorm1d(6, affine=False)), FLAT),
    "cumulative average": (lambda: mlp(nn.BatchNorm1d(6, momentum=None)), FLAT),
    "momentum 0": (lambda: mlp(nn.BatchNorm1d(6, momentum=0.0)), FLAT),
    "no running statistics": (lambda: mlp(nn.BatchNorm1d(6, track_running_stats=False)), FLAT),
    "some with running statistics": (lambda: nn.Sequential(nn.BatchNorm1d(8, track_running_stats=False), mlp()), FLAT),
    "series": (lambda: on(nn.BatchNorm1d(4), nn.Conv1d(2, 4, 3), 16), SERIES),
    "volumes": (lambda: on(nn.BatchNorm3d(4), nn.Conv3d(2, 4, 3), 32), VOLUMES),
    "synchronised": (lambda: nn.SyncBatchNorm.convert_sync_batchnorm(conv()), IMAGES),
    "frozen, bfloat16": (
        lambda: conv(FrozenBatchNorm2d(4)).bfloat16(),
        pairs(shape=(2, 6, 6), dtype=torch.bfloat16),
    ),
    "a layer that some batches skip, or run twice": (lambda: Around(varying, norm=nn.BatchNorm1d(3)), FLAT),
    "a layer that runs on nothing": (lambda: Around(some_rows, norm=nn.BatchNorm1d(8)), FLAT),
    "recurrent": (Recurrent, FLAT),
    "called by keyword": (lambda: Around(lambda self, x: self.norm(input=self.model(x)), norm=nn.BatchNorm1d(3)), FLAT),
    "counting in buffers": (
        lambda: Around(counting, calls=torch.zeros(1), last=None, drift=torch.zeros(8)),
        FLAT,
    ),
    "shared statistics": (Shared, FLAT),
    "a hook that replaces inputs": (hooked, FLAT),
    "a part in TorchScript": (scripted_part, FLAT),
    "embedding": (lambda: Around(lambda self, x: self.model(self.table(x).mean(1)), table=nn.Embedding(20, 8)), TOKENS),
    "a mapping of inputs": (TwoInputs, [({"x": x, "mask": MASK}, y) for x, y in FLAT]),
    "inputs with -inf": (TwoInputs, [({"mask": torch.full((8, 1), -math.inf), "x": x}, y) for x, y in FLAT]),
    "inputs of which the first is a number": (TwoInputs, [({"mask": torch.tensor(0.1), "x": x}, y) for x, y in FLAT]),
    "several inputs": (TwoInputs, [((x, MASK), y) for x, y in FLAT]),
    "inputs with gradients": (mlp, [(x.clone().requires_grad_(), y) for x, y in FLAT]),
    "one batch": (mlp, FLAT[:1]),
    "two batches": (mlp, FLAT[:2]),
    "constant inputs": (mlp, [(torch.ones(8, 8), y) for _, y in FLAT]),
}


def state(model: nn.Module) -> dict[str, tuple[int, Tensor]]:
    tensors = (*model.named_parameters(), *model.named_buffers(remove_duplicate=False))
    return {name: (id(tensor), tensor.detach().clone()) for name, tensor in tensors}


class Kept:
    """What a model and the random generators are, to compare with later."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.state = model, state(model)
        self.modes = [module.training for module in model.modules()]
        self.hooks = [len(module._forward_pre_hooks) for module in model.modules()]
        self.generators = self._generators()

    def _generators(self) -> list[Any]:
        return [torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()]  # noqa: NPY002

    def still(self) -> bool:
        now = state(self.model)
        same = all(key == now[name][0] and torch.equal(value, now[name][1]) for name, (key, value) in self.state.items())
        modes = [module.training for module in self.model.modules()]
        hooks = [len(module._forward_pre_hooks) for module in self.model.modules()]
        rest = modes == self.modes and hooks == self.hooks and self.generators == self._generators()
        return same and rest and now.keys() == self.state.keys() and torch.is_grad_enabled()


def by_hand(model: nn.Module, data: Pairs, training: bool) -> float:
    losses = []
    for inputs, targets in data:
        fresh = copy.deepcopy(model).train(training)
        with torch.no_grad():
            losses.append(float(F.cross_entropy(call(fresh, inputs).double(), targets)))
    return float(np.mean(losses))


@pytest.mark.parametrize("name", WORKING)
def test_modes_are_as_the_model_has_them_and_nothing_is_left_behind(name: str) -> None:
    make, data = WORKING[name]
    model = warm(make(), data)
    expected = {"own": by_hand(model, data, False), "train": by_hand(model, data, True)}
    kept = Kept(model)
    found = diagnose(model, data, "loss")
    assert kept.still()
    levels = found.levels.set_index("condition")["value"]
    for condition, value in expected.items():
        assert levels[condition] == pytest.approx(value, rel=1e-6), condition
    assert levels["batch"] == pytest.approx(levels["train"], rel=1e-3)  # spectral norm has a mode, too
    assert levels.map(math.isfinite).all()


OUTPUTS: dict[str, Callable[[Tensor], Any]] = {
    "tuple": lambda y: (y, None),
    "classes first": lambda y: (y.argmax(1), y),
    "loss first": lambda y: (y.mean(), y),
    "named tuple": lambda y: Named(y.mean(), y),
    "data class": lambda y: Answer(None, y),
    "model output": lambda y: ModelOutput(loss=y.mean(), logits=y),
    "mapping of other names": lambda y: {"loss": y.mean(), "scores": y},
    "list": lambda y: [y, y],
}


@pytest.mark.parametrize("name", OUTPUTS)
def test_outputs_are_found_in_what_models_return(name: str) -> None:
    plain = warm(mlp())
    around = Around(lambda self, x: OUTPUTS[name](self.model(x)), plain)
    assert diagnose(around, FLAT).levels.equals(diagnose(plain, FLAT).levels)


def test_a_model_that_returns_the_same_memory_every_time_is_no_different() -> None:
    around = Around(lambda self, x: self.out.copy_(self.model(x)), warm(mlp()), out=torch.zeros(8, 3))
    assert diagnose(around, FLAT).levels.equals(diagnose(around.model, FLAT).levels)


@pytest.mark.parametrize("options", [{}, {"fullgraph": True}])
def test_a_compiled_model_is_diagnosed_as_it_is_written(options: dict[str, bool]) -> None:
    plain = warm(mlp())
    compiled = torch.compile(copy.deepcopy(plain), backend="eager", **options)
    compiled(FLAT[0][0])  # a graph from before the hooks
    compiled.load_state_dict({f"_orig_mod.{name}": value for name, value in plain.state_dict().items()})
    kept, expected = Kept(compiled), diagnose(plain, FLAT)
    found = diagnose(compiled, FLAT)
    assert kept.still()
    assert found.levels.equals(expected.levels)
    assert found.layers.drop(columns="layer").equals(expected.layers.drop(columns="layer"))
    inside = Around(torch.compile(lambda self, x: self.model(x), backend="eager", **options), plain)
    assert diagnose(inside, FLAT).levels.equals(expected.levels)


def test_an_interrupt_at_any_pass_leaves_the_model_as_it_was() -> None:
    class Interrupted(Around):
        calls, stop = 0, -1

        def forward(self, inputs: Tensor) -> Tensor:
            self.calls += 1
            outputs = self.model(inputs)
            if self.calls == self.stop:
                raise KeyboardInterrupt
            return outputs

    model = Interrupted(lambda: None, warm(nn.Sequential(mlp(), nn.Dropout(0.2))))
    diagnose(model, FLAT[:2])
    passes, kept = model.calls, Kept(model)
    assert passes > 15
    for model.stop in range(1, passes + 1):
        model.calls = 0
        with pytest.raises(KeyboardInterrupt):
            diagnose(model, FLAT[:2])
        assert kept.still(), model.stop


@pytest.mark.parametrize("training", [True, False])
def test_a_backward_pass_that_waits_for_the_model_still_goes_through(training: bool) -> None:
    model, again = (warm(conv(), IMAGES).train(training) for _ in range(2))
    for each in (model, again):
        outputs = each(IMAGES[0][0])
        if each is model:
            diagnose(model, IMAGES)
        outputs.sum().backward()
    for one, two in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(one.grad, two.grad)


def test_inference_mode_is_no_obstacle_around_the_batches_or_the_call() -> None:
    model, expected = warm(mlp()), diagnose(warm(mlp()), FLAT).levels
    with torch.inference_mode():
        batches = [(x + 0, y + 0) for x, y in FLAT]
        assert diagnose(model, FLAT).levels.equals(expected)
    assert diagnose(model, batches).levels.equals(expected)


class Stream(IterableDataset[tuple[Tensor, Tensor]]):
    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return ((x, y) for batch in FLAT for x, y in zip(*batch, strict=True))


DATASET = TensorDataset(*(torch.cat(part) for part in zip(*FLAT, (FLAT[0][0][:3], FLAT[0][1][:3]), strict=True)))


@pytest.mark.parametrize(
    "options",
    [{}, {"shuffle": True}, {"shuffle": True, "num_workers": 2, "persistent_workers": True}, {"pin_memory": True}],
    ids=str,
)
def test_loaders_of_every_kind_are_read(options: dict[str, Any]) -> None:
    model = warm(mlp())
    kept = Kept(model)
    found = diagnose(model, DataLoader(DATASET, 8, **options), swap_batches=1)
    assert kept.still()
    assert (found.setting["batches"], found.setting["samples"], found.setting["batch_size"]) == (10, 75, 8)


def test_a_streamed_dataset_is_read() -> None:
    model = warm(mlp())
    assert diagnose(model, DataLoader(Stream(), 8)).levels.equals(diagnose(model, FLAT).levels)


def test_data_that_differ_in_every_pass_are_compared_within_the_pass() -> None:
    def augmented() -> Iterator[Tensor]:
        for _ in range(9):
            yield torch.from_numpy(np.random.normal(size=(8, 8))).float() + random.random() + torch.rand(())  # noqa: NPY002

    model = warm(mlp())
    kept = Kept(model)
    first = diagnose(model, augmented, swap_batches=0)
    assert kept.still()
    random.random(), np.random.random(), torch.rand(())  # noqa: NPY002
    second = diagnose(model, augmented, swap_batches=0)
    assert first.levels.equals(second.levels)  # all three generators start at the seed
    terms = first.terms.set_index("term")["value"]
    assert sum(terms[["bessel", "lag", "pooling", "noise"]]) == pytest.approx(terms["gap"], abs=1e-12)


def test_a_thousand_batches_of_two_are_diagnosed() -> None:
    found = diagnose(warm(mlp()), pairs(1000, 2), "loss", swap_batches=0)
    assert found.setting["batches"] == 1000
    assert found.layers["m"].tolist() == [2]


METRICS: dict[str, tuple[Callable[..., Any], Callable[..., float]]] = {
    "a number a sample": (lambda o, t: o[:, 0], lambda o: float(o[:, 0].mean())),
    "NumPy's array": (lambda o, t: o[:, 0].numpy(), lambda o: float(o[:, 0].mean())),
    "pandas' series": (lambda o, t: pd.Series(o[:, 0].numpy()), lambda o: float(o[:, 0].mean())),
    "NumPy's number": (lambda o, t: o.numpy().mean(), lambda o: float(o.mean())),
    "list of tensors": (lambda o, t: [row.mean() for row in o], lambda o: float(o.mean())),
    "a truth a sample": (lambda o, t: o[:, 0] > 0, lambda o: float((o[:, 0] > 0).float().mean())),
    "Python's truth": (lambda o, t: bool(o[0, 0] > 0), lambda o: float(o[0, 0] > 0)),
    "Python's integer": (lambda o, t: int(o.argmax(1).sum()), lambda o: float(o.argmax(1).sum())),
}


@pytest.mark.parametrize("name", METRICS)
def test_metrics_return_what_they_like_if_it_is_numbers(name: str) -> None:
    metric, expected = METRICS[name]
    model = warm(mlp()).eval()
    levels = diagnose(model, FLAT, metric, swap_batches=0).levels.set_index("condition")["value"]
    with torch.no_grad():
        assert levels["own"] == pytest.approx(np.mean([expected(model(x)) for x, _ in FLAT]), rel=1e-5)


def test_metrics_get_the_outputs_as_the_model_gives_them() -> None:
    weight = torch.tensor([1.0, 2.0, 3.0])  # cross-entropy takes weights of the outputs' dtype only
    diagnose(warm(mlp()), FLAT, lambda outputs, targets: F.cross_entropy(outputs, targets, weight))


def test_each_of_several_metrics_has_its_own_direction() -> None:
    metrics = {"margin": lambda o, t: o.amax(1), "error": lambda o, t: o.argmax(1) != t, "scale": lambda o, t: o.std()}
    for first, direction in (("margin", "higher"), ("error", "lower"), ("scale", None)):
        ordered = {first: metrics[first]} | metrics
        found = diagnose(warm(mlp()), FLAT, ordered, higher_is_better={"margin": True, "error": False})
        assert (found.setting["metric"], found.setting["direction"]) == (first, direction)


def test_targets_are_never_broadcast_to_the_outputs() -> None:
    model = warm(nn.Sequential(mlp(), nn.Linear(3, 1)))
    values = [torch.randn(8, generator=torch.Generator().manual_seed(seed)) for seed in range(9)]
    column = diagnose(model, [(x, v[:, None]) for (x, _), v in zip(FLAT, values, strict=True)])
    row = diagnose(model, [(x, v) for (x, _), v in zip(FLAT, values, strict=True)])
    assert row.setting["metric"] == "mse"
    assert row.levels.equals(column.levels)
    flat = diagnose(nn.Sequential(model, nn.Flatten(0)), [(x, v[:, None]) for (x, _), v in zip(FLAT, values, strict=True)])
    assert flat.levels["value"].tolist() == pytest.approx(row.levels["value"].tolist())
    classes = diagnose(model[0], [(x, y[:, None].int()) for x, y in FLAT])
    assert classes.levels.equals(diagnose(model[0], FLAT).levels)


def test_segmentation_is_scored_by_pixel_without_those_that_have_no_label() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Conv2d(4, 3, 1))
    data = [(x, torch.randint(3, (8, 6, 6)).masked_fill(torch.rand(8, 6, 6) < 0.3, -100)) for x, _ in IMAGES]
    warm(model, data).eval()
    levels = diagnose(model, data, swap_batches=0).levels.set_index(["metric", "condition"])["value"]
    right = [(model(x).argmax(1) == y)[y >= 0].double().mean().item() for x, y in data]
    assert levels["accuracy", "own"] == pytest.approx(np.mean(right))
    losses = [F.cross_entropy(model(x), y).item() for x, y in data]
    assert levels["loss", "own"] == pytest.approx(np.mean(losses), rel=1e-5)


def test_targets_may_be_probabilities_or_several_labels() -> None:
    data = [(x, F.one_hot(y, 3).float()) for x, y in FLAT]
    by_class, by_probability = (diagnose(warm(mlp()), each, swap_batches=0).levels for each in (FLAT, data))
    losses = by_class[by_class.metric == "loss"].value.to_numpy()
    np.testing.assert_allclose(by_probability[by_probability.metric == "loss"].value, losses, rtol=1e-12)
    several = [(x, (y + 1).clamp(max=2)) for x, y in data]
    assert diagnose(warm(mlp()), several, swap_batches=0).setting["metric"] == "mse"
    several = [(x, (y + y.roll(1, 1)).clamp(max=1)) for x, y in data]
    assert diagnose(warm(mlp()), several, swap_batches=0).setting["metric"] == "bce"
    found = diagnose(warm(mlp()), data, F.binary_cross_entropy_with_logits, higher_is_better=False)
    assert found.setting["metric"] == "binary_cross_entropy_with_logits"


def test_targets_may_be_mappings_for_a_metric_that_reads_them() -> None:
    model = warm(mlp())
    data = [(x, {"labels": y, "name": "batch"}) for x, y in FLAT]
    found = diagnose(model, data, {"loss": lambda outputs, targets: F.cross_entropy(outputs.double(), targets["labels"])})
    assert found.levels.equals(diagnose(model, FLAT, "loss").levels)


def shrinking(self: Any, x: Tensor) -> Tensor:
    if self.training:
        self.weight.data.mul_(0.99)
    return self.model(x) * self.weight


def meta() -> nn.Module:
    with torch.device("meta"):
        return mlp()


def made_for_inference() -> nn.Module:
    with torch.inference_mode():
        return mlp()


def without_eps() -> nn.Module:
    model = mlp()
    model[1].eps = 0.0
    return model


def over_gpus() -> nn.Module:
    model = nn.DataParallel(mlp())
    model.device_ids = [0, 1]
    return model


class ReadOnce:
    def __init__(self) -> None:
        self.left = list(FLAT)

    def __iter__(self) -> Iterator[Any]:
        while self.left:
            yield self.left.pop(0)


def broken() -> Iterator[Any]:
    yield FLAT[0]
    raise OSError("the disk is gone")


ONCE = iter(FLAT * 50)
NUMBERS = [(x, y.float()) for x, y in FLAT]

REFUSED: dict[str, tuple[Callable[[], nn.Module], Any, Any]] = {
    "model: it is TorchScript": (lambda: torch.jit.script(mlp()), FLAT, None),
    "model: it is TorchScript, ": (lambda: torch.jit.trace(mlp().eval(), FLAT[0][0]), FLAT, None),
    "model: layer 'model.1' is TorchScript": (
        lambda: Around(lambda self, x: self.model(x), torch.jit.script(mlp())),
        FLAT,
        None,
    ),
    "model: '0.weight' is on the meta device": (meta, FLAT, None),
    "model: layer '1' has not seen an input yet": (lambda: mlp(nn.LazyBatchNorm1d()), FLAT, None),
    "model: layer '0' has not seen an input yet": (lambda: nn.Sequential(nn.LazyLinear(6), *mlp()[1:]), FLAT, None),
    "model: '1.running_mean' was made in torch.inference_mode": (made_for_inference, FLAT, None),
    "model: layer '1' has eps = 0": (without_eps, FLAT, None),
    "model: DataParallel over 2 GPUs": (over_gpus, FLAT, None),
    "model: its forward changes the weight 'weight'": (
        lambda: Around(shrinking, weight=nn.Parameter(torch.ones(1))),
        FLAT,
        None,
    ),
    "model: its outputs are of shape": (
        lambda: Around(lambda self, x: (y := self.model(x))[: 1 + int(y.double().abs().sum() * 1e6) % 7]),
        [x for x, _ in FLAT],
        None,
    ),
    "model: its outputs for batches are empty": (lambda: Around(lambda self, x: self.model(x)[:0]), FLAT, None),
    "model: it returns a NoneType": (lambda: Around(lambda self, x: print(end=str(self.model(x))[:0])), FLAT, None),
    "model: it returns a Tensor without a dense floating-point tensor": (
        lambda: Around(lambda self, x: self.model(x).to_sparse()),
        FLAT,
        None,
    ),
    "batches: batch 1 has 3 parts": (mlp, [(x, y, torch.arange(8)) for x, y in FLAT], None),
    "batches: batch 2 has no samples": (mlp, [FLAT[0], (torch.zeros(0, 8), torch.zeros(0).long())], None),
    "batches: batch 1 is a tuple without a tensor": (mlp, [(x.numpy(), y) for x, y in FLAT], None),
    "batches: something of type TensorDataset holds no batches": (mlp, DATASET, None),
    "batches: the model fails on inputs of shape (3, 4, 4), (3, 5, 4)": (
        conv,
        [([torch.ones(3, 4, 4), torch.ones(3, 5, 4)], [{"boxes": torch.ones(2, 4)}] * 2)] * 9,
        None,
    ),
    "batches: a batch of 1 leaves": (mlp, [*FLAT, (FLAT[0][0][:1], FLAT[0][1][:1])], None),
    "batches: a later pass finds no batch": (mlp, ReadOnce(), None),
    "batches: the function returned the same list_iterator twice": (mlp, lambda: ONCE, None),
    "batches: reading a batch fails (OSError: the disk is gone (test_odd.py, line ": (mlp, broken, None),
    "metric: '<lambda>' fails on outputs of shape (8, 3) (TypeError: it returns complex": (mlp, FLAT, lambda o, t: 1j),
    "metric: '<lambda>' fails on outputs of shape (8, 3) (TypeError: it returns NoneType)": (mlp, FLAT, lambda o, t: None),
    "metric: '<lambda>' is not finite for a batch": (mlp, FLAT, lambda o, t: math.nan),
    "metric: 'a' is something of type int": (mlp, FLAT, {"a": 3}),
    "metric: 'accuracy' fails on outputs of shape (8, 3) (TypeError: targets are missing": (
        mlp,
        [x for x, _ in FLAT],
        "accuracy",
    ),
    "metric: 'mse' fails on outputs of shape (8, 3) (ValueError: targets of shape (8,); (8, 3) needed": (
        mlp,
        NUMBERS,
        "mse",
    ),
    "metric: 'accuracy' fails on outputs of shape (8, 3) (ValueError: targets of shape (8, 3); (8,)": (
        mlp,
        [(x, F.one_hot(y, 3)) for x, y in FLAT],
        "accuracy",
    ),
    "metric: 'loss' fails on outputs of shape (8, 3) (TypeError: targets are dict": (
        mlp,
        [(x, {"labels": y}) for x, y in FLAT],
        "loss",
    ),
}


@pytest.mark.parametrize("said", REFUSED)
def test_what_cannot_be_diagnosed_is_one_clear_line(said: str) -> None:
    make, data, metric = REFUSED[said]
    model = make()
    tensors = [*model.parameters(), *model.buffers()]
    kept = None if any(tensor.is_meta or is_lazy(tensor) for tensor in tensors) else Kept(model)
    with pytest.raises(UserError) as caught:
        diagnose(model, data, metric)
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)
    assert "; " in str(caught.value)
    assert kept is None or kept.still()


def test_a_direction_for_a_metric_that_is_not_measured_is_a_mistake() -> None:
    with pytest.raises(UserError, match=r"^higher_is_better: 'acc' is none of the metrics; use accuracy$"):
        diagnose(warm(mlp()), FLAT, "accuracy", higher_is_better={"acc": True})


@pytest.mark.slow
def test_resident_memory_does_not_grow_with_the_number_of_batches() -> None:
    script = """
import resource, torch
from torch import nn
from bnstudy.diagnosis.diagnose import diagnose

torch.set_num_threads(1)
model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.1), nn.Conv2d(8, 4, 3))
def peak(count):
    diagnose(model, lambda: (torch.randn(8, 3, 16, 16) for _ in range(count)))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
few = peak(200)
print(few, peak(2000))
"""
    pytest.importorskip("resource")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    few, many = map(int, done.stdout.split())
    assert many < 1.05 * few  # to keep the inputs of one layer alone would take 118 MB more
