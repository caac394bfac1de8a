"""Every refusal is one line with key, value and remedy, and every remedy works."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bnstudy.errors import UserError
from bnstudy.training.checks import check, check_values_per_channel
from bnstudy.training.config import TrainingConfig
from bnstudy.training.data import Dataset, DatasetShape
from bnstudy.training.measuring import measure_block
from tests.tiny import tiny


def refusal(config: TrainingConfig, shape: DatasetShape | None = None, spatial: dict[str, int] | None = None) -> str:
    def ask() -> None:
        if shape is None or spatial is None:
            check(config)
        else:
            check_values_per_channel(config, shape, spatial)

    with pytest.raises(UserError) as caught:
        ask()
    text = str(caught.value)
    assert "\n" not in text
    assert "; " in text
    return text


def test_the_defaults_and_the_tiny_configuration_are_accepted() -> None:
    assert check(TrainingConfig()).train_samples == 1437
    assert check(tiny()).train_samples == 104


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("optimizer__name", "adam"),
        ("optimizer__scaling", "quadratic"),
        ("schedule__name", "step"),
        ("device", "tpu"),
        ("precision", "float16"),
        ("batch_size", 0),
        ("batch_size", -8),
        ("epochs", 0),
        ("eps", 0.0),
        ("eps", math.nan),
        ("optimizer__lr", -0.1),
        ("optimizer__lr", math.inf),
        ("optimizer__reference_batch_size", 0),
        ("norm_batch_size", 0),
        ("norm_batch_size", 9),
        ("steps", 0),
        ("momentum", 0.0),
        ("momentum", 1.5),
        ("momentum", math.nan),
        ("optimizer__momentum", 1.0),
        ("optimizer__momentum", -0.1),
        ("schedule__warmup", 1.0),
        ("optimizer__weight_decay", -1e-4),
        ("optimizer__weight_decay", math.inf),
        ("replicas", 0),
        ("replicas", "many"),
        ("replicas", True),
        ("replicas", 2.0),
        ("variance__normalize", "sample"),
        ("variance__accumulate", "none"),
        ("dataset__name", "imagenet"),
        ("dataset__train_size", 10**6),
        ("dataset__augment", "mixup"),
        ("batch_size", 105),
        ("probe_batches", 3),
        ("probe_batches", -1),
    ],
)
def test_a_wrong_value_is_refused_in_one_line_that_names_its_key(key: str, value: Any) -> None:
    text = refusal(tiny(**{key: value}))
    start = text.split(":")[0]
    assert start in (key.replace("__", "."), "variance")
    shown = value if not isinstance(value, float) or math.isfinite(value) else str(value)
    assert str(shown) in text or repr(shown) in text


@pytest.mark.parametrize(
    ("changes", "start"),
    [
        ({"optimizer__name": "adamw", "optimizer__betas": [0.9]}, "optimizer.betas: [0.9] is no pair"),
        ({"optimizer__name": "adamw", "optimizer__betas": [0.9, 1.0]}, "optimizer.betas: [0.9, 1.0] is no pair"),
        ({"optimizer__name": "adamw", "optimizer__eps": -1.0}, "optimizer.eps: -1.0 is negative"),
        ({"optimizer__nesterov": True, "optimizer__momentum": 0.0}, "optimizer.nesterov: true needs momentum"),
    ],
)
def test_what_torchs_optimizers_would_refuse_later_is_refused_now(changes: dict[str, Any], start: str) -> None:
    assert refusal(tiny(**changes)).startswith(start)


def test_fields_of_the_other_optimizer_are_not_looked_at() -> None:
    check(tiny(optimizer__betas=[], optimizer__eps=-1.0))
    check(tiny(optimizer__name="adamw", optimizer__nesterov=True, optimizer__momentum=0.0))


def test_a_baseline_does_not_care_for_groups() -> None:
    check(tiny(model__norm="group", norm_batch_size=64))


def shape_of(train: int, test: int = 100) -> DatasetShape:
    return DatasetShape("classification", (1, 8, 8), 10, train, test)


MLP_LAYERS = {"norm1": 1, "norm2": 1}


def test_a_batch_of_one_is_wrong_for_features_and_fine_for_images() -> None:
    text = refusal(tiny(batch_size=1), shape_of(100), MLP_LAYERS)
    assert text.startswith(
        "batch_size: 1 gives BatchNorm one value per channel in layer 'norm1' of model 'mlp'; use 2 or more"
    )
    check_values_per_channel(tiny(batch_size=1), shape_of(100), {"norm1": 64, "norm2": 16})
    check_values_per_channel(tiny(batch_size=1), shape_of(100), {})
    assert "'last'" in refusal(tiny(batch_size=1), shape_of(100), {"norm1": 64, "last": 1})


def test_ghost_batches_of_one_are_refused() -> None:
    assert refusal(tiny(norm_batch_size=1), shape_of(100), MLP_LAYERS).startswith("norm_batch_size: 1 gives")
    text = refusal(tiny(batch_size=9, norm_batch_size=4), shape_of(99), MLP_LAYERS)
    assert "leaves a group of 1 of 9 samples" in text
    assert "divides batch_size 9" in text


def test_a_last_batch_of_one_is_refused_with_a_size_that_would_do() -> None:
    text = refusal(tiny(drop_last=False), shape_of(97), MLP_LAYERS)
    assert text.startswith("drop_last: false leaves a last batch of 1 of 97 samples at batch_size 8")
    assert text.endswith("use drop_last=true or a batch_size such as 7")
    check_values_per_channel(tiny(drop_last=True), shape_of(97), MLP_LAYERS)


def test_batches_of_two_and_an_odd_number_of_samples_are_refused_with_a_larger_size_that_would_do() -> None:
    text = refusal(tiny(batch_size=2, drop_last=False), shape_of(1437), MLP_LAYERS)
    assert text.endswith("use drop_last=true or a batch_size such as 3")


def test_a_last_batch_that_ends_in_a_group_of_one_is_told_by_its_own_remedy() -> None:
    text = refusal(tiny(drop_last=False, norm_batch_size=4), shape_of(101), MLP_LAYERS)  # 101 = 12·8 + 5, 5 = 4 + 1
    assert "a last batch of 5 and in it a group of 1" in text
    assert "drop_last=true" in text


def test_a_test_split_of_one_is_refused_where_it_would_be_a_batch_of_one() -> None:
    assert refusal(tiny(), shape_of(100, 1), MLP_LAYERS).startswith("dataset.test_size: 1 leaves a batch or group of 1")
    assert refusal(tiny(norm_batch_size=2), shape_of(100, 5), MLP_LAYERS).startswith("dataset.test_size: 5")
    check_values_per_channel(tiny(norm_batch_size=2), shape_of(100, 9), MLP_LAYERS)  # one batch, the ninth is dropped
    check_values_per_channel(tiny(), shape_of(100, 7), MLP_LAYERS)


@given(st.integers(2, 40), st.integers(1, 12), st.integers(2, 60), st.integers(1, 20), st.booleans())
def test_what_passes_has_no_group_of_one_and_the_remedies_pass(
    batch_size: int, group: int, train: int, test: int, drop_last: bool
) -> None:
    batch_size, group = min(batch_size, train), min(group, batch_size, train)
    config = tiny(batch_size=batch_size, norm_batch_size=group, drop_last=drop_last)
    last = 0 if drop_last else train % batch_size
    measured = batch_size if test >= batch_size else test
    ones = any(
        1 in [len(range(size)[start : start + group]) for start in range(0, size, group)]
        for size in (batch_size, last, measured)
    )
    try:
        check_values_per_channel(config, shape_of(train, test), MLP_LAYERS)
    except UserError as error:
        assert ones
        if found := re.search(r"batch_size such as (\d+)$", str(error)):
            fitting = int(found[1])
            assert train % fitting % group != 1
        return
    assert not ones


@settings(max_examples=8)
@given(st.integers(2, 9), st.integers(2, 20), st.integers(2, 12), st.booleans(), st.sampled_from([None, 2, 3]))
def test_what_passes_trains(
    digits: Dataset, batch_size: int, train: int, test: int, drop_last: bool, group: int | None
) -> None:
    config = tiny(
        batch_size=batch_size,
        drop_last=drop_last,
        norm_batch_size=group,
        epochs=1,
        model__depth=1,
        dataset__train_size=train,
        dataset__test_size=test,
    )
    try:
        shape = check(config)
        check_values_per_channel(config, shape, {"norm1": 1})
    except UserError:
        return
    small = replace(
        digits,
        train=replace(digits.train, inputs=digits.train.inputs[:train], targets=digits.train.targets[:train]),
        test=replace(digits.test, inputs=digits.test.inputs[:test], targets=digits.test.targets[:test]),
    )
    assert measure_block(config, small, [0]).metrics
