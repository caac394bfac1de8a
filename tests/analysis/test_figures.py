"""Figures: valid charts of what the tables hold, and a sentence where there is nothing to draw."""

from __future__ import annotations

import re
import subprocess
import sys
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from bnstudy.analysis.figures.decomposition import decomposition_figure
from bnstudy.analysis.figures.equivalence import equivalence_figure
from bnstudy.analysis.figures.figure import NARROW, WIDE, Figure
from bnstudy.analysis.figures.gallery import figures_of
from bnstudy.analysis.figures.gap import gap_figure
from bnstudy.analysis.figures.layers import effective_figure
from bnstudy.analysis.figures.panels import across
from bnstudy.analysis.figures.ratios import convention_ratios, distance_from_theory, ratio_figure
from bnstudy.analysis.figures.renderer import png, slim
from bnstudy.analysis.figures.storage import storage_figure, storage_rows
from bnstudy.analysis.figures.theme import NULL_ARM, arm_style, ordered_arms
from bnstudy.analysis.subject import subject_of
from bnstudy.analysis.wording import amount, fixed, listed, number
from bnstudy.batchnorm.conventions import CONVENTIONS
from bnstudy.metric import metric_of
from tests.analysis.synthetic import Study, study, with_null_arm


@pytest.fixture(scope="module")
def made() -> Study:
    """Two models, three batch sizes, a margin and a null arm. Not to be changed."""
    return with_null_arm(study(models=("mlp", "resnet8"), margin=0.005))


@pytest.fixture(scope="module")
def figures(made: Study) -> dict[str, Figure]:
    return {figure.name: figure for figure in figures_of(*made)}


def texts(svg: str) -> str:
    return " ".join(ElementTree.fromstring(svg).itertext())


def test_every_figure_is_drawn_in_both_layouts_as_well_formed_svg(figures: dict[str, Figure]) -> None:
    assert list(figures) == [
        "ratio", "storage_accuracy", "storage_loss", "equivalence", "gap_accuracy", "gap_loss", "decomposition_accuracy",
        "decomposition_loss", "m_eff", "curves",
    ]  # fmt: skip
    for figure in figures.values():
        for layout in (WIDE, NARROW):
            svg = figure.svg(layout)
            width = float(ElementTree.fromstring(svg).attrib["width"])
            assert 200 < width < layout.room + 120, figure.name
            assert "NaN" not in svg
            assert "undefined" not in svg


def test_every_chart_is_valid_vega_lite(figures: dict[str, Figure]) -> None:
    for figure in figures.values():
        assert figure.chart is not None
        figure.chart.to_dict(validate=True)


def test_every_figure_says_its_seeds_and_is_described(figures: dict[str, Figure]) -> None:
    for figure in figures.values():
        assert "6 seeds" in figure.caption, figure.name
        assert len(figure.alt) > 40


def test_ids_of_two_drawings_never_meet(figures: dict[str, Figure]) -> None:
    found = [re.findall(r'\bid="([^"]+)"', figure.svg(layout)) for figure in figures.values() for layout in (WIDE, NARROW)]
    every = [one for ids in found for one in ids]
    assert len(every) == len(set(every))


def test_the_same_input_gives_the_same_bytes(made: Study, figures: dict[str, Figure]) -> None:
    again = {figure.name: figure for figure in figures_of(*made)}
    for name, figure in figures.items():
        assert again[name].svg() == figure.svg()
    assert png(figures["gap_loss"].svg()) == png(again["gap_loss"].svg())


def test_every_batch_size_is_a_tick(figures: dict[str, Figure]) -> None:
    assert {"2", "8", "32"} <= set(texts(figures["gap_accuracy"].svg()).split())


def test_a_convention_has_one_colour_in_every_figure_of_conventions(figures: dict[str, Figure]) -> None:
    for name in ("gap_accuracy", "equivalence", "curves"):
        assert arm_style("inverted")[0] in figures[name].svg()
    assert len({arm_style(name) for name in (*CONVENTIONS, NULL_ARM)}) == 6


def test_the_null_arm_is_named_and_explained(figures: dict[str, Figure]) -> None:
    assert "null arm: rounding only" in texts(figures["equivalence"].svg())
    assert "differences are rounding only" in figures["equivalence"].caption


def test_the_margin_is_a_band_only_where_one_was_declared(figures: dict[str, Figure]) -> None:
    assert "±0.50 pp" in figures["equivalence"].caption
    tables, provenance = study()
    figure = equivalence_figure(tables, subject_of(tables, provenance))
    assert "No margin was declared" in figure.caption
    assert "#dbe4ee" in figures["equivalence"].svg()
    assert "#dbe4ee" not in figure.svg()


def test_a_convention_has_the_ratios_of_its_own_training_and_population_statistic(made: Study) -> None:
    rows = convention_ratios(made[0]["layers"])
    assert set(rows["convention"]) == set(CONVENTIONS) - {"total"}  # whose statistic was not made up
    for name, own in rows.groupby("convention"):
        convention = CONVENTIONS[str(name)]
        assert set(own["normalize"]) == {convention.normalize}
        assert set(own["statistic"]) == {f"population_{convention.accumulate}"}


def test_the_distance_from_theory_is_of_deeper_layers_and_batches_of_four_and_more(made: Study) -> None:
    layers = made[0]["layers"].copy()
    assert distance_from_theory(layers).max() == pytest.approx(0, abs=1e-12)
    layers.loc[(layers["layer_index"] == 0) | (layers["m"] < 4), "predicted_ratio"] *= 5
    assert distance_from_theory(layers).max() == pytest.approx(0, abs=1e-12)
    layers.loc[layers["layer_index"] == 1, "predicted_ratio"] *= 1.1
    assert distance_from_theory(layers).max() == pytest.approx(np.log(1.1), rel=1e-9)


def test_of_several_depths_the_deepest_is_drawn_and_batch_sizes_stand_in_their_order() -> None:
    tables, provenance = study(sizes=(16, 2, 4), varying={"model_depth": (1, 3)})
    figure = ratio_figure(tables, subject_of(tables, provenance))
    assert "the deepest is drawn (3 layers)" in figure.caption
    words = texts(figure.svg())
    assert [words.index(f"batch size {size}") for size in (2, 4, 16)] == sorted(
        words.index(f"batch size {size}") for size in (2, 4, 16)
    )


def test_a_ratio_far_off_does_not_set_the_axis(made: Study) -> None:
    tables, provenance = made
    layers = tables["layers"].copy()
    layers.loc[layers.index[:3], "ratio"] = 1e6
    svg = ratio_figure(tables | {"layers": layers}, subject_of(tables, provenance)).svg()
    assert "1000" not in texts(svg)


def test_storage_is_compared_where_the_total_variance_is_what_training_divides_by(made: Study) -> None:
    rows = storage_rows(made[0]["contrasts"], "loss", "test")
    assert set(rows["weights"]) == {"biased"}
    assert len(rows) == 2 * 3 * 2  # models, batch sizes, arms
    one, about = study(conventions=("consistent_unbiased", "inverted"))
    assert set(storage_rows(one["contrasts"], "loss", "test")["weights"]) == {"unbiased"}
    assert (
        "with the unbiased variance normalising; bars are 95 % t intervals"
        in storage_figure(one, subject_of(one, about), "loss").caption
    )


def test_an_effective_size_without_end_stands_at_the_edge(made: Study) -> None:
    tables, provenance = made
    layers = tables["layers"].copy()
    layers.loc[(layers["layer_index"] == 0) & (layers["batch_size"] == 8), "m_eff"] = 1e9
    figure = effective_figure(tables | {"layers": layers}, subject_of(tables, provenance))
    assert "points with a larger m_eff stand at the upper edge" in figure.caption
    ElementTree.fromstring(figure.svg())


def test_terms_below_zero_are_stacked_below_it() -> None:
    tables, provenance = study(sizes=(2, 4))
    figure = decomposition_figure(tables, subject_of(tables, provenance), "accuracy")
    assert figure.draw is not None
    panel = figure.draw(WIDE).to_dict()["concat"][0]
    low, high = panel["layer"][0]["encoding"]["y"]["scale"]["domain"]
    rows = tables["summary"].query("split == 'train' and metric == 'accuracy' and quantity in ['lag', 'constant', 'noise']")
    sums = rows.assign(up=rows["mean"].clip(lower=0), down=rows["mean"].clip(upper=0)).groupby(["convention", "batch_size"])
    assert low <= 100 * sums["down"].sum().min()
    assert high >= 100 * sums["up"].sum().max()


def test_the_normalisation_batch_goes_along_the_axis_where_it_varies() -> None:
    tables, _ = study(sizes=(128,), varying={"norm_batch_size": (2.0, 32.0, None)})
    axis = across(tables["summary"], ("norm_batch_size",))
    assert (axis.column, axis.values, axis.kind) == ("norm_batch_size", (2.0, 32.0, 128.0), "log2")


def test_what_has_most_values_goes_along_the_axis() -> None:
    tables, provenance = study(sizes=(4, 32), varying={"momentum": (0.3, 0.03, 0.003)}, layers=1)
    axis = across(tables["summary"], ("momentum",))
    assert (axis.column, axis.values, axis.kind) == ("momentum", (0.003, 0.03, 0.3), "log10")
    shown = texts(gap_figure(tables, subject_of(tables, provenance), "accuracy").svg())
    assert "mlp on digits, batch size 4" in shown
    assert "mlp on digits, batch size 32" in shown


def test_what_else_varies_makes_panels_of_its_own() -> None:
    tables, provenance = study(sizes=(2, 8), varying={"momentum": (0.3, 0.003)}, layers=1)
    shown = texts(gap_figure(tables, subject_of(tables, provenance), "accuracy").svg())
    assert "mlp on digits, momentum 0.3" in shown
    assert "mlp on digits, momentum 0.003" in shown


def test_more_panels_than_fit_are_counted() -> None:
    tables, provenance = study(models=[f"net{index}" for index in range(14)], sizes=(2,), seeds=2, epochs=1, layers=1)
    figure = gap_figure(tables, subject_of(tables, provenance), "accuracy")
    assert "2 of 14 panels are not drawn; the data table has them." in figure.caption


def test_regression_is_drawn_in_its_own_metric() -> None:
    made = study(metrics=("r2", "mse"), metric="r2")
    names = {figure.name: figure for figure in figures_of(*made)}
    assert {"gap_r2", "gap_mse", "decomposition_r2"} <= set(names)
    assert all(figure.draw is not None for figure in names.values())
    assert "Gap in R²:" in names["gap_r2"].caption


def test_one_seed_is_drawn_without_intervals_and_says_so() -> None:
    figures = {figure.name: figure for figure in figures_of(*study(seeds=1))}
    assert all(figure.draw is not None for figure in figures.values())
    assert "With one seed there is no interval." in figures["gap_accuracy"].caption
    assert "Without at least two seeds there are no intervals." in figures["equivalence"].caption
    for figure in figures.values():
        ElementTree.fromstring(figure.svg())


def test_where_every_seed_diverged_the_figure_says_so() -> None:
    figures = {figure.name: figure for figure in figures_of(*study(seeds=3, diverged=(0, 1, 2)))}
    for name in ("gap_accuracy", "decomposition_accuracy", "equivalence", "curves"):
        assert figures[name].draw is None
        assert "diverge" in figures[name].caption


def test_baselines_alone_have_curves_and_no_gap() -> None:
    figures = {figure.name: figure for figure in figures_of(*study(conventions=(), baselines=("group", "none")))}
    assert figures["curves"].draw is not None
    assert "norm=group" in texts(figures["curves"].svg())
    assert "needs a network with BatchNorm" in figures["gap_accuracy"].caption
    assert figures["ratio"].caption.startswith("No layer was probed")


@pytest.mark.parametrize("name", ["metrics", "gaps", "generalisation", "summary", "contrasts", "layers", "jobs"])
@pytest.mark.parametrize("how", ["absent", "empty"])
def test_a_table_that_is_not_there_costs_its_figures_only(made: Study, name: str, how: str) -> None:
    tables, provenance = made
    less = {key: table for key, table in tables.items() if key != name}
    if how == "empty":
        less[name] = tables[name].iloc[:0]
    for figure in figures_of(less, provenance):
        assert figure.caption
        if figure.draw is not None:
            figure.draw(WIDE)


def test_a_name_like_markup_stays_text() -> None:
    for figure in figures_of(*study(models=("<script>alert(1)</script>",), sizes=(2, 8))):
        svg = figure.svg()
        assert "<script" not in svg
        if figure.name != "m_eff":
            assert "<script>alert(1)</script>" in texts(svg) or figure.name in ("decomposition_loss",)


def test_slimming_rounds_coordinates_and_never_text() -> None:
    assert slim('<g class="a"><text x="1.23456" role="b">1.23456</text></g>') == '<g><text x="1.23">1.23456</text></g>'
    assert slim('<path d="M0,0h0v0h0Z" stroke="x"/><path d="M1.0001,2e-7"/>') == '<path d="M1.00,2e-7"/>'


@pytest.mark.parametrize(
    ("value", "decimals", "text"),
    [(1.005, 2, "1.00"), (-1.5, 2, "−1.50"), (-0.0, 2, "0.00"), (0.00012, 2, "0.00012"), (-1e-15, 2, "0.00"),
     (float("nan"), 2, "–"), (float("inf"), 2, "∞"), (2e-7, 3, "2.0e−7")],
)  # fmt: skip
def test_numbers_are_written_for_reading(value: float, decimals: int, text: str) -> None:
    assert number(value, decimals) == text


def test_amounts_carry_the_unit_of_their_metric() -> None:
    assert amount(-0.0123, metric_of("accuracy")) == "−1.23 pp"
    assert amount(0.5, metric_of("loss")) == "0.500 nats"
    assert amount(0.5, metric_of("r2")) == "0.500"
    assert fixed(-0.0004, 3) == "0.000"
    assert listed(["a"]) == "a"
    assert listed(["a", "b", "c"]) == "a, b and c"
    assert listed(["a", "b", "c"], 2) == "a, b and 1 more"


def test_arms_stand_in_one_order() -> None:
    assert ordered_arms(["norm=none", "inverted", NULL_ARM, "other", "paper"]) == [
        "paper",
        "inverted",
        NULL_ARM,
        "norm=none",
        "other",
    ]


def test_the_figures_need_neither_torch_nor_wandb() -> None:
    code = "import sys, bnstudy.analysis.figures.gallery, bnstudy.analysis.report.write as w; "
    code += "print([m for m in ('torch', 'torchvision', 'wandb') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "[]"


def test_points_of_several_arms_stand_apart_on_the_axis() -> None:
    axis = across(pd.DataFrame({"batch_size": [2, 64]}), ())
    x = pd.Series([8.0])
    moved = [axis.dodged(x, index, 4).iloc[0] for index in range(4)]
    assert moved == sorted(moved)
    assert np.prod(moved) == pytest.approx(8.0**4)
