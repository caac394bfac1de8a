"""The figures of a study, and what any figure is made of: panels in two layouts, their words, colours and type (`theme`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bnstudy.lazy import face

if TYPE_CHECKING:
    from bnstudy.analysis.figures.drawing import draw as draw
    from bnstudy.analysis.figures.figure import NARROW as NARROW
    from bnstudy.analysis.figures.figure import WIDE as WIDE
    from bnstudy.analysis.figures.figure import Chart as Chart
    from bnstudy.analysis.figures.figure import Drawn as Drawn
    from bnstudy.analysis.figures.figure import Figure as Figure
    from bnstudy.analysis.figures.figure import Layout as Layout
    from bnstudy.analysis.figures.figure import Panel as Panel
    from bnstudy.analysis.figures.figure import absent as absent
    from bnstudy.analysis.figures.figure import arranged as arranged
    from bnstudy.analysis.figures.figure import data as data
    from bnstudy.analysis.figures.figure import title_lines as title_lines
    from bnstudy.analysis.figures.gallery import figures_of as figures_of

_PARTS = (
    *("Chart", "Drawn", "Figure", "Layout", "NARROW", "Panel", "WIDE"),
    *("absent", "arranged", "data", "title_lines"),
)
__getattr__, __dir__, __all__ = face(
    __name__, dict.fromkeys(_PARTS, "figure") | {"draw": "drawing", "figures_of": "gallery"}
)
