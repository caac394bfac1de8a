"""Networks and data as users write them, sound ones and broken ones."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

Shape = tuple[int, ...]


class Conv(nn.Module):
    """A network with its own forward, nothing in it but what treats channels alike and apart."""

    def __init__(self, channels: int, outputs: int, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=2, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.head = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        return cast(Tensor, self.head(F.adaptive_avg_pool2d(x, 1).flatten(1)))


def conv(input_shape: Shape, outputs: int, width: int = 4) -> nn.Module:
    return Conv(input_shape[0], outputs, width)


def mlp(input_shape: Shape, outputs: int, width: int = 12, depth: int = 2) -> nn.Module:
    """The study's own MLP, written with torch's layers and settings that the study's should overrule."""
    layers: list[nn.Module] = [nn.Flatten()]
    features = int(np.prod(input_shape))
    for _ in range(depth):
        layers += [nn.Linear(features, width, bias=False), nn.BatchNorm1d(width, eps=0.5, momentum=0.7), nn.ReLU()]
        features = width
    return nn.Sequential(*layers, nn.Linear(features, outputs))


def rows(input_shape: Shape, outputs: int, *middle: nn.Module) -> nn.Sequential:
    features = int(np.prod(input_shape))
    return nn.Sequential(nn.Flatten(), nn.Linear(features, 8), *middle, nn.Linear(8, outputs))


def dropped(input_shape: Shape, outputs: int) -> nn.Module:
    return rows(input_shape, outputs, nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3))


class FunctionalDropout(Conv):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.dropout(x, 0.3, self.training))


class Joined(Conv):
    """Joins channels, as a DenseNet does."""

    def __init__(self, channels: int, outputs: int, width: int) -> None:
        super().__init__(channels, outputs, width)
        self.head = nn.Linear(2 * width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(x)))
        return cast(Tensor, self.head(torch.cat([x.mean((2, 3)), y.mean((2, 3))], 1)))


class Counted(Conv):
    """Takes the number of its channels for granted, and its head starts at zero, so that all outputs are alike at first."""

    def __init__(self, channels: int, outputs: int, width: int) -> None:
        super().__init__(channels, outputs, width)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x - x.mean(1, keepdim=True))


class Tied(nn.Module):
    """Uses one matrix twice."""

    def __init__(self, features: int, outputs: int) -> None:
        super().__init__()
        self.stem = nn.Linear(features, 8)
        self.one, self.other = nn.Linear(8, 8), nn.Linear(8, 8)
        self.other.weight = self.one.weight
        self.bn = nn.BatchNorm1d(8)
        self.head = nn.Linear(8, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.head(F.relu(self.bn(self.other(F.relu(self.one(self.stem(x.flatten(1)))))))))


def functional_dropout(input_shape: Shape, outputs: int) -> nn.Module:
    return FunctionalDropout(input_shape[0], outputs, 4)


def joined(input_shape: Shape, outputs: int) -> nn.Module:
    return Joined(input_shape[0], outputs, 4)


def counted(input_shape: Shape, outputs: int) -> nn.Module:
    return Counted(input_shape[0], outputs, 4)


def tied(input_shape: Shape, outputs: int) -> nn.Module:
    return Tied(int(np.prod(input_shape)), outputs)


NUMBER = 3


def raises(input_shape: Shape, outputs: int) -> nn.Module:
    raise RuntimeError("out of ideas\nand of lines")


def no_module(input_shape: Shape, outputs: int) -> Any:
    return [1, 2]


def no_norm(input_shape: Shape, outputs: int) -> nn.Module:
    return rows(input_shape, outputs, nn.ReLU())


def group_norm(input_shape: Shape, outputs: int) -> nn.Module:
    return rows(input_shape, outputs, nn.GroupNorm(2, 8))


def lazy(input_shape: Shape, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(8), nn.BatchNorm1d(8), nn.Linear(8, outputs))


def synchronised(input_shape: Shape, outputs: int) -> nn.Module:
    return rows(input_shape, outputs, nn.SyncBatchNorm(8))


def untracked(input_shape: Shape, outputs: int) -> nn.Module:
    return rows(input_shape, outputs, nn.BatchNorm1d(8, track_running_stats=False))


def one_output_more(input_shape: Shape, outputs: int) -> nn.Module:
    return rows(input_shape, outputs + 1, nn.BatchNorm1d(8))


class Pair(nn.Module):
    """Gives more than one thing, in training only."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Any:
        y = self.inner(x)
        return (y, y) if self.training else y


def pair(input_shape: Shape, outputs: int) -> nn.Module:
    return Pair(rows(input_shape, outputs, nn.BatchNorm1d(8)))


def for_images(input_shape: Shape, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, outputs))


def twice(input_shape: Shape, outputs: int) -> nn.Module:
    shared = nn.BatchNorm1d(8)
    return rows(input_shape, outputs, shared, nn.ReLU(), shared)


class Idle(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.spare = inner, nn.BatchNorm1d(8)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.inner(x))


def idle(input_shape: Shape, outputs: int) -> nn.Module:
    return Idle(rows(input_shape, outputs, nn.BatchNorm1d(8)))


_KEPT: dict[Shape, nn.Module] = {}


def kept(input_shape: Shape, outputs: int) -> nn.Module:
    return _KEPT.setdefault(input_shape, rows(input_shape, outputs, nn.BatchNorm1d(8)))


def unseeded(input_shape: Shape, outputs: int) -> nn.Module:
    model = rows(input_shape, outputs, nn.BatchNorm1d(8))
    with torch.no_grad():
        cast(nn.Linear, model[1]).weight.copy_(torch.from_numpy(np.random.default_rng().normal(size=(8, 64))))
    return model


def frozen(input_shape: Shape, outputs: int) -> nn.Module:
    return rows(input_shape, outputs, nn.BatchNorm1d(8)).requires_grad_(False)


CALLS: list[str] = []


def drawn(shape: list[int], targets: str = "classes", seed: int = 0, kind: str = "float32", form: str = "tuple") -> Any:
    """30 training and 20 test samples of mean 5 and standard deviation 3; every class is in both splits."""
    CALLS.append(targets)
    random = np.random.default_rng(seed)
    values = random.normal(5, 3, (50, *shape))
    inputs: Any = np.clip(values * 10 + 100, 0, 255).astype(np.uint8) if kind == "uint8" else values.astype(kind)
    classes = np.arange(50) % 3
    labels: Any = {"classes": classes, "one": random.normal(size=50), "two": random.normal(2, 3, (50, 2)).astype("float32")}[
        targets
    ]
    names = ("train_inputs", "train_targets", "test_inputs", "test_targets")
    parts = (inputs[:30], labels[:30], inputs[30:], labels[30:])
    if form == "tensors":
        return [torch.from_numpy(part) for part in parts]
    return dict(zip(names, parts, strict=True), extra="ignored") if form == "mapping" else parts


def broken(what: str) -> Any:
    """Data with one thing wrong."""
    inputs, targets = np.ones((6, 4)) * np.arange(6)[:, None], np.arange(6) % 2
    parts: dict[str, Any] = {
        "train_inputs": inputs,
        "train_targets": targets,
        "test_inputs": inputs,
        "test_targets": targets,
    }
    values: dict[str, Any] = {
        "no inputs": {"train_inputs": np.ones((0, 4)), "train_targets": np.ones(0)},
        "flat": {"train_inputs": np.ones(6)},
        "texts": {"train_inputs": np.array([["a"] * 4] * 6)},
        "ragged": {"train_inputs": [[1.0], [1.0, 2.0]]},
        "objects": {"train_targets": np.array([None] * 6)},
        "nan": {"test_inputs": np.where(inputs == 3, np.nan, inputs)},
        "infinite targets": {"train_targets": np.full(6, np.inf), "test_targets": np.ones(6)},
        "fewer targets": {"train_targets": targets[:5]},
        "other shape": {"test_inputs": np.ones((6, 5))},
        "two dtypes": {"test_targets": targets.astype(float)},
        "one-hot": {"train_targets": np.eye(6, dtype=int), "test_targets": np.eye(6, dtype=int)},
        "from one": {"train_targets": targets + 1, "test_targets": targets + 1},
        "one class": {"train_targets": targets * 0, "test_targets": targets * 0},
        "a tensor of outputs": {"train_targets": np.ones((6, 2, 2)), "test_targets": np.ones((6, 2, 2))},
        "outputs differ": {"train_targets": np.ones((6, 2)), "test_targets": np.ones((6, 3))},
    }
    if what == "nothing":
        return None
    if what == "three":
        return tuple(parts.values())[:3]
    if what == "keys":
        return {"x": inputs, "train_inputs": inputs}
    return parts | values[what]
