"""What W&B's own environment variables say of where runs go, where the command says nothing."""

from __future__ import annotations

import os
from pathlib import Path

from bnstudy.errors import UserError, shown

_MODES = {"online": "online", "run": "online", "offline": "offline", "dryrun": "offline", "disabled": "disabled"}
"""W&B's modes, older names among them, and ours."""


def mode_and_note(tracking: str, given: bool) -> tuple[str, str | None]:
    """The mode of the mirror: `tracking` where it was given, else $WANDB_MODE, else the default.

    Args:
        tracking: the configuration's value.
        given: whether the command says it.

    Returns:
        The mode, and a line where $WANDB_MODE is overruled by the command.

    Raises:
        UserError: a $WANDB_MODE that the mirror does not have.

    Source: docs/architecture.md, "The mirror in W&B".
    """
    wanted = os.environ.get("WANDB_MODE", "")
    if not wanted:
        return tracking, None
    if given:
        overruled = _MODES.get(wanted) != tracking
        return (
            tracking,
            f"W&B: WANDB_MODE={wanted} is not heeded, since tracking={tracking} was given" if overruled else None,
        )
    if wanted not in _MODES:
        raise UserError(f"WANDB_MODE: {shown(wanted)} is unknown; use online, offline or disabled, or give tracking=")
    return _MODES[wanted], None


def mirror_folder(root: Path | str) -> Path:
    """Where the mirror's folders are: $WANDB_DIR, else `wandb` in the store."""
    return Path(os.environ.get("WANDB_DIR") or Path(root) / "wandb")
