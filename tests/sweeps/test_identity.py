"""A training's name changes with what changes its numbers, and with nothing else."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bnstudy.batchnorm.conventions import CONVENTIONS
from bnstudy.sweeps.config import Config
from bnstudy.sweeps.identity import job_id, training_fields, training_id
from bnstudy.sweeps.plan import Effort, canonical, make_plan
from bnstudy.sweeps.store import Store
from bnstudy.training.keys import Key, Role, keys, lookup, replaced
from tests.tiny import tiny

MATTER: dict[str, list[Any]] = {
    "dataset.name": ["gaussian", "mnist"],
    "dataset.train_size": [50, None],
    "dataset.test_size": [20, None],
    "dataset.split_seed": [1],
    "dataset.augment": ["crop_flip"],
    "dataset.factory": ["data:load"],
    "model.name": ["other"],
    "model.architecture": ["resnet"],
    "model.depth": [3],
    "model.width": [13],
    "model.norm": ["group", "layer", "none"],
    "variance.normalize": ["unbiased"],
    "variance.rescaled": [True],
    "port.variance": ["paper", "consistent_biased"],
    "optimizer.name": ["adamw"],
    "optimizer.lr": [0.1, 1e-9],
    "optimizer.scaling": ["sqrt", "none"],
    "optimizer.reference_batch_size": [64],
    "optimizer.momentum": [0.0],
    "optimizer.nesterov": [True],
    "optimizer.weight_decay": [1e-4],
    "schedule.name": ["cosine"],
    "schedule.warmup": [0.1],
    "batch_size": [9],
    "norm_batch_size": [4],
    "momentum": [0.2, None],
    "eps": [1e-3],
    "epochs": [3],
    "steps": [30],
    "drop_last": [False],
    "device": ["cuda"],
    "precision": ["bfloat16", "float64"],
    "probe_batches": [0, 100],
}
UNREAD: dict[str, list[Any]] = {
    "dataset.samples": [77],
    "dataset.dimension": [7],
    "dataset.noise": [0.5],
    "dataset.args": [{"rows": 3}],
    "dataset.scale": [False],
    "dataset.source": ["0123"],
    "model.factory": ["nets:build"],
    "model.args": [{"width": 3}],
    "model.source": ["0123"],
    "port.epochs": [1],
    "port.lr_factor": [0.5],
    "optimizer.betas": [[0.5, 0.5]],
    "optimizer.eps": [0.1],
    "optimizer.decay_norm": [True],
}
"""Fields that change numbers, but not those of `tiny`, which does not read them."""
SELECTION: dict[str, list[Any]] = {
    "variance.name": ["any name"],
    "variance.accumulate": ["biased"],
    "seeds": [1, [5, 6]],
    "replicas": [1, 4],
}
PRESENTATION: dict[str, list[Any]] = {
    "name": ["another study"],
    "study.question": ["Why?"],
    "study.hypothesis": ["Because."],
    "study.metric": ["loss"],
    "study.split": ["train"],
    "study.margin": [0.01],
    "study.alpha": [0.1],
    "study.statistic": ["gap"],
    "study.contrasts": [["inverted"]],
    "study.kinds": [["storage"]],
    "study.family": [{"batch_size": [2]}],
    "scale": ["full"],
    "report": [False],
    "tracking": ["wandb"],
    "results_dir": ["/tmp"],
    "retry_failed": [True],
}
PLACE: dict[str, list[Any]] = {
    "dataset.root": ["/elsewhere"],
    "dataset.download": [True],
    "engine.name": ["slurm"],
    "engine.workers": [5],
    "engine.threads": [2],
    "engine.gpus_per_job": [1.0],
    "engine.partition": ["gpu"],
    "engine.time": [5],
    "engine.memory": [8.0],
    "engine.options": [{"account": "lab"}],
    "engine.setup": [["module load cuda"]],
    "engine.address": ["10.0.0.1:6379"],
    "output_dir": ["/tmp"],
}
DO_NOT = UNREAD | SELECTION | PRESENTATION | PLACE
PAIRS = {
    True: [(key, value) for key in MATTER for value in MATTER[key]],
    False: [(key, value) for key in DO_NOT for value in DO_NOT[key]],
}


def changed(config: Config, key: str, value: Any) -> Config:
    config = copy.deepcopy(config)
    *path, last = key.split(".")
    place: Any = config
    for part in path:
        place = getattr(place, part)
    assert getattr(place, last) != value, "not a change"
    setattr(place, last, value)
    return config


def test_every_key_of_the_configuration_has_the_role_that_is_listed_here() -> None:
    """A new key makes this fail until somebody decides."""
    roles = {key.name: key.role for key in keys(Config)}
    listed = {Role.NUMBERS: MATTER | UNREAD, Role.SELECTION: SELECTION, Role.PRESENTATION: PRESENTATION, Role.PLACE: PLACE}
    assert roles == {key: role for role, table in listed.items() for key in table}


@pytest.mark.parametrize(("key", "value"), PAIRS[True])
def test_what_changes_numbers_changes_the_name(key: str, value: Any) -> None:
    assert training_id(changed(tiny(), key, value)) != training_id(tiny())


@pytest.mark.parametrize(("key", "value"), PAIRS[False])
def test_what_changes_no_numbers_does_not(key: str, value: Any) -> None:
    assert training_id(changed(tiny(), key, value)) == training_id(tiny())


@given(st.lists(st.sampled_from(PAIRS[False]), max_size=8, unique_by=lambda pair: pair[0]), st.sampled_from(PAIRS[True]))
def test_no_mixture_of_changes_hides_one_that_matters(idle: list[tuple[str, Any]], real: tuple[str, Any]) -> None:
    config = tiny()
    for key, value in idle:
        config = changed(config, key, value)
    assert training_id(config) == training_id(tiny())
    assert training_id(changed(config, *real)) != training_id(tiny())


CHOICES = {
    "dataset.name": ["digits", "gaussian", "friedman1", "import"],
    "dataset.factory": [None, "data:load"],
    "model.architecture": ["mlp", "resnet", "torchvision", "import"],
    "model.norm": ["batch", "group", "none"],
    "variance.normalize": ["biased", "unbiased"],
    "port.variance": [None, *CONVENTIONS],
    "optimizer.name": ["sgd", "adamw"],
    "optimizer.scaling": ["linear", "none"],
    "optimizer.weight_decay": [0.0, 0.1],
    "steps": [None, 7, 8],
}
"""Values of the keys that decide which other keys are read."""
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "bool": st.booleans(),
    "int": st.integers(1, 99),
    "float": st.floats(0.001, 0.999),
    "str": st.text("abc", min_size=1),
    "dict[str, Any]": st.dictionaries(st.sampled_from("ab"), st.integers(0, 3)),
    "list[float]": st.lists(st.floats(0.1, 0.9), max_size=3),
    "list[str]": st.lists(st.text("abc"), max_size=3),
    "list[Any]": st.lists(st.sampled_from([*CONVENTIONS]), max_size=3),
    "Any": st.integers(1, 99),
}


def values(key: Key) -> st.SearchStrategy[Any]:
    if key.name in CHOICES:
        return st.sampled_from(CHOICES[key.name])
    kind, _, optional = key.type.partition(" | ")
    return VALUES[kind] | st.none() if optional else VALUES[kind]


@st.composite
def changes(draw: st.DrawFn) -> tuple[Key, Config, Config]:
    """Any key, and any configuration before and after it changes."""
    config = tiny()
    for name, choices in CHOICES.items():
        config = replaced(config, name, draw(st.sampled_from(choices)))
    key = draw(st.sampled_from(keys(Config)))
    value = draw(values(key).filter(lambda value: value != lookup(config, key.name)))
    return key, config, replaced(config, key.name, value)


@settings(max_examples=400)
@given(changes())
def test_a_key_changes_what_its_role_says_and_nothing_else(change: tuple[Key, Config, Config]) -> None:
    key, before, after = change
    matters = key.role is Role.NUMBERS and (key.reads(before) or key.reads(after))
    assert (training_id(before) != training_id(after)) == matters
    if key.role in (Role.SELECTION, Role.PRESENTATION):
        assert canonical(before) == canonical(after)
    else:
        assert lookup(canonical(after), key.name) == lookup(after, key.name)
    if key.name not in ("seeds", "replicas"):  # which say what seeds a job has
        assert (jobs_of(before) != jobs_of(after)) == matters


def jobs_of(config: Config) -> list[str]:
    """The jobs that a configuration is planned as, two seeds in each."""
    training = training_id(config)
    plan = make_plan([config], Store("nowhere"), {training: Effort(2, 1, 1.0)})
    return [job.id for job in plan.jobs]


def test_different_changes_give_different_names() -> None:
    names = [training_id(changed(tiny(), key, value)) for key, value in PAIRS[True]]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("base", "key", "value", "matters"),
    [
        ({"dataset__name": "gaussian"}, "dataset.dimension", 7, True),
        ({"dataset__name": "gaussian"}, "dataset.noise", 0.5, True),
        ({"dataset__name": "friedman1"}, "dataset.samples", 77, True),
        ({"dataset__name": "friedman1"}, "dataset.noise", 0.5, True),
        ({"dataset__name": "friedman1"}, "dataset.dimension", 7, False),
        ({"optimizer__name": "adamw"}, "optimizer.betas", [0.5, 0.5], True),
        ({"optimizer__name": "adamw"}, "optimizer.eps", 0.1, True),
        ({"optimizer__name": "adamw"}, "optimizer.momentum", 0.1, False),
        ({"optimizer__name": "adamw"}, "optimizer.nesterov", True, False),
        ({"optimizer__weight_decay": 0.1}, "optimizer.decay_norm", True, True),
        ({"optimizer__scaling": "none"}, "optimizer.reference_batch_size", 7, False),
        ({"model__architecture": "torchvision", "model__name": "resnet18"}, "model.name", "resnet50", True),
        ({"model__architecture": "torchvision"}, "model.width", 7, False),
        ({"model__architecture": "torchvision"}, "model.depth", 7, False),
        ({"model__norm": "group"}, "variance.normalize", "unbiased", False),
        ({"model__norm": "group"}, "norm_batch_size", 4, False),
        ({"model__norm": "group"}, "momentum", 0.2, False),
        ({"model__norm": "group"}, "probe_batches", 0, False),
        ({"model__norm": "group"}, "eps", 0.2, True),
        ({"model__norm": "none"}, "eps", 0.2, False),
        ({"model__architecture": "import"}, "model.factory", "nets:build", True),
        ({"model__architecture": "import"}, "model.args", {"width": 3}, True),
        ({"model__architecture": "import"}, "model.source", "0123", True),
        ({"model__architecture": "import"}, "model.name", "other", True),
        ({"model__architecture": "import"}, "model.width", 7, False),
        ({"model__architecture": "import"}, "model.depth", 7, False),
        ({"dataset__name": "import"}, "dataset.factory", "data:load", True),
        ({"dataset__name": "import"}, "dataset.args", {"path": "/data"}, True),
        ({"dataset__name": "import"}, "dataset.source", "0123", True),
        ({"dataset__name": "import"}, "dataset.scale", False, True),
        ({"dataset__name": "import"}, "dataset.split_seed", 1, True),
        ({"dataset__name": "import"}, "dataset.samples", 77, False),
        ({"port__variance": "paper"}, "port.epochs", 1, True),
        ({"port__variance": "paper"}, "port.lr_factor", 0.5, True),
        ({"port__variance": "paper"}, "port.variance", "pytorch", False),
        ({"steps": 10}, "epochs", 7, False),
        ({"steps": 10}, "steps", 11, True),
    ],
)
def test_fields_that_a_choice_does_not_read_do_not_matter(base: dict[str, Any], key: str, value: Any, matters: bool) -> None:
    config = tiny(**base)
    assert (training_id(changed(config, key, value)) != training_id(config)) == matters


def test_the_name_is_twelve_hex_digits_and_the_same_in_every_process() -> None:
    assert training_id(Config(device="cpu")) == "fd635714f222"  # unchanged numbers, unchanged name


def test_fields_are_flat_and_sorted() -> None:
    fields = training_fields(tiny())
    assert list(fields) == sorted(fields)
    assert fields["model.width"] == 12
    assert fields["variance.normalize"] == "biased"
    assert not any(isinstance(value, dict) for value in fields.values())


def test_arguments_of_an_import_are_fields_of_their_own() -> None:
    args = {"width": 3, "stem": {"stride": 2}, "stages": [1, 2]}
    fields = training_fields(tiny(model__architecture="import", model__args=args))
    arguments = {key: value for key, value in fields.items() if key.startswith("model.args")}
    assert arguments == {"model.args.width": 3, "model.args.stem.stride": 2, "model.args.stages": "[1, 2]"}


def test_a_job_is_named_by_its_range_of_seeds() -> None:
    assert job_id("abc", [0, 1, 2, 3]) == job_id("abc", (3, 1, 0, 2)) == "abc-s0-3"
    assert job_id("abc", [5]) == "abc-s5-5"


@given(st.sets(st.integers(0, 40), min_size=1), st.sets(st.integers(0, 40), min_size=1))
def test_different_seeds_are_different_jobs(first: set[int], second: set[int]) -> None:
    assert (job_id("abc", sorted(first)) == job_id("abc", sorted(second))) == (first == second)
