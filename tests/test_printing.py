"""Printing decides nothing: whatever standard streams do, a command ends as it would have; texts are shown as they are."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from bnstudy.printing import plain, say, show

PREDICT = [str(Path(sys.executable).parent / "bnstudy"), "predict", "--batch-size", "8"]


def shell(script: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    command = ["bash", "-c", f'set -o pipefail; run() {{ "$0" "$@"; }}; {script}', *PREDICT]
    environment = os.environ | {"COLUMNS": "200"} | variables
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize(
    "script",
    ['"$0" "$@" | head -1', '"$0" "$@" > /dev/full', '"$0" "$@" >&-', '"$0" "$@" <&-', '"$0" "$@" <&- >&- 2>&-',
     '"$0" "$@" 2> /dev/full | true'],
)  # fmt: skip
def test_no_stream_changes_the_exit_code(script: str, tmp_path: Path) -> None:
    done = shell(script, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


def test_what_a_full_disk_does_not_take_is_told(tmp_path: Path) -> None:
    said = shell('"$0" "$@" > /dev/full', tmp_path).stderr
    assert said == "standard output did not take all of it (No space left on device)\n"


def test_signs_that_an_encoding_lacks_are_replaced(tmp_path: Path) -> None:
    done = shell('"$0" "$@" --momentum 0.1', tmp_path, PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert "? = 0.1" in done.stdout
    assert done.stdout.isascii()


def test_a_closed_stream_gives_its_number_to_no_file_of_ours(tmp_path: Path) -> None:
    program = (
        "import os, sys; from bnstudy.printing import sturdy_streams\n"
        "with sturdy_streams():\n"
        "    file = open('x.txt', 'w'); print('on standard output'); file.write('own'); assert file.fileno() > 2\n"
    )
    script = f'exec {sys.executable} -c "$0" <&- >&- 2>&-'
    assert subprocess.run(["bash", "-c", script, program], cwd=tmp_path, timeout=60, check=False).returncode == 0
    assert (tmp_path / "x.txt").read_text() == "own"


@pytest.mark.parametrize("text", ["[/x]", "[bold]x[/bold]", "[link=http://x]y", ":smile:", "\\[a]", "[red]", "100 %"])
def test_texts_are_no_markup(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    say(text)
    show(text, pd.DataFrame({text: [text], "b": [text]}))
    said = capsys.readouterr().out
    assert said.count(text) == 5


def test_signs_that_act_on_a_terminal_are_shown_as_what_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    evil = "a\x1b[2Jb\x07\x9b1m\u202e"
    assert plain(evil) == "a\ufffd[2Jb\ufffd\ufffd1m\ufffd"
    show(evil, pd.DataFrame({evil: [evil]}))
    say(evil)
    assert not set(capsys.readouterr().out) & {"\x1b", "\x07", "\x9b", "\u202e"}
