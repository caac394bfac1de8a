"""Axes become cells: which combinations there are, in which order, and what cannot be an axis."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra._internal.config_loader_impl import ConfigLoaderImpl

from bnstudy.errors import UserError
from bnstudy.sweeps.axes import MOST_CELLS, cell_yaml, study_cells
from bnstudy.sweeps.planning import plan_study

OWN = """\
# @package _global_
name: own
hydra:
  mode: MULTIRUN
  sweeper:
    params:
      model: mlp,tied
      batch_size: 4,8
seeds: ${scaled:2,16}
norm_batch_size: ${batch_size}
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A folder of a user's own configuration: an experiment, and a model whose width is the batch size."""
    folder = tmp_path / "it's mine"
    for group in ("experiments", "model"):
        (folder / group).mkdir(parents=True)
    (folder / "experiments" / "own.yaml").write_text(OWN)
    (folder / "model" / "tied.yaml").write_text("name: tied\narchitecture: mlp\nwidth: ${batch_size}\n")
    return folder


def sizes(cells: list[Any]) -> list[tuple[str, int, int]]:
    return [(cell.model.name, cell.batch_size, cell.model.width) for cell in cells]


def test_a_key_tied_to_an_axis_follows_it() -> None:
    cells = study_cells(["model.width=${batch_size}", "batch_size=4,8"], multirun=True)
    assert sizes(cells) == [("mlp", 4, 4), ("mlp", 8, 8)]


def test_an_experiment_of_ones_own_is_found_with_its_axes_and_its_ties(own: Path) -> None:
    cells = study_cells(["+experiments=own"], folder=own)
    assert sizes(cells) == [("mlp", 4, 128), ("mlp", 8, 128), ("tied", 4, 4), ("tied", 8, 8)]
    assert [(cell.norm_batch_size, cell.seeds) for cell in cells] == [(4, 2), (8, 2), (4, 2), (8, 2)]
    assert {cell.seeds for cell in study_cells(["+experiments=own", "scale=full"], folder=own)} == {16}


def test_an_axis_given_takes_the_place_of_the_experiments(own: Path) -> None:
    assert sizes(study_cells(["+experiments=own", "batch_size=16"], folder=own)) == [("mlp", 16, 128), ("tied", 16, 16)]
    assert sizes(study_cells(["+experiments=own", "model=mlp"], folder=own)) == [("mlp", 4, 128), ("mlp", 8, 128)]
    assert len(study_cells(["+experiments=own", "hydra.mode=RUN"], folder=own)) == 1


@pytest.mark.parametrize(
    ("axis", "values"),
    [("2,4", [2, 4]), ("range(2,8,2)", [2, 4, 6]), ("choice(8,2)", [8, 2]), ("sort(8,2)", [2, 8]), ("16", [16])],
)
def test_axes_are_written_in_hydras_grammar(axis: str, values: list[int]) -> None:
    assert [cell.batch_size for cell in study_cells([f"batch_size={axis}"], multirun=True)] == values


def test_choices_of_a_group_can_be_matched() -> None:
    cells = study_cells(["variance=glob(consistent*)"], multirun=True)
    assert [cell.variance.name for cell in cells] == [
        "consistent_biased",
        "consistent_biased_rescaled",
        "consistent_unbiased",
    ]


def test_the_last_axis_runs_fastest() -> None:
    cells = study_cells(["model=mlp,resnet8", "batch_size=2,4", "eps=0.1,0.2"], multirun=True)
    pairs = [(cell.model.name, cell.batch_size, cell.eps) for cell in cells]
    assert pairs == [(model, size, eps) for model in ("mlp", "resnet8") for size in (2, 4) for eps in (0.1, 0.2)]


def test_hydras_own_launcher_and_sweeper_change_nothing() -> None:
    plain = study_cells(["batch_size=2,4"], multirun=True)
    assert study_cells(["batch_size=2,4", "hydra/launcher=basic", "hydra/sweeper=basic"], multirun=True) == plain


def test_what_is_drawn_while_composing_is_drawn_once_a_study() -> None:
    cells = study_cells(["name=at_${now:%H%M%S%f}", "batch_size=2,4,8"], multirun=True)
    assert len({cell.name for cell in cells}) == 1


@pytest.mark.parametrize(
    ("overrides", "most"), [(["+experiments=quick", "variance=paper,karpathy"], 4), (["model.width=${batch_size}"], 1)]
)
def test_a_large_sweep_composes_once_a_choice_of_groups(
    overrides: list[str], most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    composed: list[Any] = []
    real = ConfigLoaderImpl.load_sweep_config
    monkeypatch.setattr(ConfigLoaderImpl, "load_sweep_config", lambda *given: composed.append(given) or real(*given))
    cells = study_cells([*overrides, "batch_size=range(2,202)"], multirun=True)
    assert len(cells) == 200 * most
    assert len(composed) == most


def test_more_cells_than_anybody_means_are_refused() -> None:
    with pytest.raises(UserError, match=f"^batch_size: more than {MOST_CELLS:,} cells; use shorter axes$"):
        study_cells(["batch_size=range(2,400)", "model.width=range(1,300)"], multirun=True)


@pytest.mark.parametrize("launcher", ["launcher", "sweeper"])
def test_a_runner_that_yaml_asks_for_is_refused_as_well(own: Path, launcher: str) -> None:
    (own / "hydra" / launcher).mkdir(parents=True)
    (own / "hydra" / launcher / "another.yaml").write_text("_target_: os.system\n")
    text = f"defaults:\n  - override /hydra/{launcher}: another\n"
    (own / "experiments" / "own.yaml").write_text(OWN.replace("name: own\n", f"{text}name: own\n"))
    with pytest.raises(UserError, match=f"^hydra/{launcher}: another cannot run a study"):
        study_cells(["+experiments=own"], folder=own)


def test_callbacks_that_yaml_asks_for_are_refused(own: Path) -> None:
    text = OWN.replace("  mode: MULTIRUN\n", "  mode: MULTIRUN\n  callbacks:\n    mine:\n      _target_: os.system\n")
    (own / "experiments" / "own.yaml").write_text(text)
    with pytest.raises(UserError, match=r"^hydra.callbacks: Hydra's callbacks have no part"):
        study_cells(["+experiments=own"], folder=own)


@pytest.mark.parametrize(
    ("tie", "key"),
    [("study.margin=${eps}", "study.margin"), ("engine.workers=${batch_size}", "engine.workers"), ("name=m${eps}", "name")],
)
def test_a_studys_own_keys_may_not_follow_an_axis(tie: str, key: str) -> None:
    cells = study_cells([tie, "eps=1,2", "batch_size=2,4"], multirun=True)
    with pytest.raises(UserError, match=f"^{key}: differs between the cells of one study; use one value$"):
        plan_study(cells)


def test_the_configuration_of_a_cell_is_shown_as_composed_or_resolved() -> None:
    shown = yaml.safe_load(cell_yaml(["model.width=${batch_size}", "variance=karpathy"]))
    assert (shown["model"]["width"], shown["variance"]["name"]) == ("${batch_size}", "consistent_unbiased")
    resolved = yaml.safe_load(cell_yaml(["model.width=${batch_size}", "batch_size=4"], resolve=True))
    assert resolved["model"]["width"] == resolved["batch_size"] == 4
    assert "hydra" not in shown | resolved
