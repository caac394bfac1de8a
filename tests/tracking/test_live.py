"""The mirror's child: no name of a job is lost on the way to it, however slow it is and however much it says."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from bnstudy.tracking.live import Mirror

CHILD = f"""#!{sys.executable}
import sys, time
time.sleep(0.5)
with open(sys.argv[-2] + "/heard", "w") as file:
    for line in sys.stdin:
        file.write(line)
        print('{{"written": "' + line.strip() + '"}}', flush=True)
"""


def test_a_child_that_is_slow_at_first_and_talks_a_lot_gets_every_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "child"
    program.write_text(CHILD)
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))  # in the place of `bnstudy.tracking.following`
    names = [f"a0b1c2d3e4f5-s{number}-{number + 7}" for number in range(20_000)]  # ten times what a pipe holds
    mirror = Mirror(tmp_path, "study", "offline")
    for name in names:
        mirror.add(name)
    mirror.finish()
    assert mirror.warning() is None
    assert (tmp_path / "heard").read_text().split() == names


def test_a_child_that_ends_early_is_told_in_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    mirror = Mirror(tmp_path, "study", "offline")
    for number in range(5000):
        mirror.add(f"job-{number}-of-many")
    mirror.finish()
    assert str(mirror.warning()).startswith("W&B: the mirror ended with exit code 1; no result is lost")
