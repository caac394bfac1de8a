"""Write the column dictionary of results/README.md from the schemas that the tables are checked with."""

from __future__ import annotations

from pathlib import Path

from bnstudy.analysis.schemas import TABLES, describe_columns

MARK = "## Tables\n"


def dictionary() -> str:
    """The tables and what every column means, as Markdown."""
    tables = "\n".join(f"- `{name}`: {', '.join(f'`{column}`' for column in columns)}" for name, columns in TABLES.items())
    return f"{MARK}\n{tables}\n\n## Columns\n\n{_rows()}\n## Columns of `contrasts`\n\n{_rows('contrasts')}"


def _rows(table: str | None = None) -> str:
    rows = "".join(f"| `{name}` | {meaning} |\n" for name, meaning in describe_columns(table).items())
    return f"| column | meaning |\n|---|---|\n{rows}"


def main() -> None:
    """Replace everything from the mark on."""
    path = Path(__file__).resolve().parent.parent / "results" / "README.md"
    path.write_text(path.read_text().partition(MARK)[0] + dictionary())


if __name__ == "__main__":
    main()
