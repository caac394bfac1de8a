"""Every preset composes, at both scales, into cells that can be trained and comparisons that they can answer."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml

from bnstudy.analysis.verdicts import declared_family
from bnstudy.sweeps.axes import study_cells
from bnstudy.sweeps.checks import check_cell, seed_list
from bnstudy.sweeps.identity import training_id
from bnstudy.sweeps.plan import Cell, cell_fields

FOLDER = Path(__file__).parents[2] / "experiments"
NAMES = sorted(path.stem for path in FOLDER.glob("*.yaml"))


@pytest.mark.parametrize("scale", ["standard", "full"])
@pytest.mark.parametrize("name", NAMES)
def test_a_preset_composes_and_its_family_fits_its_cells(name: str, scale: str) -> None:
    cells = study_cells([f"+experiments={name}", f"scale={scale}", "device=cpu"])
    shapes = [check_cell(cell) for cell in cells]
    assert all(cell.batch_size <= shape.train_samples for cell, shape in zip(cells, shapes, strict=True))
    recorded = [{"training": training_id(cell), "fields": cell_fields(Cell(cell, "", ()))} for cell in cells]
    family = declared_family(dataclasses.asdict(cells[0].study), recorded)
    assert family.size
    assert family.metric
    assert family.margin is not None
    assert {cell.name for cell in cells} == {name if scale == "standard" else f"{name}_full"}


@pytest.mark.parametrize("name", NAMES)
def test_full_scale_is_larger(name: str) -> None:
    standard, full = (
        sum(len(seed_list(cell.seeds)) * cell.epochs for cell in study_cells([f"+experiments={name}", f"scale={scale}"]))
        for scale in ("standard", "full")
    )
    assert full > standard


def test_what_the_user_gives_overrules_the_scale() -> None:
    cells = study_cells(["+experiments=quick", "scale=full", "seeds=3", "batch_size=4,8"])
    assert {(cell.seeds, cell.batch_size) for cell in cells} == {(3, 4), (3, 8)}
    assert cells[0].epochs != study_cells(["+experiments=quick"])[0].epochs


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_says_at_its_head_what_it_asks_and_how_it_is_run(name: str) -> None:
    text = (FOLDER / f"{name}.yaml").read_text()
    head = text.partition("\nstudy:")[0]
    content: dict[str, Any] = yaml.safe_load(text)
    assert next(iter(content)) == "study"
    assert f"bnstudy run +experiments={name}" in head
    for word in ("Primary metric: ", "Margin: ", "Family: ", " core"):
        assert word in head, word
    assert f"Margin: {content['study']['margin']}." in head
    assert content["study"]["question"].endswith("?")
    assert content["study"]["hypothesis"].endswith(".")
    assert "ypothesis" not in head  # one text of it, the one that is recorded


def test_a_preset_without_a_data_set_of_its_own_takes_another_one() -> None:
    cells = study_cells(["+experiments=quick", "dataset=gaussian"])
    assert {cell.dataset.name for cell in cells} == {"gaussian"}
