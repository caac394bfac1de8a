"""A diagnosis on a terminal: everything that matters, in 80 columns, in words rather than colours."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable
from dataclasses import replace

import pytest
from rich.console import Console

from bnstudy.diagnosis.account import verdict
from bnstudy.diagnosis.layer_columns import choose
from bnstudy.diagnosis.measured import short, with_error
from bnstudy.diagnosis.result import KINDS, Diagnosis, Finding
from bnstudy.diagnosis.terminal import MOST_LAYERS, print_diagnosis
from bnstudy.metric import metric_of
from tests.diagnosis import samples

Maker = Callable[[], Diagnosis]
EVERY = pytest.mark.parametrize("make", samples.EVERY, ids=lambda make: make.__name__)


def said(diagnosis: Diagnosis, width: int = 80, colour: bool = False) -> str:
    text = io.StringIO()
    system = "standard" if colour else None
    print_diagnosis(Console(file=text, width=width, force_terminal=colour, color_system=system), diagnosis)
    return text.getvalue()


def joined(text: str) -> str:
    """On one line, whatever the wrapping."""
    return " ".join(text.split())


@EVERY
@pytest.mark.parametrize("width", [60, 80, 200])
def test_no_line_is_longer_than_the_window_or_a_hundred_columns(make: Maker, width: int) -> None:
    assert max(len(line) for line in said(make(), width).splitlines()) <= min(width, 100)


@EVERY
def test_every_finding_has_title_summary_evidence_and_remedy(make: Maker) -> None:
    diagnosis = make()
    text = joined(said(diagnosis))
    for number, finding in enumerate(diagnosis.findings, start=1):
        assert re.search(rf"{number}\. . {re.escape(finding.title)}", text)
        for part in (finding.summary, *(f"• {line}" for line in finding.evidence), f"→ {finding.remedy}"):
            assert part in text


@EVERY
def test_without_colour_the_same_is_said(make: Maker) -> None:
    diagnosis = make()
    assert re.sub(r"\x1b\[[0-9;]*m", "", said(diagnosis, colour=True)) == said(diagnosis)


def test_the_first_line_is_the_verdict() -> None:
    first = {make.__name__: said(make()).splitlines()[0] for make in samples.EVERY}
    assert first["healthy"] == "✓ Healthy: nothing is wrong with the BatchNorm statistics"
    assert first["three"] == "✗ Momentum too large for the batch size"
    assert first["unlabelled"] == "? Not separable with this much data"


def test_the_verdict_says_which_mode_is_worse_only_where_it_is_known_and_certain() -> None:
    assert verdict(samples.three()).sentences[0] == (
        "Accuracy is 81.27 % in evaluation mode and 94.33 % on the batch’s own statistics, as in training: "
        "worse by 13.06 pp ± 0.26."
    )
    assert "a difference of −0.05 pp ± 0.17" in verdict(samples.healthy()).sentences[0]
    assert "a difference of −0.141 ± 0.011" in verdict(samples.unlabelled()).sentences[0]
    assert "a difference of 0.090." in verdict(samples.single()).sentences[0]


def test_a_lower_loss_is_better() -> None:
    diagnosis = samples.three()
    loss = replace(diagnosis, setting={**diagnosis.setting, "metric": "loss", "direction": "lower"})
    assert "worse by 0.504 nats" in verdict(loss).sentences[0]
    assert "better by" in verdict(replace(loss, setting={"metric": "loss", "direction": "higher"})).sentences[0]


def test_a_metric_that_is_not_a_number_is_told() -> None:
    assert "Accuracy is not a number in evaluation mode; on the batch’s own statistics it is 94.33 %." in joined(
        said(samples.broken())
    )
    assert "Loss is not a number in either mode." in said(samples.nothing())
    assert "accuracy is not a number" in said(samples.broken())


@EVERY
def test_metrics_and_terms_stand_with_their_errors(make: Maker) -> None:
    diagnosis = make()
    lines = [joined(line) for line in said(diagnosis).splitlines()]
    for metric in dict.fromkeys(diagnosis.levels["metric"]):
        for name in ("bessel", "lag", "pooling", "noise", "gap", "other"):
            shown = diagnosis.term(metric, name).change(metric).partition(" ± ")[0]
            assert any(line.startswith(f"{name} ") and shown in line for line in lines), name
    assert samples.three().level("accuracy", "own").level("accuracy") == "81.27 % ± 0.51"
    assert any("81.27 % ± 0.51 0.692 nats ± 0.014" in joined(line) for line in said(samples.three()).splitlines())


def test_one_batch_has_no_errors() -> None:
    path = said(samples.single()).partition("From evaluation")[2].partition("Layers")[0]
    assert "±" not in path
    assert "nan" not in said(samples.single()).lower()


def test_a_term_that_is_zero_by_definition_has_no_error() -> None:
    assert samples.healthy().term("accuracy", "bessel").change("accuracy") == "0.00 pp"
    assert " ± " in samples.three().term("accuracy", "bessel").change("accuracy")


def test_metrics_that_do_not_fit_side_by_side_stand_one_below_the_other() -> None:
    diagnosis = samples.three()
    levels, terms = samples.levels_and_terms(
        {f"metric_number_{at}": (samples.conditions(1, 1, 2, 1, 1), 0.1) for at in range(5)}
    )
    text = said(replace(diagnosis, levels=levels, terms=terms))
    assert all(f"metric_number_{at}" in text for at in range(5))
    assert text.count("From evaluation mode to training mode") == 3


def test_of_many_layers_those_that_matter_are_shown_and_the_rest_is_counted() -> None:
    diagnosis = samples.deep()
    chosen = choose(diagnosis, MOST_LAYERS)
    names = list(chosen.rows["layer"])
    assert len(names) == MOST_LAYERS
    assert set(names) == set(diagnosis.layers.nlargest(MOST_LAYERS, "swap_distance")["layer"])
    assert names == [name for name in diagnosis.layers["layer"] if name in names]
    text = said(diagnosis)
    assert "Layers: 8 of 161" in text
    assert "153 more layers" in text


def test_layers_that_a_finding_names_are_always_among_them() -> None:
    diagnosis = samples.deep()
    quiet = str(diagnosis.layers.nsmallest(1, "swap_distance")["layer"].iloc[0])
    finding = Finding("dead_channels", "Some.", (), "None.", (quiet,))
    chosen = choose(replace(diagnosis, findings=(*diagnosis.findings, finding)), MOST_LAYERS)
    assert quiet in set(chosen.rows["layer"])
    assert "finding names" in chosen.why


def test_without_swaps_the_distance_beside_luck_chooses() -> None:
    diagnosis = samples.deep()
    layers = diagnosis.layers.assign(swap_distance=math.nan)
    chosen = choose(replace(diagnosis, layers=layers), 5)
    beyond = (layers["distance"] / layers["distance_expected"]).nlargest(5).index
    assert sorted(chosen.rows.index) == sorted(beyond)
    bare = replace(diagnosis, layers=layers[["layer", "type", "channels", "m"]])
    assert choose(bare, 5).why == "that run first"
    said(bare)


def test_dead_and_broken_channels_and_shared_layers_are_told() -> None:
    assert "3 dead channels" in said(samples.three())
    assert "2 calls per pass" in said(samples.three())
    assert "2 channels with statistics that no data can have" in joined(said(samples.broken()))


def test_names_like_markup_stay_text() -> None:
    assert samples.EVIL in joined(said(samples.unlabelled(), 200))


@EVERY
def test_the_setting_is_told_and_nothing_else_is_needed(make: Maker) -> None:
    diagnosis = make()
    text = joined(said(diagnosis))
    if diagnosis.setting:
        assert "How it was measured" in text
        assert "torch 2.11.0" in text
        assert "Seed: 0" in text


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_finding_makes_a_headline(kind: str) -> None:
    diagnosis = replace(samples.three(), findings=(Finding(kind, "Something.", (), "Something else."),))
    assert (KINDS[kind] in verdict(diagnosis).headline) or kind == "healthy"
    assert said(diagnosis)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0032, "0.0032"), (0.996, "0.996"), (8.486, "8.49"), (74.92, "74.9"), (7478.6, "7,479"), (0.0, "0"), (-2.5, "−2.50"),
     (math.inf, "∞"), (math.nan, "–"), (3.2e9, "3.20e9"), (2e-9, "2.0e−9"), (5e-5, "0.000050")],
)  # fmt: skip
def test_numbers_of_any_size_are_short(value: float, text: str) -> None:
    assert short(value) == text


def test_a_number_has_no_more_digits_than_its_error() -> None:
    assert with_error(8.48641, 0.0341) == "8.486 ± 0.034"
    assert with_error(7478.6, 1303.9) == "7,479 ± 1,304"
    assert with_error(8.48641, math.nan) == "8.49"
    assert with_error(math.nan, 1.0) == "–"


def test_metrics_without_a_known_unit_are_written_as_stored() -> None:
    assert metric_of(samples.EVIL).factor == 1
    assert samples.unlabelled().level(samples.EVIL, "batch").level(samples.EVIL) == "12345.678 ± 81.000"
