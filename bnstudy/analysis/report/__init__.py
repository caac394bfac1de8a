"""The report of a study: its answer in three sentences, figures, tables, and how it was run; as HTML, Markdown and LaTeX."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bnstudy.lazy import face

if TYPE_CHECKING:
    from bnstudy.analysis.report.answer import answer_of as answer_of
    from bnstudy.analysis.report.content import Content as Content
    from bnstudy.analysis.report.content import content_of as content_of
    from bnstudy.analysis.report.sheets import Sheet as Sheet
    from bnstudy.analysis.report.sheets import TableCell as TableCell
    from bnstudy.analysis.report.write import write_report as write_report

__getattr__, __dir__, __all__ = face(
    __name__,
    {
        "TableCell": "sheets",
        "Content": "content",
        "Sheet": "sheets",
        "answer_of": "answer",
        "content_of": "content",
        "write_report": "write",
    },
)
