"""The audit end to end on what is always installed: torch's own layers, bnstudy's, and the lecture's."""

from __future__ import annotations

import io
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from rich.console import Console
from torch import nn

from bnstudy.batchnorm.conventions import CONVENTIONS
from bnstudy.batchnorm.layers import BatchNorm2d
from bnstudy.errors import UserError
from bnstudy.frameworks.audit import registry, report, table
from bnstudy.frameworks.audit.adapters import karpathy, torch_layers
from bnstudy.frameworks.audit.agreement import largest_difference
from bnstudy.frameworks.audit.behaviour import identify
from bnstudy.frameworks.audit.command import audit
from bnstudy.frameworks.audit.experiment import Kind, observe
from bnstudy.frameworks.audit.processes import measure
from bnstudy.frameworks.audit.registry import ENTRIES, Entry, entries
from tests.pages import CONTRAST, Opened, Page

RESULTS = Path(__file__).parents[2] / "results" / "audit"


def ours(**options) -> Kind:
    def build(channels, momentum):
        return torch_layers.ModuleLayer(BatchNorm2d(channels, **({"momentum": momentum} if momentum else {}), **options))

    return Kind(build, 0.1)


@pytest.mark.parametrize("convention", [name for name, pair in CONVENTIONS.items() if pair.accumulate != "total"])
def test_our_own_layers_are_identified_as_what_they_were_built_as(convention):
    seen = observe(ours(convention=convention))
    behaviour = identify(seen)
    assert (behaviour.convention, behaviour.oddities, behaviour.remarks) == (convention, (), ())
    assert largest_difference(seen, behaviour) < 1e-6


@pytest.mark.skipif("total" not in CONVENTIONS, reason="the convention is not there yet")
def test_the_total_variance_is_no_average_of_batch_variances():
    behaviour = identify(observe(ours(convention="total")))
    assert (behaviour.convention, behaviour.normalize) == ("unknown", "biased")
    assert behaviour.oddities


def test_ghost_batches_are_none_of_the_four():
    assert identify(observe(ours(norm_batch_size=2))).convention == "unknown"


@pytest.mark.parametrize(
    ("module", "name", "convention"),
    [
        (torch_layers, "torch", "paper"),
        (torch_layers, "torch-functional", "paper"),
        (karpathy, "karpathy", "consistent_unbiased"),
        (torch_layers, "torchvision-frozen", "unknown"),
    ],
)
def test_torch_layers_are_identified(module, name, convention):
    assert identify(observe(module.kind(name))).convention == convention


def test_torch_says_what_its_documentation_says():
    behaviour = identify(observe(torch_layers.kind("torch")))
    assert (behaviour.momentum_means, behaviour.momentum_default, behaviour.weight) == ("new batch", 0.1, 0.1)
    assert (behaviour.eps, behaviour.eps_place, behaviour.eval_eps, behaviour.eval_place) == (1e-5, "inside", 1e-5, "inside")
    assert (behaviour.start_mean, behaviour.start_variance, behaviour.single) == (0.0, 1.0, "refuses (ValueError)")


def test_torch_without_momentum_averages_cumulatively():
    kind = Kind(
        lambda channels, _: torch_layers.ModuleLayer(nn.BatchNorm2d(channels, momentum=None)), None, has_momentum=False
    )
    seen = observe(kind)
    behaviour = identify(seen)
    assert (behaviour.convention, behaviour.schedule) == ("paper", "cumulative")
    assert math.isnan(behaviour.weight)
    assert largest_difference(seen, behaviour) < 1e-6


def test_a_frozen_layer_is_seen_to_normalise_by_what_it_stores():
    behaviour = identify(observe(torch_layers.kind("torchvision-frozen")))
    assert (behaviour.normalize, behaviour.accumulate) == ("stored", "nothing")
    assert (behaviour.eps, behaviour.momentum_means) == (1e-5, "no argument")


class Renamed:
    """A torch layer that is slightly wrong in one place, as a port might be."""

    def __init__(self, channels: int, factor: float) -> None:
        self.inner, self.factor = torch_layers.ModuleLayer(nn.BatchNorm2d(channels)), factor

    def train(self, x):
        y = self.inner.train(x)
        before = self.inner.read()
        self.inner.write(before.mean, before.variance * np.float32(self.factor))
        return y

    def evaluate(self, x):
        return self.inner.evaluate(x)

    def read(self):
        return self.inner.read()

    def write(self, mean, variance):
        self.inner.write(mean, variance)


def test_a_one_percent_error_in_the_stored_variance_is_not_overlooked():
    behaviour = identify(observe(Kind(lambda channels, _: Renamed(channels, 1.01), None, has_momentum=False)))
    assert behaviour.convention == "unknown"


# ---- names, processes, files --------------------------------------------------------------------------------------------


LASAGNE = Entry("lasagne", "lasagne.BatchNorm", "lasagne_layer", ("no-such-distribution|nor-this", "numpy"))


def test_names_are_layers_or_frameworks():
    assert [entry.name for entry in entries(["flax"])] == ["flax-linen", "flax-nnx"]
    assert [entry.name for entry in entries(["torch"])] == ["torch"]
    assert [entry.name for entry in entries(["torch-compile", "mlx"])] == ["torch-compile", "mlx"]
    assert entries() == ENTRIES
    assert len({entry.name for entry in ENTRIES}) == len(ENTRIES)


def test_a_wrong_name_gets_one_line_and_writes_nothing(tmp_path):
    with pytest.raises(UserError) as error:
        audit(["torch", "theano"], tmp_path)
    assert str(error.value).startswith("names: 'theano' is no audited layer or framework; use torch, torch-compile")
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_is_listed_with_its_name():
    found = measure(LASAGNE)
    assert (found.status, found.reason) == ("missing", "not installed: no-such-distribution")
    assert found.versions.keys() == {"numpy"}


def test_a_layer_that_cannot_run_is_listed_with_its_last_words():
    found = measure(Entry("not-registered", "nothing", "nothing", ("numpy",)))
    assert found.status == "failed"
    assert "'not-registered' is no audited layer" in found.reason


def test_a_layer_that_does_not_answer_is_given_up():
    found = measure(entries(["karpathy"])[0], timeout=0.01)
    assert (found.status, found.reason) == ("failed", "no answer within 0.01 s")


def test_a_time_limit_must_be_positive(tmp_path):
    with pytest.raises(UserError, match="timeout: 0 s is no time limit"):
        audit(["torch"], tmp_path, timeout=0)


@pytest.fixture(scope="module")
def audited(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    text = io.StringIO()
    code = audit(["karpathy"], folder, console=Console(file=text, width=120))
    return folder / "audit", text.getvalue(), code


def test_the_command_prints_and_writes_what_it_measured_in_a_process_of_its_own(audited):
    folder, text, code = audited
    assert code == 0
    assert "consistent_unbiased" in text
    assert sorted(path.name for path in folder.iterdir()) == [
        "frameworks.md",
        "frameworks.parquet",
        "provenance.json",
        "report.html",
    ]
    (row,) = pd.read_parquet(folder / "frameworks.parquet").to_dict("records")
    assert (row["name"], row["status"], row["convention"]) == ("karpathy", "measured", "consistent_unbiased")
    assert row["version"].split("+")[0] == torch.__version__.split("+")[0]
    assert row["difference"] < 1e-5
    assert "| karpathy" in (folder / "frameworks.md").read_text()


def test_measuring_one_layer_leaves_the_other_rows_as_they_are(audited, tmp_path):
    shutil.copytree(audited[0], tmp_path / "audit")
    assert audit(["torch-functional"], tmp_path, console=Console(file=io.StringIO())) == 0
    both = table.read(tmp_path / "audit")
    assert both["name"].tolist() == ["torch-functional", "karpathy"]
    assert both["convention"].tolist() == ["paper", "consistent_unbiased"]


def test_a_framework_asked_for_by_name_and_not_there_is_listed_and_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "ENTRIES", (*ENTRIES, LASAGNE))
    text = io.StringIO()
    assert audit([LASAGNE.name], tmp_path, console=Console(file=text)) == 1
    assert "lasagne: missing, not installed: no-such-distribution" in text.getvalue()
    assert "lasagne: missing, not installed: no-such-distribution" in report.markdown(table.read(tmp_path / "audit"))


def test_an_unreadable_earlier_table_gets_one_line(tmp_path):
    (tmp_path / "audit").mkdir()
    (tmp_path / "audit" / "frameworks.parquet").write_text("not a table")
    with pytest.raises(UserError, match="is no table of an audit"):
        audit(["torch"], tmp_path)


# ---- the page -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def odd(tmp_path):
    """An audit's folder whose table holds markup wherever a framework could put some, and one row of each status."""
    rows = table.rows(table.read(RESULTS))[:3]
    rows[0] |= {
        "layer": "<script>x</script> | `a` [/x]",
        "version": "1|2",
        "oddities": "[red]*odd*",
        "convention": "unknown",
    }
    rows[1] |= {"status": "failed", "reason": "<img src=x> | _why_", "convention": ""}
    rows[2] |= {"status": "missing", "reason": "not installed: [bold]x"}
    table.write(table.frame(rows), tmp_path / "audit")
    return tmp_path


def test_pages_are_written_again_from_the_table_and_say_what_it_says(tmp_path):
    shutil.copytree(RESULTS, tmp_path / "audit")
    (tmp_path / "audit" / "report.html").unlink()
    assert audit([], tmp_path, only_report=True, console=Console(file=io.StringIO())) == 0
    for name in ("frameworks.md", "provenance.json"):
        assert (tmp_path / "audit" / name).read_bytes() == (RESULTS / name).read_bytes()
    text, before = (" ".join(Page((folder / "report.html").read_text()).text) for folder in (tmp_path / "audit", RESULTS))
    assert text == before
    committed = table.read(RESULTS)
    assert f"{len(committed)} layers of {committed['framework'].nunique()} frameworks were measured" in text
    for name, layer in committed[["name", "layer"]].to_numpy():
        assert name in text
        assert layer in text


def test_the_page_needs_nothing_else_and_takes_names_for_text(odd):
    text = io.StringIO()
    audit([], odd, only_report=True, console=Console(file=text, width=200))
    html = (odd / "audit" / "report.html").read_text()
    page = Page(html)
    assert page.open == []
    assert "img" not in page.tags
    assert page.tags.count("script") == 1
    assert [link for link in page.links if not link.startswith(("#", "data:"))] == []
    for link in page.links:
        assert not link.startswith("#") or link[1:] in page.ids
    assert "<script>x</script> | `a` [/x]" in "".join(page.text)
    assert "failed, <img src=x> | _why_" in "".join(page.text)
    assert "[red]*odd*" in text.getvalue()
    markdown = (odd / "audit" / "frameworks.md").read_text()
    assert "<script>" not in markdown
    assert "<img" not in markdown
    (row,) = [line for line in markdown.splitlines() if line.startswith("| torch ")]
    assert len(re.findall(r"(?<!\\)\|", row)) == 16  # fifteen cells, whatever they hold


def test_a_report_of_nothing_is_refused(tmp_path):
    with pytest.raises(UserError, match="only_report: it takes no names, and a table"):
        audit([], tmp_path, only_report=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium on this machine")
def test_nothing_on_the_page_is_wider_than_a_phone_and_every_text_can_be_read():
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for width, scheme in ((390, "light"), (390, "dark"), (1280, "light")):
            shown = Opened(browser, RESULTS / "report.html", width, scheme)
            assert shown.errors == []
            assert [url for url in shown.requests if not url.startswith(("file://", "data:"))] == []
            assert shown.page.evaluate("document.documentElement.scrollWidth") <= width
            assert [entry for entry in shown.page.evaluate(CONTRAST) if entry[0] < 4.5] == []
            assert shown.page.locator("table tbody tr").count() == len(table.read(RESULTS))
        browser.close()
