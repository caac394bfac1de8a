"""The column dictionary in results/README.md is the one that the schemas give."""

from __future__ import annotations

from pathlib import Path

from scripts.write_dictionary import MARK, dictionary

README = Path(__file__).resolve().parents[2] / "results" / "README.md"


def test_the_dictionary_in_the_results_is_current() -> None:
    assert MARK + README.read_text().partition(MARK)[2] == dictionary()
