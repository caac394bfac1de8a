"""The report: complete, escaped, the same to the byte, and honest about what is not there."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from bnstudy.analysis.report.answer import answer_of
from bnstudy.analysis.report.content import content_of
from bnstudy.analysis.report.latex import latex
from bnstudy.analysis.report.notices import notices
from bnstudy.analysis.report.page import html, plain
from bnstudy.analysis.report.sheets import MOST_ROWS, sheets
from bnstudy.analysis.report.write import write_report
from bnstudy.analysis.subject import subject_of
from bnstudy.errors import UserError
from bnstudy.sweeps.store import write_json
from tests.analysis.synthetic import Study, study, with_null_arm
from tests.pages import Page

EVIL = "<script>alert('x')</script> & \"quotes\" | {{ 7*7 }} $x_1$"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A written report. Not to be changed."""
    path = tmp_path_factory.mktemp("results") / "made up"
    write_report(path, *with_null_arm(study(margin=0.005)))
    return path


def said(made: Study) -> str:
    tables, provenance = made
    return " ".join(answer_of(tables, subject_of(tables, provenance)))


def noticed(tables: dict[str, pd.DataFrame], provenance: dict[str, Any]) -> str:
    return " ".join(notices(tables, provenance, subject_of(tables, provenance)))


def test_networks_that_exploded_are_counted_by_batch_size_and_healthy_ones_are_not_spoken_of() -> None:
    tables, provenance = study()
    assert "unstable" not in noticed(tables, provenance)
    jobs = tables["jobs"].copy()
    jobs.loc[jobs["batch_size"] == 2, "unstable"] = 3
    assert "6 networks are unstable (6 at batch size 2)" in noticed(tables | {"jobs": jobs}, provenance)


def test_every_file_is_named_and_there(tmp_path: Path) -> None:
    written = write_report(tmp_path / "x", *study(sizes=(2, 8)))
    assert sorted(written) == sorted(path for path in (tmp_path / "x").rglob("*") if path.is_file())
    names = {path.name for path in written}
    assert {"report.html", "report.md", "contrasts.tex", "gap_accuracy.svg", "gap_accuracy.png", "equivalence.svg"} <= names


def test_the_same_study_gives_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    write_report(tmp_path, *with_null_arm(study(margin=0.005)))
    for path in folder.rglob("*"):
        if path.is_file():
            assert (tmp_path / path.relative_to(folder)).read_bytes() == path.read_bytes(), path


def test_figures_of_an_earlier_report_go_and_other_files_stay(tmp_path: Path) -> None:
    old, new = study(sizes=(2,), seeds=2), study(conventions=(), baselines=("group",), sizes=(2,), seeds=2)
    first = set(write_report(tmp_path, *old))
    own = [tmp_path / name for name in ("figures/mine.svg", "figures/mine.png", "tables/mine.tex", "notes.html")]
    for path in own:
        path.write_text("somebody's")
    second = set(write_report(tmp_path, *new))
    gone = sorted(first - second)
    assert len(gone) > 2
    assert not any(path.exists() for path in gone)
    assert all(path.read_text() == "somebody's" for path in own)


def test_a_file_of_a_report_that_somebody_has_changed_stays_when_the_next_one_has_none(tmp_path: Path) -> None:
    first = set(write_report(tmp_path, *study(sizes=(2,), seeds=2)))
    new = study(conventions=(), baselines=("group",), sizes=(2,), seeds=2)
    other = {path.relative_to(tmp_path / "other") for path in write_report(tmp_path / "other", *new)}
    changed, gone = sorted(path for path in first if path.relative_to(tmp_path) not in other)[:2]
    changed.write_text("edited by hand")
    write_report(tmp_path, *new)
    assert changed.read_text() == "edited by hand"
    assert not gone.exists()


def test_a_manifest_that_names_files_elsewhere_removes_nothing_there(tmp_path: Path) -> None:
    outside = tmp_path / "outside.svg"
    outside.write_text("somebody's")
    digest = hashlib.sha256(b"somebody's").hexdigest()
    names = ("../outside.svg", str(outside), "figures/../../outside.svg")
    write_json(tmp_path / "x" / "report.json", {"files": {name: {"sha256": digest} for name in names}})
    write_report(tmp_path / "x", *study(conventions=(), baselines=("group",), sizes=(2,), seeds=2))
    assert outside.exists()


def test_a_folder_that_cannot_be_written_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"^results_dir: '.*file/x' cannot be written \(.*\); use another folder$"):
        write_report(tmp_path / "file" / "x", *study(conventions=(), baselines=("group",), sizes=(2,), seeds=2))


def test_the_page_is_well_formed_and_every_link_leads_somewhere(folder: Path) -> None:
    page = Page((folder / "report.html").read_text())
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))
    for link in page.links:
        assert not re.match(r"(https?:)?//", link), link
        if link.startswith("#"):
            assert link[1:] in page.ids
        elif not link.startswith("data:") and not link.endswith(".parquet"):
            assert (folder / link).is_file(), link


def test_the_page_has_question_answer_figures_tables_and_origin(folder: Path) -> None:
    text = " ".join(Page((folder / "report.html").read_text()).text)
    for part in ("Which one?", "The answer", "18 ", "bnstudy run +experiments=made_up", "a" * 40, "torch 2.11.0", "abacus",
                 "Declared comparisons", "every planned run finished"):  # fmt: skip
        if part != "18 ":
            assert part in text, part


def test_the_markdown_says_the_same(folder: Path) -> None:
    made = content_of(*with_null_arm(study(margin=0.005)))
    text = (folder / "report.md").read_text()
    assert text.startswith("# made up\n")
    for sentence in [*made.answer, *made.notices]:
        assert plain(sentence) in text
    for link in re.findall(r"\]\(([^)]+)\)", text):
        assert link.endswith(".parquet") or (folder / link).is_file()


def test_every_string_of_a_study_stays_text(tmp_path: Path) -> None:
    tables, provenance = study(models=(EVIL,), sizes=(2, 8), name=EVIL, question=EVIL, hypothesis=EVIL)
    provenance |= {"command": EVIL, "failed": {EVIL: EVIL}, "missing": [EVIL], "machines": [{"processor": EVIL, EVIL: EVIL}]}
    write_report(tmp_path, tables, provenance)
    source = (tmp_path / "report.html").read_text()
    page = Page(source)
    assert page.tags.count("script") == 1
    assert page.open == []
    assert "49" not in re.findall(r"<h1>(.*?)</h1>", source)[0]
    assert EVIL in " ".join(page.text)
    markdown = (tmp_path / "report.md").read_text()
    assert "<script" not in markdown
    for path in (tmp_path / "tables").iterdir():
        assert re.fullmatch(r"[a-z0-9_]+\.tex", path.name)
        assert not re.search(r"(?<!\\)[&$#](?!\\|-\$|.pm\$)", re.sub(r" & | \\\\|\$-\$|\$\\pm\$", "", path.read_text()))


def test_text_is_escaped_for_latex() -> None:
    assert latex("50 % of a_b & c\nα ± 1") == r"50 \% of a\_b \& c $\alpha$ $\pm$ 1"
    assert latex("\\{}~^<") == r"\textbackslash{}\{\}\textasciitilde{}\textasciicircum{}\textless{}"


def test_text_is_escaped_for_markdown() -> None:
    assert plain("a|b *c* <d> _e_ f_g\nh") == r"a\|b \*c\* &lt;d&gt; \_e\_ f_g h"


def test_the_answer_has_the_law_and_three_sentences_with_effect_interval_seeds_and_verdict() -> None:
    tables, provenance = study(margin=0.005, effect=0.02)
    storage, training, *three = answer_of(tables, subject_of(tables, provenance))
    assert len(three) == 3
    assert storage.startswith(
        "In accuracy on the same weights, trained with the biased variance normalising, against storing"
    )
    assert training.startswith("Which variance normalises the training batch makes a difference in accuracy in ")
    contrasts = tables["contrasts"]
    family = contrasts[contrasts["in_family"]]
    different = int((family["verdict"] == "different").sum())
    assert different >= 3
    assert three[0].startswith(
        "The choice makes a difference in some of the cells: of 9 declared comparisons of test accuracy"
    )
    assert f"{different} differ" in three[0]
    largest = family.loc[family[family["verdict"] == "different"]["difference"].abs().idxmax()]
    assert (
        f"inverted − paper for mlp on digits, batch size {largest['batch_size']}: {100 * largest['difference']:.2f} pp"
        in three[1]
    )
    assert f"(95 % interval {100 * largest['ci_low']:.2f} to {100 * largest['ci_high']:.2f})" in three[1]
    assert three[1].endswith("6 seeds: different.")


def test_without_a_margin_the_answer_says_that_nothing_can_be_equivalent() -> None:
    text = said(study(effect=0.0))
    assert "No margin was declared, so no comparison can be called equivalent" in text
    assert "would be found with 80 % power" in text


def test_a_partial_study_is_not_said_to_be_settled() -> None:
    tables, provenance = study(margin=0.5, effect=0.0)
    whole, part = (said((tables, provenance | {"comparisons": count})) for count in (9, 24))
    assert "of 9 declared comparisons" in whole
    assert "no run yet" not in whole
    assert "of 24 declared comparisons" in part
    assert "15 have no run yet" in part
    assert "makes no difference" not in part
    assert "Every comparison is settled" not in part


def test_inconclusive_is_said_with_the_seeds_it_would_take() -> None:
    text = said(study(margin=0.0005, effect=0.0))
    assert "The study does not settle its question: of 9 declared comparisons" in text
    assert "9 are inconclusive" in text
    assert re.search(r"would take \d+ to [\d,]+ \(median \d+\) seeds", text)


def test_all_equivalent_is_said_with_the_margin() -> None:
    text = said(study(margin=0.05, effect=0.0))
    assert "The choice makes no difference that matters here" in text
    assert "9 are equivalent within ±5.00 pp" in text
    assert "Every comparison is settled" in text


def test_one_seed_gives_no_verdict_and_no_interval() -> None:
    made = study(seeds=1)
    assert said(made).startswith("There is no verdict: a comparison needs at least 3 pairs of seeds")
    assert "There is one seed only" in noticed(*made)
    assert "(no interval)" in said(made)


def test_baselines_alone_have_no_answer_about_conventions() -> None:
    made = study(conventions=(), baselines=("group", "none"))
    assert said(made).startswith("There is no answer about conventions: only baselines without BatchNorm were run")
    assert "norm=group and norm=none" in said(made)
    html(content_of(*made))


def test_one_arm_has_nothing_to_be_compared_with() -> None:
    assert "no cell has two arms to compare" in said(study(conventions=("paper",)))


def test_when_every_seed_diverged_the_report_is_a_clear_paragraph() -> None:
    made = study(seeds=3, diverged=(0, 1, 2), margin=0.01)
    assert "There is no verdict" in said(made)
    assert "pairs were lost to seeds that diverged" in said(made)
    assert "Every seed that finished diverged" in noticed(*made)
    text = " ".join(Page(html(content_of(*made))).text)
    assert "diverged: seed 0 at step 3, seed 1 at step 3, seed 2 at step 3" in text


def test_regression_is_answered_in_r2() -> None:
    made = study(metrics=("r2", "mse"), metric="r2", margin=0.005)
    assert "declared comparisons of test R² under" in said(made)
    assert "pp" not in said(made)


def test_a_metric_that_was_not_measured_is_told() -> None:
    tables, provenance = study(metrics=("r2", "mse"), metric="r2")
    tables["contrasts"]["in_family"] = False
    provenance["declared"] = provenance["declared"] | {"metric": "accuracy"}
    assert "The declared metric, accuracy, was not measured in these runs; R² stands in for it." in noticed(
        tables, provenance
    )
    assert "exploratory, unadjusted: no family was declared" in said((tables, provenance))


def test_a_null_arm_that_looks_different_warns_against_every_verdict() -> None:
    assert "is never called different from its twin" in noticed(*with_null_arm(study(margin=0.005)))
    broken = noticed(*with_null_arm(study(margin=0.005), 0.02, "different"))
    assert broken.startswith("Do not trust these verdicts: the null arm")


def test_missing_failed_and_mixed_runs_are_named() -> None:
    tables, provenance = study(sizes=(2, 8))
    jobs = sorted({job for cell in provenance["cells"] for job in cell["jobs"]})
    provenance |= {"missing": jobs[:1], "failed": {jobs[1]: "ValueError: too hot"},
                   "sources": [*provenance["sources"], {"bnstudy": "9", "commit": None, "dirty": None}]}  # fmt: skip
    told = noticed(tables, provenance)
    assert "This report is partial: 1 missing and 1 failed of 4 jobs." in told
    assert "they come from 2 versions or commits of the code" in told
    text = " ".join(Page(html(content_of(tables, provenance))).text)
    for part in (jobs[0], jobs[1], "failed: ValueError: too hot", "bnstudy 9, commit unknown"):
        assert part in text


@pytest.mark.parametrize("name", ["metrics", "gaps", "generalisation", "summary", "contrasts", "layers", "jobs"])
def test_a_table_that_is_not_there_is_told(name: str) -> None:
    tables, provenance = study(sizes=(2,), seeds=3)
    del tables[name]
    assert f"No rows in: {name}." in noticed(tables, provenance)
    answer_of(tables, subject_of(tables, provenance))
    sheets(tables, subject_of(tables, provenance))


def test_with_nothing_at_all_there_is_still_a_report() -> None:
    text = " ".join(Page(html(content_of({}, {}))).text)
    assert "There is no answer: these runs hold no measurement." in text
    assert "There are no rows to show." in text


def test_a_study_recorded_by_an_older_version_is_reported() -> None:
    tables, provenance = study(sizes=(2, 8))
    provenance["declared"] = {
        "question": "Old?",
        "metric": "accuracy",
        "split": "test",
        "margin": None,
        "alpha": 0.05,
        "family": "",
    }
    assert "Old?" in html(content_of(tables, provenance))


def test_long_tables_are_cut_with_the_file_that_has_all() -> None:
    tables, provenance = study(sizes=(2, 4, 8, 16), models=("a", "b"))
    cut = [sheet for sheet in sheets(tables, subject_of(tables, provenance)) if sheet.total > len(sheet.rows)]
    assert cut
    assert all(len(sheet.rows) == MOST_ROWS and sheet.file.endswith(".parquet") for sheet in cut)


def test_a_table_for_papers_is_one_booktabs_tabular_with_equal_columns(folder: Path) -> None:
    for path in (folder / "tables").iterdir():
        text = path.read_text()
        columns = len(re.findall(r"\\begin\{tabular\}\{([lr]+)\}", text)[0])
        rows = [line for line in text.splitlines() if line.endswith(r"\\")]
        assert len(rows) >= 2
        assert all(len(re.findall(r"(?<!\\)&", row)) == columns - 1 for row in rows)
        for rule in (r"\toprule", r"\midrule", r"\bottomrule"):
            assert text.count(rule) == 1
        assert text.isascii()
