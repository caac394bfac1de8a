"""A report as one HTML file that needs nothing else, and as Markdown."""

from __future__ import annotations

import re

import pandas as pd

from bnstudy.analysis.report.content import Content
from bnstudy.analysis.report.shell import environment, marked, page
from bnstudy.analysis.summary import printed_tables


def html(content: Content) -> str:
    """The report as one self-contained page: no request leaves it, and its policy refuses scripts other than its own."""
    values = _shared(content) | {
        "figures": marked(content.figures),
        "sheets": content.sheets,
        "sheet_names": {sheet.name for sheet in content.sheets},
        "papers": list(content.papers),
    }
    return page("report.html.j2", "report", "answer", values)


def markdown(content: Content, summary: pd.DataFrame | None) -> str:
    """The same in Markdown, with the figures beside it and the tables that people read."""
    printed = []
    for sheet in content.sheets:
        if sheet.name == "contrasts":
            shown = len(sheet.rows)
            cut = f" The first {shown} of {sheet.total} rows; all are in {sheet.file}." if sheet.total > shown else ""
            printed.append((sheet.title, sheet.note + cut, _table(sheet.texts)))
    if summary is not None and len(summary):
        for title, frame in printed_tables(summary):
            printed.append((title, "Mean ± half the 95 % t interval over seeds; descriptive.", _table(frame)))
    templates = environment(escape=False)
    templates.filters["md"] = plain
    text = templates.get_template("report.md.j2").render(**_shared(content), figures=content.figures, printed=printed)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def plain(text: object) -> str:
    """A text that Markdown shows as it is, on one line."""
    line = " ".join(str(text).split())
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    line = re.sub(r"([\\`*\[\]|#!~])", r"\\\1", line)
    return re.sub(r"(?<!\w)_|_(?!\w)", r"\\_", line)  # inside a word an underscore is one


def _shared(content: Content) -> dict[str, object]:
    names = ("name", "question", "hypothesis", "answer", "notices", "origin", "lost")
    return {name: getattr(content, name) for name in names}


def _table(frame: pd.DataFrame) -> str:
    return str(frame.astype(str).map(plain).rename(columns=plain).to_markdown(index=False, disable_numparse=True))
