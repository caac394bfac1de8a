"""What `bnstudy report` does, and `run` at its end: tables, figures and report are written, and the main things printed."""

from __future__ import annotations

from pathlib import Path

from bnstudy.analysis.provenance import provenance_lines
from bnstudy.analysis.results import reported, write_results
from bnstudy.analysis.subject import subject_of
from bnstudy.analysis.summary import printed_tables
from bnstudy.printing import say, show
from bnstudy.sweeps.store import Store


def report_study(name: str, results_dir: Path, output_dir: Path, drawn: bool = True) -> None:
    """Write tables and, if `drawn`, figures and the report of a study to results/NAME; print what is in them.

    From its raw runs where they are; else the tables stay, and the rest is built from them.

    Raises:
        UserError: neither raw runs nor tables of that name, or damaged ones.
    """
    tables, provenance = reported(name, results_dir, output_dir)
    folder = results_dir / name
    if Store(output_dir).study(name) is not None:
        write_results(folder, tables, provenance)
    subject = subject_of(tables, provenance)
    lines = list(provenance_lines(provenance, subject))
    if drawn:
        from bnstudy.analysis.report import answer_of, write_report

        write_report(folder, tables, provenance)
        lines += answer_of(tables, subject)
    # All is written by now: whatever becomes of the printing is no matter.
    for title, table in printed_tables(tables["summary"]):
        show(title, table)
    for line in [*lines, f"Results: {folder / 'report.html' if drawn else folder}"]:
        say(line)
