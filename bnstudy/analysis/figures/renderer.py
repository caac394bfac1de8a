"""From a figure's specification to its drawings: `… -m bnstudy.analysis.figures.renderer`, a process of its own.

Requests come as lines of JSON on standard input, and each is answered with one on standard output. Nothing but the renderer
is imported here, so that the process starts quickly; should it die, the report lacks drawings and nothing else.
"""

from __future__ import annotations

import base64
import json
import re
import sys
from typing import Any


def svg_of(specification: dict[str, Any], version: str, own: str) -> str:
    """A Vega-Lite specification as SVG.

    Args:
        specification: of a chart.
        version: of Vega-Lite, such as "5.20".
        own: put before the drawing's ids, so that several may stand in one page.
    """
    import vl_convert

    drawn = vl_convert.vegalite_to_svg(specification, vl_version=version)
    return slim(re.sub(r'(\bid="|url\(#|href="#)', lambda found: found[1] + own, drawn))


def slim(svg: str) -> str:
    """The same drawing without what only editors read: roles, classes, empty paths, digits beyond a hundredth of a pixel."""
    svg = re.sub(r'<path [^>]*d="(?:M0,0h0v0h0Z)?"[^>]*/>', "", svg)
    svg = re.sub(r' (?:role|class|aria-roledescription|aria-hidden|pointer-events)="[^"]*"', "", svg)
    return re.sub(r"<[^>]+>", lambda tag: re.sub(r"(\.\d\d)\d+(?![\de])", r"\1", tag[0]), svg)


def png(svg: str) -> bytes:
    """A drawing as PNG at twice its size."""
    import vl_convert

    return vl_convert.svg_to_png(svg, scale=2)


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Drawings of a figure: `svgs` in the order of its `specifications`, and the first one as `png`, in base 64."""
    pairs = zip(request["specifications"], request["own"], strict=True)
    svgs = [svg_of(specification, request["version"], own) for specification, own in pairs]
    return {"svgs": svgs, "png": base64.b64encode(png(svgs[0])).decode()}


if __name__ == "__main__":
    for line in sys.stdin:
        try:
            drawn = answer(json.loads(line))
        except Exception as error:  # a figure that cannot be drawn is told, and the next one is asked for
            drawn = {"problem": (str(error).strip().splitlines() or [type(error).__name__])[0][:200]}
        sys.stdout.write(json.dumps(drawn) + "\n")
        sys.stdout.flush()
