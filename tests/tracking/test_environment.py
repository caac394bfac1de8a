"""W&B's own variables decide where runs go, unless the command does."""

from __future__ import annotations

from pathlib import Path

import pytest

from bnstudy.errors import UserError
from bnstudy.tracking.environment import mode_and_note
from bnstudy.tracking.ledger import Ledger


@pytest.mark.parametrize(
    ("variable", "mode"),
    [("online", "online"), ("run", "online"), ("dryrun", "offline"), ("disabled", "disabled"), ("", "offline")],
)
def test_the_variable_is_heeded_where_nothing_is_given(variable: str, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", variable)
    assert mode_and_note("offline", given=False) == (mode, None)


def test_what_is_given_overrules_the_variable_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    mode, note = mode_and_note("offline", given=True)
    assert (mode, note) == ("offline", "W&B: WANDB_MODE=disabled is not heeded, since tracking=offline was given")
    monkeypatch.setenv("WANDB_MODE", "dryrun")
    assert mode_and_note("offline", given=True) == ("offline", None)


def test_an_unknown_mode_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "shared")
    with pytest.raises(UserError, match=r"^WANDB_MODE: 'shared' is unknown; use online, offline or disabled"):
        mode_and_note("offline", given=False)


def test_the_mirror_is_kept_in_the_folder_that_wandb_was_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Ledger(tmp_path, "study").folder == tmp_path / "wandb" / "study"
    monkeypatch.setenv("WANDB_DIR", str(tmp_path / "elsewhere"))
    assert Ledger(tmp_path, "study").folder == tmp_path / "elsewhere" / "study"
