"""Tables for papers: LaTeX with booktabs, every text escaped."""

from __future__ import annotations

import re

import pandas as pd

from bnstudy.analysis.report.sheets import Sheet
from bnstudy.analysis.subject import Subject, Tables
from bnstudy.analysis.summary import printed_tables

_SYMBOLS = {
    "±": r"$\pm$", "−": r"$-$", "–": "--", "…": r"\ldots{}", "α": r"$\alpha$", "²": r"$^2$", "∞": r"$\infty$", "μ": r"$\mu$",
    "σ": r"$\sigma$", "γ": r"$\gamma$", "β": r"$\beta$", "ε": r"$\varepsilon$", "·": r"$\cdot$", "×": r"$\times$",
    "<": r"\textless{}", ">": r"\textgreater{}",
}  # fmt: skip
_ESCAPES = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
}  # fmt: skip


def latex(text: str) -> str:
    """A text that LaTeX prints as it is, one line."""
    return "".join(_ESCAPES.get(sign) or _SYMBOLS.get(sign, sign) for sign in " ".join(text.split()))


def latex_tables(tables: Tables, subject: Subject, sheets: list[Sheet]) -> dict[str, str]:
    """LaTeX tables by file name: the declared comparisons, and the printed tables of the primary metric and its companion.

    Args:
        tables: of the study.
        subject: what it asks.
        sheets: the tables of the report.
    """
    found: dict[str, str] = {}
    for sheet in sheets:
        if sheet.name == "contrasts":
            found["contrasts.tex"] = _table(sheet.texts, f"{sheet.title}. {sheet.note}", "contrasts")
    if "summary" in tables and len(tables["summary"]):
        summary = tables["summary"]
        for title, frame in printed_tables(summary[summary["metric"].isin(subject.shown)]):
            stem = re.sub(r"[^a-z0-9]+", "_", title.split(" (")[0].rpartition(", ")[0].lower() or title.lower()).strip("_")
            name, count = f"{stem}.tex", 2
            while name in found:
                name, count = f"{stem}_{count}.tex", count + 1
            found[name] = _table(frame.astype(str), f"{title}. Mean ± half the 95 % interval over seeds.", stem)
    return found


def _table(frame: pd.DataFrame, caption: str, label: str) -> str:
    escaped = frame.map(lambda value: latex(str(value)))
    escaped.columns = pd.Index([latex(str(column)) for column in frame.columns])
    text = escaped.to_latex(index=False, escape=False, caption=latex(caption), label=f"tab:{label}", position="htbp")
    return f"% needs \\usepackage{{booktabs}}\n{text}"
