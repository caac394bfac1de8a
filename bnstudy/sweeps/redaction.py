"""Keys and passwords out of what is recorded: commands and configurations are published, secrets are not."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

HIDDEN = "…"
_SECRET = r"(?:api_?key|access_?key|private_?key|token|secret|passw(?:or)?d|credentials?)"
_VALUE = r"""(?:"[^"]*"|'[^']*'|[^\s"',;&|()\[\]{}]+)"""
_NAME = re.compile(_SECRET, re.IGNORECASE)
_ASSIGNMENT = re.compile(rf"([\w.-]*{_SECRET}\w*[\"']?\s*[=:]\s*){_VALUE}", re.IGNORECASE)
_LOGIN = re.compile(r"(\bwandb\s+login\s+(?:--?\S+\s+)*)[\w-]{20,}")
_USERINFO = re.compile(r"(\b[a-z][a-z0-9+.-]*://)[^\s/?#@]+@", re.IGNORECASE)


def redacted(text: str) -> str:
    """A text without secrets: WANDB_API_KEY=… and its like, who logs in where (https://USER:KEY@host), W&B's own key.

    What is assigned to a name with "token" or "password" or "key" of some kind in it goes, whether with "=" or ":".
    """
    key = os.environ.get("WANDB_API_KEY", "")
    if len(key) >= 8:  # a shorter one is no key, and could be a part of anything
        text = text.replace(key, HIDDEN)
    text = _ASSIGNMENT.sub(rf"\g<1>{HIDDEN}", text)
    text = _LOGIN.sub(rf"\g<1>{HIDDEN}", text)
    return _USERINFO.sub(rf"\g<1>{HIDDEN}@", text)


def redacted_fields(value: Any, name: str = "") -> Any:
    """A configuration without secrets: its texts redacted, and whatever has a secret's name."""
    if isinstance(value, Mapping):
        return {key: redacted_fields(inner, str(key)) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [redacted_fields(inner, name) for inner in value]
    if isinstance(value, str):
        return HIDDEN if _NAME.search(name) and value else redacted(value)
    return value
