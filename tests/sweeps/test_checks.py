"""What a study adds to a training is checked, too: one line with key, value and remedy."""

from __future__ import annotations

import math
from typing import Any

import pytest

from bnstudy.errors import UserError
from bnstudy.sweeps.checks import check_cell, seed_list
from bnstudy.sweeps.config import Config
from tests.tiny import tiny


def test_the_defaults_and_the_tiny_configuration_are_accepted() -> None:
    assert check_cell(Config()).train_samples == 1437
    assert check_cell(tiny()).train_samples == 104


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("scale", "huge"),
        ("tracking", "mlflow"),
        ("engine__name", "pbs"),
        ("engine__threads", 0),
        ("engine__time", 0),
        ("engine__workers", 0),
        ("engine__memory", 0.0),
        ("engine__memory", math.nan),
        ("engine__gpus_per_job", -1.0),
        ("seeds", 0),
        ("seeds", -1),
        ("seeds", [0, -1]),
        ("seeds", []),
        ("seeds", [1, 1]),
        ("seeds", "8"),
        ("seeds", True),
        ("seeds", 2.5),
        ("seeds", [2**32]),
        ("batch_size", 0),
    ],
)
def test_a_wrong_value_is_refused_in_one_line_that_names_its_key(key: str, value: Any) -> None:
    with pytest.raises(UserError) as caught:
        check_cell(tiny(**{key: value}))
    text = str(caught.value)
    assert text.startswith(f"{key.replace('__', '.')}: {value!r} ")
    assert "; " in text
    assert "\n" not in text


@pytest.mark.parametrize(("seeds", "meant"), [(1, [0]), (3, [0, 1, 2]), ([0], [0]), ([7, 0, 3], [7, 0, 3]), ((4,), [4])])
def test_a_number_of_seeds_counts_from_0_and_a_list_is_itself(seeds: Any, meant: list[int]) -> None:
    assert seed_list(seeds) == meant
