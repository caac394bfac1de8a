"""What every page of results is dressed in: one style, one script, a policy that refuses everything else."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from bnstudy.analysis.figures import theme
from bnstudy.analysis.figures.figure import Drawn

_TEMPLATES = Path(__file__).parent / "templates"
_SWAPS = [(getattr(theme, name.upper()), name) for name in (
    "paper", "ink", "muted", "grid", "band", "blue", "vermillion", "green", "purple", "orange", "sky", "yellow", "grey",
)]  # fmt: skip


def environment(escape: bool, *folders: Path) -> Environment:
    """Templates of pages.

    Args:
        escape: whether values are escaped for HTML. What is not escaped is style and Markdown, which has its own way.
        folders: with templates, looked through before the shared ones: `base.html.j2` and `parts.html.j2`.
    """
    return Environment(
        loader=FileSystemLoader([*folders, _TEMPLATES]),
        autoescape=escape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def page(template: str, kind: str, first: str, values: dict[str, object], *folders: Path, style: str = "") -> str:
    """A self-contained page: no request leaves it, and its policy refuses scripts other than its own.

    Args:
        template: extends `base.html.j2`; finds `figures` and `sheets` among its values if they are given.
        kind: what the page is, for its title: "report".
        first: what the first link of the page leads to: "answer".
        values: of the template; `name` is the page's heading.
        folders: with further templates.
        style: CSS after the shared one.
    """
    script = (_TEMPLATES / "script.js").read_text(encoding="utf-8")
    shared = environment(False).get_template("style.css.j2").render(swaps=_SWAPS)
    return (
        environment(True, *folders)
        .get_template(template)
        .render(
            **values,
            kind=kind,
            first=first,
            script=Markup(script),
            script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
            style=Markup(shared + style),
        )
    )


def marked(figures: Sequence[Drawn]) -> list[dict[str, object]]:
    """Figures for a template, their drawings as markup."""
    return [vars(figure) | {"wide": Markup(figure.wide), "narrow": Markup(figure.narrow)} for figure in figures]
