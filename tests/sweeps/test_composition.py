"""Cells are what Hydra composes for each of them by itself, whatever the overrides are."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hydra import compose
from hydra.core.config_loader import ConfigLoader
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf

from bnstudy.errors import UserError
from bnstudy.sweeps.composition import compose_cells, hydra_loader
from bnstudy.sweeps.config import Config

# A user's own configuration, which ties keys to each other wherever YAML can.
OWN = {
    "experiments/tied.yaml": (
        "# @package _global_\n"
        "defaults:\n  - override /optimizer: adamw\n"
        "name: tied_${batch_size}\n"
        "norm_batch_size: ${batch_size}\n"
        "seeds: ${scaled:2,[0,5]}\n"
        "epochs: ${scaled:3,${model.depth}}\n"
        "study:\n  question: 'm = ${batch_size} at ${optimizer.lr}'\n  margin: ${eps}\n"
    ),
    "experiments/same.yaml": "# @package _global_\nmodel:\n  width: 24\nstudy:\n  contrasts: [inverted]\n",
    "model/tied.yaml": "name: tied\narchitecture: mlp\ndepth: 3\nwidth: ${batch_size}\nargs:\n  m: ${..width}\n",
    "optimizer/tied.yaml": "name: sgd\nlr: ${eps}\nbetas: ['${..momentum}', 0.5]\nreference_batch_size: ${batch_size}\n",
}
GROUPS = [
    "model=mlp", "model=resnet8", "model=tied", "model=[mlp,resnet8]", "model=nothing", "dataset=diabetes", "dataset=import",
    "variance=flax", "variance=inverted", "optimizer=adamw", "optimizer=tied", "schedule=cosine", "engine=slurm",
    "+experiments=quick", "+experiments=tied", "+experiments=same", "+experiments=depth", "~schedule", "~engine",
    "+model@study=mlp", "optimizer={lr:0.5,momentum:0.1}", "model={width:${batch_size}}",
]  # fmt: skip
PLAIN = [
    "batch_size=2", "batch_size=4", "batch_size=8", "batch_size=x", "model.width=16", "model.depth=4", "model.depth=null",
    "norm_batch_size=null", "norm_batch_size=2", "momentum=null", "momentum=1", "eps=0.5", "eps=1e-3", "eps=nan",
    "seeds=3", "seeds=[1,2]", "drop_last=false", "drop_last=2", "optimizer.betas=[0.5,0.25]", "optimizer.betas.0=0.125",
    "optimizer.lr=1", "name=abc", "name='a b, c=d'", 'name="it\'s \\"${odd}\\""', "name=\\${batch_size}", "name=",
    "name=null", "model.name=1", "scale=full", "dataset.train_size=null", "replicas=auto", "replicas=4", "retry_failed=yes",
    "study.margin=0.01", "study.margin=null", "study.alpha=0.1", "study.question='why, and how?'", "study.metric=loss",
    "study.contrasts=[[inverted,paper],inverted]", "study={alpha:0.2}", "study=null", "engine.workers=2",
    "engine.setup=[a,b]",
]  # fmt: skip
TIED = [
    "model.width=${batch_size}", "norm_batch_size=${batch_size}", "batch_size=${model.depth}", "epochs=${seeds}",
    "name=run_${batch_size}_${model.name}", "study.margin=${eps}", "optimizer.lr=${oc.select:eps}",
    "model.args=${study.family}",
    "seeds='${scaled:4,${batch_size}}'", "epochs=${scaled:5,7}", "optimizer.betas=[${eps},${momentum}]", "eps=${nothing}",
    "model.width=${model.width}", "study.question=${hydra:runtime.version}", "study.hypothesis=${hydra.job.config_name}",
    "optimizer.reference_batch_size=${oc.env:BNSTUDY_TEST_SIZE}", "batch_size=${eps}", "scale=${study.split}",
    "dataset.args={m:${batch_size}}", "study.question=${hydra:runtime.choices.model}",
]  # fmt: skip
ADDED = [
    "++model.args.width=3", "+model.args.width=5", "++model.args={width:${batch_size}}", "++study.family.batch_size=[2,4]",
    "+engine.options={account:lab}", "++batch_size=16", "+batch_size=16", "+colour=red", "+model.colour=red", "+eps.x=1",
    "~study.question", "~study", "~model.width", "~optimizer.lr=0.05", "~optimizer.lr=3", "~nothing", "~batch_size",
    "~eps=0.5",
]  # fmt: skip


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own")
    for name, text in OWN.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.fixture(scope="module")
def loader(own: Path) -> Iterator[ConfigLoader]:
    with pytest.MonkeyPatch.context() as patch, hydra_loader() as loader:
        patch.setenv("BNSTUDY_TEST_SIZE", "48")
        yield loader


@pytest.fixture(scope="module")
def master(loader: ConfigLoader, own: Path) -> DictConfig:
    return loader.load_configuration("config", [f"hydra.searchpath=['file://{own}']"], RunMode.MULTIRUN)


def composed_by_hydra(own: Path, overrides: Sequence[str]) -> dict[str, Any] | None:
    """The cell as Hydra alone makes it, or None where it refuses or what comes out is no `Config`."""
    try:
        config = compose("config", [f"hydra.searchpath=['file://{own}']", *overrides], return_hydra_config=True)
        HydraConfig.instance().set_config(config)
        keys = [str(key) for key in config if key != "hydra"]
        values = {key: OmegaConf.select(config, key) for key in keys}
        plain = {k: OmegaConf.to_container(v, resolve=True) if OmegaConf.is_config(v) else v for k, v in values.items()}
        whole = OmegaConf.merge(OmegaConf.structured(Config), {key: escaped(value) for key, value in plain.items()})
        found = OmegaConf.to_container(whole, resolve=True)
    except Exception:  # whatever the reason: the cell cannot be
        return None
    assert isinstance(found, dict)
    return {str(key): value for key, value in found.items()}


def escaped(value: Any) -> Any:
    """A resolved value as OmegaConf reads it again: what looks like an interpolation by now is none."""
    if isinstance(value, dict):
        return {key: escaped(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [escaped(inner) for inner in value]
    return value.replace("${", "\\${") if isinstance(value, str) else value


def composed_by_us(loader: ConfigLoader, master: DictConfig, cells: Sequence[Sequence[str]]) -> list[dict[str, Any] | None]:
    """The cells of one study; where one of them is refused, each by itself."""
    try:
        return [dataclasses.asdict(cell) for cell in compose_cells(loader, master, cells)]
    except UserError as error:
        if not 1 <= len(str(error).splitlines()) <= 2:
            raise AssertionError(error) from error
        return [None] if len(cells) == 1 else [cell for one in cells for cell in composed_by_us(loader, master, [one])]


def same(first: Any, second: Any) -> bool:
    return repr(first) == repr(second)  # nan is nan here


override = st.one_of(*(st.sampled_from(kind) for kind in (GROUPS, PLAIN, TIED, ADDED)))
fitting = st.one_of(
    st.sampled_from([text for text in GROUPS if text[0] != "~" and "{" not in text]),
    st.sampled_from(PLAIN),
    st.integers(1, 99).map(lambda number: f"batch_size={number}"),
    st.floats(0, 1).map(lambda number: f"study.alpha={number}"),
)
study = st.tuples(st.lists(override, max_size=3), st.lists(st.lists(fitting, max_size=3), min_size=4, max_size=4)).map(
    lambda given: [[*given[0], *cell] if index % 2 else [*cell, *given[0]] for index, cell in enumerate(given[1])]
)


def check(loader: ConfigLoader, master: DictConfig, own: Path, cells: list[list[str]]) -> None:
    expected = [composed_by_hydra(own, cell) for cell in cells]
    for cell, found, right in zip(cells, composed_by_us(loader, master, cells), expected, strict=True):
        assert same(found, right), cell


@settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cells=study)
def test_cells_are_what_hydra_composes_for_each(
    loader: ConfigLoader, master: DictConfig, own: Path, cells: list[list[str]]
) -> None:
    check(loader, master, own, cells)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(4))
def test_two_thousand_cells_are_what_hydra_composes_for_each(
    part: int, loader: ConfigLoader, master: DictConfig, own: Path
) -> None:
    @seed(part)
    @settings(max_examples=125, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(cells=study)
    def holds(cells: list[list[str]]) -> None:
        check(loader, master, own, cells)

    holds()
