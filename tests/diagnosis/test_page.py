"""A diagnosis as a page: complete, escaped, the same to the byte, and at home in a real browser."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from altair.utils.schemapi import debug_mode
from hypothesis import given, settings
from hypothesis import strategies as st

from bnstudy.analysis.figures.figure import NARROW, WIDE, Figure
from bnstudy.diagnosis.figures.by_layer import MOST_NAMED, log_axis, logarithmic, shortened
from bnstudy.diagnosis.figures.statistics import effective_figure, stored_figure, swap_figure
from bnstudy.diagnosis.figures.waterfall import steps, waterfall_figure
from bnstudy.diagnosis.machine import from_json, to_json
from bnstudy.diagnosis.page import coded, html, write_diagnosis
from bnstudy.diagnosis.result import CONDITIONS, TERMS, Diagnosis
from bnstudy.errors import UserError
from tests.diagnosis import samples
from tests.pages import CONTRAST, OVERLAPS, Opened, Page

FIGURES: dict[str, Callable[[Diagnosis], Figure]] = {
    "waterfall": waterfall_figure,
    "m_eff": effective_figure,
    "stored": stored_figure,
    "swaps": swap_figure,
}
DRAWN = {"healthy": 4, "three": 4, "unlabelled": 3, "broken": 4, "deep": 4, "single": 3, "nothing": 0}


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every sample's page. Not to be changed."""
    folder = tmp_path_factory.mktemp("pages")
    return {make.__name__: write_diagnosis(folder / make.__name__, make())[0] for make in samples.EVERY}


@pytest.mark.parametrize("name", DRAWN)
def test_the_page_is_well_formed_and_every_link_stays_in_it(pages: dict[str, Path], name: str) -> None:
    page = Page(pages[name].read_text())
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))
    assert page.tags.count("script") == 1
    for link in page.links:
        assert link == "data:," or (link.startswith("#") and link[1:] in page.ids), link
    assert page.tags.count("svg") == 2 * DRAWN[name]


@pytest.mark.parametrize("name", DRAWN)
def test_verdict_findings_terms_layers_and_setting_are_there(pages: dict[str, Path], name: str) -> None:
    diagnosis: Diagnosis = getattr(samples, name)()
    text = " ".join(" ".join(Page(pages[name].read_text()).text).split())
    for finding in diagnosis.findings:
        for part in (finding.title, finding.summary, *finding.evidence, finding.remedy, *finding.layers):
            assert " ".join(re.sub(r"`", " ", part).split()) in text.replace("`", " ").replace(" .", ".") or "`" in part
    for word in (*TERMS, "gap", "other", *diagnosis.levels["condition"], *diagnosis.layers["layer"]):
        assert str(word) in text
    for part in ("torch 2.11.0", f"{diagnosis.setting['samples']:,} samples") if diagnosis.setting else ():
        assert part in text


def test_command_and_remedies_are_told(pages: dict[str, Path]) -> None:
    text = " ".join(Page(pages["three"].read_text()).text)
    assert "bnstudy diagnose --model torchvision.models:resnet18" in text
    assert "mended.safetensors" in text
    assert "accuracy: 81.27 % to 93.81 %, gain 12.54 pp ± 0.31" in text


def test_the_same_diagnosis_gives_the_same_bytes_also_after_reading_it_back(pages: dict[str, Path], tmp_path: Path) -> None:
    for name in ("three", "broken"):
        stored = from_json((pages[name].parent / "diagnosis.json").read_text())
        for path in write_diagnosis(tmp_path, stored):
            assert path.read_bytes() == (pages[name].parent / path.name).read_bytes()


def test_both_files_are_written_and_nothing_else(tmp_path: Path) -> None:
    written = write_diagnosis(tmp_path / "new" / "folder", samples.single())
    assert [path.name for path in written] == ["diagnosis.html", "diagnosis.json"]
    assert sorted((tmp_path / "new" / "folder").iterdir()) == written
    assert to_json(samples.single()) + "\n" == written[1].read_text()


def test_a_folder_that_cannot_be_written_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"^folder: '.*file/x' cannot be written \(.*\); use another folder$"):
        write_diagnosis(tmp_path / "file" / "x", samples.nothing())


def test_every_string_stays_text(tmp_path: Path) -> None:
    evil = samples.EVIL
    three = samples.three()
    finding = replace(three.findings[0], summary=evil, evidence=(evil,), remedy=evil, layers=(evil,))
    layers = three.layers.assign(layer=[f"{evil}{at}" for at in range(len(three.layers))]).rename(
        columns={"swap_loss": f"swap_{evil}"}
    )
    renamed = {name: frame.replace({"metric": {"loss": evil}}) for name, frame in
               (("levels", three.levels), ("terms", three.terms))}  # fmt: skip
    setting = {**three.setting, "model": evil, "command": evil, "device": evil, evil: evil, "versions": {evil: evil}}
    source = html(replace(three, findings=(finding,), layers=layers, setting=setting, **renamed))
    page = Page(source)
    assert page.tags.count("script") == 1
    assert page.open == []
    assert "49" not in re.findall(r"<h1>(.*?)</h1>", source)[0]
    assert "<script>alert" not in source
    assert " ".join(page.text).count("alert('x')") > 20


def test_backquotes_make_code_and_nothing_else_does() -> None:
    assert coded("a `b<c` d` <e>") == "a <code>b&lt;c</code> d` &lt;e&gt;"


def test_the_policy_of_the_page_allows_its_own_script_only(pages: dict[str, Path]) -> None:
    source = pages["three"].read_text()
    assert re.search(r"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-[\w+/=]+'", source)
    assert not re.search(r"https?://(?!www\.w3\.org)", source)


@pytest.mark.parametrize("make", samples.EVERY, ids=lambda make: make.__name__)
@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_drawn_or_says_why_not(make: Callable[[], Diagnosis], name: str) -> None:
    figure = FIGURES[name](make())
    assert figure.name == name
    assert len(figure.caption) > 40
    assert "nan" not in figure.caption.lower().split()
    if figure.draw is None:
        assert figure.caption.startswith("No ")
        return
    assert len(figure.alt) > 30
    for layout in (WIDE, NARROW):
        chart = figure.draw(layout)
        chart.to_dict(validate=True)
        svg = figure.svg(layout)
        assert 200 < float(ElementTree.fromstring(svg).attrib["width"]) < layout.room + 130
        assert "NaN" not in svg
        assert "undefined" not in svg


def test_the_waterfall_joins_each_level_to_the_next() -> None:
    frame = steps(samples.three(), "accuracy").set_index("key")
    assert list(frame.index) == ["own", "bessel", "lag", "pooling", "noise", "batch", "other", "train"]
    ends = frame["end"].tolist()
    starts = frame["start"].tolist()
    for end, start in zip(ends, starts[1:], strict=False):
        assert start == pytest.approx(end, abs=1e-9)
    assert starts[0] == pytest.approx(81.27)
    assert ends[-1] == pytest.approx(91.02)
    assert frame.loc["lag", "high"] - frame.loc["lag", "start"] == pytest.approx(0.51 * 0.36)


def test_what_is_known_of_the_waterfall_is_drawn_where_evaluation_is_not_a_number() -> None:
    frame = steps(samples.broken(), "accuracy").set_index("key")
    assert frame["start"].notna().to_dict() == dict.fromkeys(("own", "bessel", "lag"), False) | dict.fromkeys(
        ("pooling", "noise", "batch", "other", "train"), True
    )
    assert frame.loc["noise", "end"] == pytest.approx(94.33)
    assert "not a number" in frame.loc["own", "text"]
    assert "is left out" in waterfall_figure(samples.broken()).caption


def test_few_layers_have_their_names_and_many_have_numbers() -> None:
    few, many = (ElementTree.fromstring(swap_figure(make()).svg()) for make in (samples.healthy, samples.deep))
    assert "layer4.1.bn2" in " ".join(few.itertext())
    assert len(samples.deep().layers) > MOST_NAMED
    assert "160" in " ".join(many.itertext()).split()
    assert "features.denseblock2.denselayer11.norm1" in swap_figure(samples.deep()).caption


def test_layers_that_cannot_be_drawn_are_counted() -> None:
    broken = samples.broken()
    assert "1 layer without a finite m_eff is left out" in effective_figure(broken).caption
    assert "1 layer without finite stored statistics is left out" in stored_figure(broken).caption
    assert "outputs that are not finite (1 layer)" in swap_figure(broken).caption


def test_a_name_is_shortened_in_the_middle() -> None:
    short = shortened("features.denseblock4.denselayer16.norm2", 20)
    assert len(short) == 20
    assert short.startswith("featur")
    assert short.endswith("layer16.norm2"[-12:])
    assert "…" in short
    assert shortened("short", 20) == "short"


@given(st.floats(1e-8, 1e8), st.floats(1.0001, 1e12), st.integers(3, 9))
def test_a_logarithmic_axis_has_few_ticks_inside_its_ends(low: float, span: float, most: int) -> None:
    ticks = log_axis(low, low * span, most).to_dict()["values"]
    assert 1 <= len(ticks) <= most
    assert all(low * 0.999 <= tick <= low * span * 1.001 for tick in ticks)


@given(st.lists(st.floats(1e-8, 1e8), min_size=1, max_size=5), st.integers(3, 9))
def test_a_logarithmic_axis_holds_all_values(values: list[float], most: int) -> None:
    low, high = logarithmic("what", values, most).scale.to_dict()["domain"]
    assert 0 < low < min(values) <= max(values) < high


@settings(max_examples=15)
@given(st.integers(0, 2**32 - 1))
def test_whatever_is_not_measured_every_figure_has_a_chart_or_a_reason(seed: int) -> None:
    draw = np.random.default_rng(seed)
    odd = np.asarray([math.nan, math.inf, 0.0, 1e-12, 1.0, 7.5, 1e12])
    diagnosis = samples.three()
    layers = diagnosis.layers.head(int(draw.integers(1, 4)))
    layers = layers[[name for name in layers if name in ("layer", "m") or draw.random() < 0.8]]
    numbers = [name for name in layers if name not in ("layer", "type", "m")]
    layers = layers.assign(**{name: draw.choice(odd, len(layers)) for name in numbers})
    levels, terms = (
        frame.assign(value=draw.choice(odd, len(frame)), error=draw.choice(odd, len(frame)))
        for frame in (diagnosis.levels, diagnosis.terms)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # inf - inf of these made-up terms
        for make in FIGURES.values():
            figure = make(replace(diagnosis, layers=layers, levels=levels, terms=terms))
            assert figure.caption
            if figure.draw is not None:
                with debug_mode(False):  # as in drawing: slow checks are for other tests
                    chart = figure.draw(NARROW if seed % 2 else WIDE).to_dict(validate=False)
                json.dumps(chart, allow_nan=False)


def test_no_layer_at_all_is_told() -> None:
    page = Page(html(replace(samples.healthy(), layers=samples.healthy().layers.iloc[:0])))
    assert "There are no rows to show." in " ".join(page.text)


def test_presenting_a_diagnosis_needs_no_torch() -> None:
    code = (
        "import sys, bnstudy.diagnosis.terminal, bnstudy.diagnosis.page; "
        "print([m for m in ('torch', 'torchvision', 'wandb') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "[]"


def test_conditions_are_in_the_order_of_the_path(pages: dict[str, Path]) -> None:
    source = pages["three"].read_text()
    found = re.findall(r'<th scope="row">(\w+)<span>', source)
    assert set(found[:6]) == set(CONDITIONS)
    assert found == [
        "own",
        "ema_unbiased",
        "population_unbiased",
        "population_total",
        "batch",
        "train",
        *TERMS,
        "gap",
        "other",
    ]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium on this machine")
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.mark.slow
@pytest.mark.parametrize("name", DRAWN)
@pytest.mark.parametrize("width", [1200, 360])
def test_no_error_no_request_nothing_too_wide_and_no_text_on_another(
    browser: Any, pages: dict[str, Path], name: str, width: int
) -> None:
    shown = Opened(browser, pages[name], width)
    assert shown.errors == []
    assert [url for url in shown.requests if url != pages[name].as_uri() and not url.startswith("data:")] == []
    assert shown.page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    charts = shown.page.locator(".drawing:visible svg")
    assert charts.count() == DRAWN[name]
    for index in range(charts.count()):
        box = charts.nth(index).bounding_box()
        assert box["width"] > 200
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width
    assert shown.page.evaluate(OVERLAPS) == []
    shown.page.close()


@pytest.mark.slow
@pytest.mark.parametrize("width", [1200, 360])
@pytest.mark.parametrize("name", ["three", "broken", "unlabelled"])
def test_no_text_of_a_chart_is_cut_off(browser: Any, pages: dict[str, Path], name: str, width: int) -> None:
    shown = Opened(browser, pages[name], width)
    cut = shown.page.evaluate(
        """() => [...document.querySelectorAll(".drawing svg")].filter((svg) => svg.checkVisibility()).flatMap((svg) => {
          const room = svg.getBoundingClientRect();
          return [...svg.querySelectorAll("text")].filter((text) => { const box = text.getBoundingClientRect();
            return box.left < room.left - 1 || box.right > room.right + 1; }).map((text) => text.textContent); })"""
    )
    assert cut == []
    shown.page.close()


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["three", "unlabelled", "healthy"])
def test_every_text_can_be_read(browser: Any, pages: dict[str, Path], name: str, scheme: str) -> None:
    shown = Opened(browser, pages[name], 1200, scheme)
    found = shown.page.evaluate(CONTRAST)
    assert len(found) > 100
    assert [entry for entry in found if entry[0] < 4.5] == []
    shown.page.close()


@pytest.mark.slow
def test_layers_sort_by_keyboard_as_numbers_and_infinity_is_the_largest(browser: Any, pages: dict[str, Path]) -> None:
    shown = Opened(browser, pages["broken"])
    page = shown.page
    heads = page.locator("table[data-table=layers] th button").all_inner_texts()
    index = heads.index("outputs moved by")
    button = page.locator("table[data-table=layers] th button").nth(index)
    button.focus()
    page.keyboard.press("Enter")
    cells = page.locator(f"table[data-table=layers] tbody tr td:nth-child({index + 1})").all_inner_texts()
    values = [math.inf if text == "∞" else float(text.removesuffix(" %")) for text in cells]
    assert values == sorted(values)
    assert values[-1] == math.inf
    ratio = heads.index("variance ratio")
    for _ in range(2):
        page.locator("table[data-table=layers] th button").nth(ratio).click()
        last = page.locator(f"table[data-table=layers] tbody tr:last-child td:nth-child({ratio + 1})").inner_text()
        assert last == "–"
    assert shown.errors == []
    page.close()


@pytest.mark.slow
def test_the_filter_finds_a_layer_among_many_and_the_list_of_a_finding_opens(browser: Any, pages: dict[str, Path]) -> None:
    shown = Opened(browser, pages["deep"], 360, "dark")
    shown.page.locator("#filter-layers").fill("denseblock2 denselayer11.norm1")
    assert shown.page.locator("table[data-table=layers] tbody tr:visible").count() == 1
    assert shown.page.locator("#table-layers .count").inner_text() == "1 of 161 rows"
    shown.page.locator(".finding summary").click()
    assert shown.page.locator(".finding .names li:visible").count() == 161
    assert shown.page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    assert shown.errors == []
    shown.page.close()
