"""Every key of the configuration has one role, declared at its field, and a sentence that says what it means."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from bnstudy.sweeps.config import Config
from bnstudy.training.config import TrainingConfig
from bnstudy.training.keys import NUMBERS, PLACE, Role, keys, lookup, numbers_where, replaced
from tests.tiny import tiny


@dataclass
class Inner:
    """A group.

    Args:
        own: its own
            role.
        inherited, too: the group's.
    """

    own: int = field(default=1, metadata=PLACE)
    inherited: int = 2
    too: list[int] = field(default_factory=list)


@dataclass
class Base:
    """A base.

    Args:
        first: what: the base says.

    Raises:
        second: nothing.
    """

    first: str = field(default="a", metadata=NUMBERS)


@dataclass
class Whole(Base):
    """A class with a group.

    Args:
        second: what the class says.
    """

    group: Inner = field(default_factory=Inner, metadata=numbers_where(lambda config: False))
    second: float | None = field(default=None, metadata=PLACE)


def test_keys_come_in_the_order_of_the_fields_with_role_type_and_text() -> None:
    assert [(key.name, key.role, key.type, key.text) for key in keys(Whole)] == [
        ("first", Role.NUMBERS, "str", "what: the base says."),
        ("group.own", Role.PLACE, "int", "its own role."),
        ("group.inherited", Role.NUMBERS, "int", "the group's."),
        ("group.too", Role.NUMBERS, "list[int]", "the group's."),
        ("second", Role.PLACE, "float | None", "what the class says."),
    ]
    assert [key.reads(TrainingConfig()) for key in keys(Whole)] == [True, True, False, False, True]


def test_a_field_without_a_role_is_refused() -> None:
    @dataclass
    class Forgotten(Base):
        new: int = 3

    with pytest.raises(TypeError, match=r"^Forgotten\.new: no role is declared$"):
        keys(Forgotten)


def test_every_key_of_a_cell_has_a_role_and_a_text() -> None:
    found = keys(Config)
    assert {key.role for key in found} == set(Role)
    assert [key.name for key in found if not key.text] == []
    assert len({key.name for key in found}) == len(found)


def test_what_changes_numbers_is_a_key_of_the_training() -> None:
    training = {key.name for key in keys(TrainingConfig)}
    assert {key.name for key in keys(Config) if key.role is Role.NUMBERS} <= training


def test_lookup_follows_dots() -> None:
    assert lookup(tiny(), "optimizer.lr") == 0.05
    assert lookup(tiny(), "batch_size") == 8


def test_a_replaced_value_leaves_the_original_and_everything_else_alone() -> None:
    config = tiny()
    other = replaced(config, "optimizer.lr", 0.5)
    assert config == tiny()
    assert other == tiny(optimizer__lr=0.5)
    assert replaced(config, "batch_size", 4) == tiny(batch_size=4)
