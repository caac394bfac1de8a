"""The front door: help, version, and what its pages say."""

from __future__ import annotations

import re

import pytest

import bnstudy as package
from bnstudy.sweeps.keys import keys
from tests.cli.conftest import Command

COMMANDS = ("run", "plan", "status", "report", "publish", "predict", "audit", "translate", "diagnose", "completion")


def test_the_version_is_the_packages(bnstudy: Command) -> None:
    done = bnstudy("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"bnstudy {package.__version__}\n", "")


@pytest.mark.parametrize("arguments", [(), ("--help",), ("-h",)])
def test_help_names_every_command_in_one_whole_line(bnstudy: Command, arguments: tuple[str, ...]) -> None:
    done = bnstudy(*arguments)
    assert done.returncode == 0
    listed = done.stdout.partition("Commands:")[2].splitlines()[1:]
    assert [line.split()[0] for line in listed] == list(COMMANDS)
    assert all(re.fullmatch(r"  \w+ +[A-Z].*[^.]\.", line) and len(line) <= 80 for line in listed), listed


@pytest.mark.parametrize("command", ["run", "plan"])
def test_help_of_a_run_is_ours_and_has_all_keys(bnstudy: Command, command: str) -> None:
    done = bnstudy(command, "--help")
    assert done.returncode == 0
    assert done.stdout.startswith(f"Usage: bnstudy {command} [OPTIONS]")
    assert all(f"  {key.name}=" in done.stdout for key in keys())
    for words in ("Examples:", "--config-dir", "+experiments=", "a study of your own", "resnet56, resnet8"):
        assert words in done.stdout
    assert "Hydra" not in done.stdout
