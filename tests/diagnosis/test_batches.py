"""Batches in the types that models take: they come to the model as they were, on its device."""

from __future__ import annotations

from collections import OrderedDict, UserDict, namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from bnstudy.diagnosis.batches import moved, tensors
from bnstudy.diagnosis.diagnose import diagnose
from bnstudy.errors import UserError

RANDOM = torch.Generator().manual_seed(5)
DATA = [(torch.randn(6, 5, generator=RANDOM), torch.randint(3, (6,), generator=RANDOM)) for _ in range(9)]
LENGTHS = torch.tensor([4, 4, 3, 2, 1, 1])
CPU = torch.device("cpu")


class Pair(NamedTuple):
    x: Tensor
    mask: Tensor


@dataclass
class Fields:
    x: Tensor
    mask: Tensor


class Attributes(dict[str, Tensor]):
    """A mapping whose keys are attributes: what configuration and batch classes often are."""

    __getattr__ = dict.__getitem__


class Holder(UserDict[str, Tensor]):
    """A mapping that is no dict and moves itself, as tokenizers return one."""

    def to(self, device: torch.device) -> Holder:
        return Holder({key: value.to(device) for key, value in self.items()})


class Opaque:
    """An object of a user's own that moves itself."""

    def __init__(self, x: Tensor, mask: Tensor) -> None:
        self.x, self.mask = x, mask

    def to(self, device: torch.device) -> Opaque:
        return Opaque(self.x.to(device), self.mask.to(device))


class ListOfTwo(list[Tensor]):
    pass


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class TakesOne(Network):
    """A model with a single argument that it takes apart itself."""

    def __init__(self, kind: type, parts: Callable[[Any], tuple[Tensor, Tensor]]) -> None:
        super().__init__()
        self.kind, self.parts = kind, parts

    def forward(self, batch: Any) -> Tensor:
        assert type(batch) is self.kind
        x, mask = self.parts(batch)
        return self.layers(x * mask)


class TakesTwo(Network):
    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.layers(x * mask)


MASK = torch.full((6, 1), 0.5)
Named = namedtuple("Named", "x mask")
BY_NAME = lambda batch: (batch.x, batch.mask)  # noqa: E731
ONE: dict[str, tuple[Callable[[Tensor], Any], Callable[[Any], tuple[Tensor, Tensor]]]] = {
    "named tuple": (lambda x: Pair(x, MASK), BY_NAME),
    "namedtuple": (lambda x: Named(x, MASK), BY_NAME),
    "data class": (lambda x: Fields(x, MASK), BY_NAME),
    "attribute mapping": (lambda x: Attributes(x=x, mask=MASK), BY_NAME),
    "mapping that moves itself": (lambda x: Holder(x=x, mask=MASK), lambda batch: (batch["x"], batch["mask"])),
    "object that moves itself": (lambda x: Opaque(x, MASK), BY_NAME),
    "tuple": (lambda x: (x, MASK), lambda batch: batch),
    "list": (lambda x: [x, MASK], lambda batch: tuple(batch)),
    "nested": (lambda x: (x, [{"mask": MASK}]), lambda batch: (batch[0], batch[1][0]["mask"])),
    "ordered mapping": (lambda x: OrderedDict(x=x, mask=MASK), lambda batch: (batch["x"], batch["mask"])),
}
TWO: dict[str, Callable[[Tensor], Any]] = {
    "tuple": lambda x: (x, MASK),
    "list": lambda x: [x, MASK],
    "mapping": lambda x: {"mask": MASK, "x": x},
    "attribute mapping": lambda x: Attributes(x=x, mask=MASK),
    "mapping that moves itself": lambda x: Holder(x=x, mask=MASK),
    "named tuple": lambda x: Pair(x, MASK),
}


def plain() -> Any:
    return diagnose(Network(), [(x * MASK, y) for x, y in DATA], swap_batches=0)


@pytest.mark.parametrize("name", ONE)
def test_a_model_of_one_argument_gets_it_in_the_type_that_it_came_in(name: str) -> None:
    make, parts = ONE[name]
    model = TakesOne(type(make(MASK)), parts)
    found = diagnose(model, [(make(x), y) for x, y in DATA], swap_batches=0)
    assert found.levels.equals(plain().levels)
    assert found.setting["samples"] == 54


@pytest.mark.parametrize("name", TWO)
def test_a_model_of_several_arguments_gets_them_one_by_one_or_by_name(name: str) -> None:
    found = diagnose(TakesTwo(), [(TWO[name](x), y) for x, y in DATA], swap_batches=0)
    assert found.levels.equals(plain().levels)


class OverSequences(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.rnn, self.norm, self.head = nn.GRU(5, 4, batch_first=True), nn.BatchNorm1d(4), nn.Linear(4, 3)

    def forward(self, sequences: Any) -> Tensor:
        packed = sequences if isinstance(sequences, PackedSequence) else pack_padded_sequence(sequences, LENGTHS, True)
        outputs, _ = self.rnn(packed)
        assert not outputs.batch_sizes.is_cuda
        return self.head(self.norm(pad_packed_sequence(outputs, batch_first=True)[0].mean(1)))


@pytest.mark.parametrize("targets", [True, False])
def test_packed_sequences_are_inputs_with_targets_and_without(targets: bool) -> None:
    data = [(torch.randn(6, 4, 5, generator=RANDOM), y) for _, y in DATA]
    packed = [pack_padded_sequence(x, LENGTHS, True) for x, _ in data]
    given: list[Any] = [(x, y) for x, (_, y) in zip(packed, data, strict=True)] if targets else packed
    padded: list[Any] = data if targets else [x for x, _ in data]
    found = diagnose(OverSequences(), given, swap_batches=0)
    assert found.levels.equals(diagnose(OverSequences(), padded, swap_batches=0).levels)
    assert (found.setting["samples"], found.setting["batch_size"]) == (54, 6)


def test_what_is_moved_keeps_its_type_and_its_other_parts() -> None:
    for make, _ in ONE.values():
        batch = make(DATA[0][0])
        again = moved(batch, CPU)
        assert type(again) is type(batch)
        assert all(map(torch.equal, tensors(again), tensors(batch)))
    assert moved({"name": "batch", "x": [None, 3]}, CPU) == {"name": "batch", "x": [None, 3]}


def test_inputs_without_a_tensor_are_told() -> None:
    with pytest.raises(UserError, match=r"^batches: batch 1 is a tuple without a tensor of inputs; "):
        diagnose(Network(), [([], DATA[0][1])] * 9)
