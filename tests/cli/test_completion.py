"""Tab, pressed in the shells themselves."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bnstudy.cli import app
from bnstudy.completion import SCRIPTS, candidates, script
from bnstudy.errors import UserError

STARTS = {
    "bash": ("bash --norc --noprofile -i", 'eval "$(bnstudy completion bash)"'),
    "zsh": ("zsh -f -i", 'eval "$(bnstudy completion zsh)"'),
    "fish": ("fish --no-config --private", "bnstudy completion fish | source"),
}
CONTROLS = re.compile(r"\x1b\[[0-9;?<>=]*[a-zA-Z]|\x1b[()=>][0-9B]?|\x1b\][^\x07\x1b]*(\x07|\x1b\\)|[\x07\x0e\x0f\r]")


class Terminal:
    """A shell in a terminal of its own."""

    def __init__(self, command: str, folder: Path) -> None:
        places = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        environment = os.environ | {"PATH": places, "TERM": "xterm", "PS1": "$ ", "HOME": str(folder), "COLUMNS": "200"}
        self.pid, self.screen = pty.fork()
        if self.pid == 0:
            os.chdir(folder)
            os.execvpe("sh", ["sh", "-c", f"stty cols 200; exec {command}"], environment)

    def type(self, text: str, until: str, seconds: float = 60) -> str:
        """What appears after some keys, once `until` is in it."""
        os.write(self.screen, text.encode())
        seen, end = b"", time.monotonic() + seconds
        while time.monotonic() < end:
            if select.select([self.screen], [], [], 0.2)[0]:
                seen += os.read(self.screen, 65536)
            if re.search(until, CONTROLS.sub("", seen.decode(errors="replace"))):
                return CONTROLS.sub("", seen.decode(errors="replace"))
        raise AssertionError(f"no {until!r} after {text!r}: {seen!r}")

    def close(self) -> None:
        os.kill(self.pid, 9)
        os.waitpid(self.pid, 0)
        os.close(self.screen)


@pytest.fixture
def terminal(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Terminal]:
    start, setup = STARTS[request.param]
    if shutil.which(request.param) is None:
        pytest.skip(f"{request.param} is not installed")
    (tmp_path / "outputs" / "studies").mkdir(parents=True)
    (tmp_path / "outputs" / "studies" / "mine.json").write_text("{}")
    shell = Terminal(start, tmp_path)
    try:
        shell.type(f"{setup}; echo re''ady\n", "ready")
        yield shell
    finally:
        shell.close()


@pytest.mark.parametrize("terminal", STARTS, indirect=True)
def test_tab_finishes_commands_groups_choices_and_studies(terminal: Terminal) -> None:
    clear = "\x15"
    terminal.type("bnstudy st\t", r"bnstudy status ")
    terminal.type("mi\t", r"(?s)mine ")
    terminal.type(f"{clear}bnstudy run batch_\t", r"batch_size=")
    terminal.type(f"{clear}bnstudy run model=ml\t", r"model=mlp")
    terminal.type(f"{clear}bnstudy run -m model=mlp,resnet5\t", r"model=mlp,resnet5[06]*")
    listed = terminal.type(f"{clear}bnstudy run model=\t\t", r"(?s)(?=.*import)(?=.*mlp)(?=.*resnet18)(?=.*resnet8)")
    assert "Traceback" not in listed


def test_what_can_follow() -> None:
    assert candidates(app, ["st"]) == ["status"]
    assert candidates(app, ["run", "model=r"]) == [
        "model=resnet18",
        "model=resnet20",
        "model=resnet50",
        "model=resnet56",
        "model=resnet8",
    ]
    assert candidates(app, ["run", "-m", "variance=paper,f"]) == ["variance=paper,flax"]
    assert candidates(app, ["plan", "drop_"]) == ["drop_last="]
    assert candidates(app, ["run", "drop_last="]) == ["drop_last=false", "drop_last=true"]
    assert "+experiments=quick" in candidates(app, ["run", "+experiments="])
    assert candidates(app, ["run", "--conf"]) == ["--config-dir"]
    assert candidates(app, ["nothing", "--x"]) == candidates(app, ["translate", "in"]) == []
    assert "complete" not in candidates(app, [""])


def test_a_shell_that_is_not_known_is_refused() -> None:
    assert script("fish") == SCRIPTS["fish"]
    with pytest.raises(UserError, match=r"^SHELL: 'tcsh' is unknown; use bash, zsh, fish$"):
        script("tcsh")
