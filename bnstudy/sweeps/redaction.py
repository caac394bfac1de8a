"""Keys and passwords out of whatever leaves the process: records, pages, W&B, the terminal.

Every pattern looks a bounded number of characters ahead of a sign that secrets have, so that time grows with a text's length
and no faster.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import urllib.parse
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

HIDDEN = "…"
_LEAST = 6
"""Characters of an environment variable's value that is looked for; shorter ones could be a part of anything."""
_WORD = r"(?:(?:api|access|private)[ _-]?key|token|secret|passw(?:or)?d|pwd|passphrase|credential|(?<=[_-])key)"
_TAIL = r"(?:s|_?\d{1,3}|_value|_id|(?-i:_[A-Z0-9_]{1,40}))?+(?!\w)"
_NAME = _WORD + _TAIL
_VALUE = r"""(?:"[^"\n]{0,4096}+"?|'[^'\n]{0,4096}+'?|[^\s"',;&|()\[\]{}<>]{1,4096}+)"""
_GAP = r"\s{0,8}+"
_SECRET_NAME = re.compile(_NAME + "$", re.IGNORECASE)
_VARIABLE = re.compile(r"\w*(?:KEY|TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIAL)S?", re.IGNORECASE)
_PLACE = re.compile(r"(?:FILE|DIR|PATH|SOCK)$", re.IGNORECASE)
_PATTERNS = [
    (re.compile(pattern, re.IGNORECASE), replacement)
    for pattern, replacement in (
        # Authorization: Bearer VALUE
        (r"\b((?:bearer|apikey)\s{1,8}+)[\w+/=.~-]{6,4096}+", rf"\g<1>{HIDDEN}"),
        (r"\b(basic\s{1,8}+)[\w+/-]{6,4096}+={1,2}", rf"\g<1>{HIDDEN}"),
        (rf"""\b(authorization["']?{_GAP}[=:]{_GAP}["']?(?:[a-z]{{1,20}}\s{{1,8}}+)?){_VALUE}""", rf"\g<1>{HIDDEN}"),
        # NAME=VALUE and NAME: VALUE, quoted or not, also within JSON
        (rf"""({_NAME}\\?["']?{_GAP}(?:=>|[=:]){_GAP}\\?){_VALUE}""", rf"\g<1>{HIDDEN}"),
        # --token VALUE, the same as a list of words, and in a sentence
        (rf"""((?<!-)--?(?:\w[\w-]{{0,40}})??{_NAME}["']?,?\s{{1,8}}+){_VALUE}""", rf"\g<1>{HIDDEN}"),
        (rf"""\b((?:{_NAME}\s(?:is|was)|passw(?:or)?d)\s{{1,8}}+){_VALUE}""", rf"\g<1>{HIDDEN}"),
        (r"(\bwandb\s{1,8}+login\s{1,8}+(?:--?\S{1,40}+\s{1,8}+){0,8})[\w-]{20,200}+", rf"\g<1>{HIDDEN}"),
        # scheme://user:password@host, scheme://key@host and user:password@host
        (r"(://)[^\s/?#]{1,1024}@", rf"\g<1>{HIDDEN}@"),
        (r"""(?<=[\w.+-]):[^\s/"']{1,256}@(?=[\w\[])""", f":{HIDDEN}@"),
        (r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----(?:(?!-----END)[\s\S]){0,16384}+(?:-----END [A-Z ]{0,40}-----)?", HIDDEN),
        # Keys of well-known services
        (r"\b(?:sk|pk|rk)[-_][\w-]{16,512}+|\b(?:gh[oprsu]|github_pat|hf|npm|wandb_v\d{1,3})_\w{12,512}+", HIDDEN),
        (r"\b(?:glpat|xox[a-z]|pypi|ya29\.)-?[\w-]{12,2048}+|\bSG\.[\w.-]{16,255}+|\bAIza[\w-]{20,128}+", HIDDEN),
        (r"\bA[KS]IA[0-9A-Z]{12,128}+|\beyJ[\w-]{6,4096}+\.[\w-]{2,8192}+(?:\.[\w-]{0,4096}+)?", HIDDEN),
        (r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b", HIDDEN),
    )
]
_RUN = re.compile(r"[A-Za-z0-9]{20,}+|[A-Za-z0-9+/_-]{32,}+={0,2}")
_HEXADECIMAL = re.compile(r"[0-9a-f]{32,}|[0-9A-F]{32,}")


def redacted(text: str) -> str:
    """A text without secrets.

    What goes: the value of every environment variable whose name says key, token, secret or password; what is assigned to
    such a name or given to such an option; whoever logs in where (https://USER:KEY@host); what looks like a key by its form.
    """
    return _redacted(text, _values_of_environment())


def redacted_fields(value: Any, name: str = "") -> Any:
    """A configuration without secrets: its texts redacted, and whatever has a secret's name."""
    return _fields(value, name, _values_of_environment())


def _fields(value: Any, name: str, secrets: tuple[str, ...]) -> Any:
    if isinstance(value, Mapping):
        return {
            _redacted(key, secrets) if isinstance(key, str) else key: _fields(inner, str(key), secrets)
            for key, inner in value.items()
        }
    if isinstance(value, list | tuple):
        words = [_fields(inner, name, secrets) for inner in value]
        for index, word in enumerate(words[:-1]):  # an option and its value, word by word
            if isinstance(word, str) and word.startswith("-") and "=" not in word and _SECRET_NAME.search(word):
                words[index + 1] = HIDDEN
        return words
    if isinstance(value, str):
        return HIDDEN if _SECRET_NAME.search(name) and value else _redacted(value, secrets)
    return value


def _values_of_environment() -> tuple[str, ...]:
    """What environment variables with a secret's name hold, and as it looks when it is quoted; the longest first."""
    found: set[str] = set()
    for name, value in os.environ.items():
        words = name.split("_")
        if len(value) < _LEAST or _PLACE.search(name) or not any(_VARIABLE.fullmatch(word) for word in words):
            continue
        for part in {value, *map(str.strip, value.splitlines())}:  # an error's text may be cut to its first line
            if len(part) >= _LEAST:
                found |= {part, repr(part)[1:-1], json.dumps(part)[1:-1], urllib.parse.quote(part, safe="")}
    return tuple(sorted(found, key=lambda secret: (-len(secret), secret)))


@lru_cache(maxsize=4096)
def _redacted(text: str, secrets: tuple[str, ...]) -> str:
    for secret in secrets:
        if secret in text:
            text = text.replace(secret, HIDDEN)
    if len(text) < _LEAST:
        return text
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return _RUN.sub(lambda run: HIDDEN if _looks_random(run[0]) else run[0], text)


def _looks_random(run: str) -> bool:
    """Whether capitals, small letters and digits follow each other as in no word, or it is a long hexadecimal number."""
    if _HEXADECIMAL.fullmatch(run):
        return any(map(str.isdigit, run)) and any(map(str.isalpha, run))
    if not {"small", "digit"} <= set(map(_kind, run)):
        return False
    # Within a folder's name, a word of a name: what stands beside a sign is no sign of disorder.
    changes = sum(before != after for before, after in itertools.pairwise(map(_kind, run)) if "" not in (before, after))
    capitals = any(map(str.isupper, run))
    return (capitals or run.isalnum()) and changes >= (0.45 if capitals else 0.3) * sum(map(str.isalnum, run))


def _kind(sign: str) -> str:
    return "digit" if sign.isdigit() else "capital" if sign.isupper() else "small" if sign.isalpha() else ""
