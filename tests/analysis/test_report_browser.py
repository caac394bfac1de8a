"""The report in a real browser: nothing asked of a network, charts drawn, tables sorted and filtered by keyboard."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bnstudy.analysis.report.write import write_report
from tests.analysis.synthetic import study, with_null_arm
from tests.pages import CONTRAST, OVERLAPS, Opened

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
sync_api = pytest.importorskip("playwright.sync_api")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A written report, with markup for a name and a long word."""
    path = tmp_path_factory.mktemp("results")
    made = study(
        models=("mlp", "<b>resnet8</b>"), name="<script>document.title='caught'</script>" + "long" * 30, margin=0.005
    )
    tables, provenance = with_null_arm(made)
    write_report(path, tables, provenance | {"failed": {"job": "x" * 200}})
    return path / "report.html"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture
def opened(browser: Any, report: Path) -> Iterator[Opened]:
    shown = Opened(browser, report)
    yield shown
    assert shown.errors == []
    shown.page.close()


def column(page: Any, table: str, index: int) -> list[str]:
    rows = page.locator(f"table[data-table={table}] tbody tr:visible")
    return [rows.nth(row).locator("td").nth(index).inner_text() for row in range(rows.count())]


def heads(page: Any, table: str) -> list[str]:
    return page.locator(f"table[data-table={table}] th button").all_inner_texts()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1200, 360])
def test_no_error_no_request_and_nothing_wider_than_the_window(browser: Any, report: Path, width: int, scheme: str) -> None:
    shown = Opened(browser, report, width, scheme)
    assert shown.errors == []
    assert [url for url in shown.requests if not url.startswith(("file://", "data:"))] == []
    assert shown.requests[0] == report.as_uri()
    assert shown.page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    shown.page.close()


@pytest.mark.parametrize("width", [1200, 360])
def test_every_chart_is_drawn_inside_the_window(browser: Any, report: Path, width: int) -> None:
    shown = Opened(browser, report, width)
    charts = shown.page.locator(".drawing:visible svg")
    assert charts.count() == 10
    for index in range(10):
        box = charts.nth(index).bounding_box()
        assert box["width"] > 200
        assert box["height"] > 100
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width
        assert charts.nth(index).locator("path, rect, line").count() > 20
    shown.page.close()


@pytest.mark.parametrize("width", [1200, 360])
def test_texts_of_a_chart_do_not_lie_on_each_other(browser: Any, report: Path, width: int) -> None:
    shown = Opened(browser, report, width)
    assert shown.page.evaluate(OVERLAPS) == []
    shown.page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_can_be_read(browser: Any, report: Path, scheme: str) -> None:
    shown = Opened(browser, report, 1200, scheme)
    found = shown.page.evaluate(CONTRAST)
    assert len(found) > 300
    assert [entry for entry in found if entry[0] < 4.5] == []
    shown.page.close()


def test_dark_mode_is_dark_and_the_button_overrules_the_system(browser: Any, report: Path) -> None:
    shown = Opened(browser, report, 1200, "dark")
    ground = "getComputedStyle(document.body).backgroundColor"
    dark = shown.page.evaluate(ground)
    shown.page.locator("#theme").focus()
    shown.page.keyboard.press("Enter")
    assert shown.page.evaluate(ground) == "rgb(255, 255, 255)" != dark
    assert shown.page.locator("#theme").inner_text() == "Theme: light"
    shown.page.keyboard.press("Enter")
    assert shown.page.evaluate(ground) == dark
    shown.page.close()


def test_a_name_like_a_script_is_shown_and_not_run(opened: Opened) -> None:
    assert opened.page.title() != "caught"
    assert opened.page.locator("h1").inner_text().startswith("<script>document.title='caught'</script>")


def test_a_column_sorts_by_keyboard_as_numbers_in_both_directions(opened: Opened) -> None:
    page = opened.page
    index = heads(page, "contrasts").index("batch size")
    button = page.locator("table[data-table=contrasts] th button").nth(index)
    button.focus()
    page.keyboard.press("Enter")
    head = page.locator("table[data-table=contrasts] th").nth(index)
    assert head.get_attribute("aria-sort") == "ascending"
    values = [int(text) for text in column(page, "contrasts", index)]
    assert values == sorted(values)
    assert values[0] < values[-1]
    page.keyboard.press("Space")
    assert head.get_attribute("aria-sort") == "descending"
    assert [int(text) for text in column(page, "contrasts", index)] == values[::-1]
    assert page.locator("table[data-table=contrasts] th[aria-sort=ascending]").count() == 0


def test_signed_numbers_sort_by_value(opened: Opened) -> None:
    index = next(at for at, head in enumerate(heads(opened.page, "contrasts")) if head.startswith("difference"))
    opened.page.locator("table[data-table=contrasts] th button").nth(index).click()
    values = [float(re.sub("−", "-", text)) for text in column(opened.page, "contrasts", index)]
    assert values == sorted(values)
    assert values[0] < 0 < values[-1]


def test_the_filter_keeps_rows_with_every_word_and_counts_them(opened: Opened) -> None:
    page = opened.page
    page.locator("#filter-contrasts").focus()
    page.keyboard.type("INVERTED mlp")
    texts = page.locator("table[data-table=contrasts] tbody tr:visible").all_inner_texts()
    assert len(texts) == 3
    assert all("inverted" in text and "mlp" in text for text in texts)
    assert page.locator("#table-contrasts .count").inner_text() == "3 of 18 rows"
    page.keyboard.press("Control+a")
    page.keyboard.press("Delete")
    assert page.locator("table[data-table=contrasts] tbody tr:visible").count() == 18


def test_the_first_tab_stop_skips_to_the_answer_and_focus_is_seen(opened: Opened) -> None:
    page = opened.page
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the answer"
    assert page.evaluate("document.activeElement.getBoundingClientRect().top >= 0")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    assert page.evaluate("location.hash") == "#main"
    for _ in range(12):
        page.keyboard.press("Tab")
        assert page.evaluate("getComputedStyle(document.activeElement).outlineWidth") == "3px"
