"""A planted fault, and the case that one draw of it gives."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from scripts.gallery.subjects import Batch, Recipe


@dataclass(frozen=True, eq=False)
class Case:
    """What the diagnosis is given.

    Args:
        model: with the fault in it.
        batches: as in training.
        planted: what exactly this draw planted, in a few words.
        evaluation_batches: what evaluation was disappointed on; None for faults of the model alone.
    """

    model: nn.Module
    batches: Sequence[Any]
    planted: str
    evaluation_batches: Sequence[Batch] | None = None


Plant = Callable[[str, int], Case]
"""Called with the kind of model ("mlp" or "resnet") and the draw's seed."""


@dataclass(frozen=True)
class Fault:
    """A kind of fault.

    Args:
        name: in the gallery's table.
        expected: kinds of finding that are right to come first.
        meaning: what it is and how it happens, in a sentence or two.
        method: how it was planted.
        variants: ways in which it happens, each with its plant; draw d takes the (d mod number)-th.
        models: kinds of model it can be planted in.
    """

    name: str
    expected: tuple[str, ...]
    meaning: str
    method: str
    variants: tuple[Plant, ...]
    models: tuple[str, ...] = ("mlp", "resnet")

    def plant(self, kind: str, seed: int) -> Case:
        """One draw."""
        return self.variants[seed % len(self.variants)](kind, seed)


def chance(what: str, kind: str, seed: int) -> random.Random:
    """What a draw decides by; the same for the same fault, kind of model and seed."""
    return random.Random(f"{what} {kind} {seed}")


def recipe(kind: str, seed: int, **changes: Any) -> Recipe:
    """A healthy subject of random size; `changes` by field."""
    draw = chance("size", kind, seed)
    width = draw.choice((32, 48, 64, 96)) if kind == "mlp" else draw.choice((8, 12, 16))
    fields: dict[str, Any] = {"kind": kind, "seed": seed, "width": width, "depth": draw.choice((2, 3))}
    return Recipe(**(fields | changes))


def some(draw: random.Random, number: int, low: float, high: float) -> list[int]:
    """Between a share `low` and a share `high` of 0…number-1, at least one, in order."""
    return sorted(draw.sample(range(number), max(1, round(number * draw.uniform(low, high)))))
