"""Figures drawn in a process of its own, with a limit on its time: a renderer that dies takes nothing along."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

from bnstudy.analysis.figures.figure import Drawn, Figure

PATIENCE = 120.0
"""Seconds that a figure may take in both its layouts."""
_DEATHS = 2
"""Renderers that may die before no further one is started."""


def draw(figures: Sequence[Figure]) -> list[Drawn]:
    """Draw figures.

    Args:
        figures: of a page.

    Returns:
        A drawing each, in their order; one that could not be drawn is empty, and its caption says why.
    """
    return list(_drawn(figures))


def _drawn(figures: Sequence[Figure]) -> Iterator[Drawn]:
    renderer: _Renderer | None = None
    deaths: list[str] = []
    try:
        for figure in figures:
            if figure.draw is None:
                yield _empty(figure, figure.caption)
                continue
            if len(deaths) >= _DEATHS:
                yield _empty(figure, deaths[-1])
                continue
            try:
                renderer = renderer or _Renderer()
                answer = renderer.ask(figure.request())
            except (OSError, TimeoutError, ValueError) as error:
                deaths.append(f"The renderer {error}.")
                if renderer is not None:
                    renderer.end()
                renderer = None
                yield _empty(figure, deaths[-1])
                continue
            if "problem" in answer:
                yield _empty(figure, f"The renderer says: {answer['problem']}")
                continue
            wide, narrow = answer["svgs"]
            empty = _empty(figure, figure.caption)
            yield dataclasses.replace(empty, wide=wide, narrow=narrow, png=base64.b64decode(answer["png"]))
    finally:
        if renderer is not None:
            renderer.end()


def _empty(figure: Figure, why: str) -> Drawn:
    return Drawn(figure.name, figure.title, figure.table, why, figure.alt, "", "")


class _Renderer:
    """The child; what it cannot do is raised as an error whose text goes on from "The renderer"."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bnstudy.analysis.figures.renderer"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is the command's affair
        )
        self._rest = b""

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """The answer to a request.

        Raises:
            TimeoutError, OSError: the child is too slow, or has died.
            ValueError: it said something else than an answer.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        deadline = time.monotonic() + PATIENCE
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        except OSError:  # it has died, as reading finds out
            pass
        while b"\n" not in self._rest:
            if not select.select([self._process.stdout], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise TimeoutError(f"took more than {PATIENCE:.0f} s")
            if not (piece := os.read(self._process.stdout.fileno(), 1 << 20)):
                code = self._process.wait()
                raise OSError(f"died ({signal.Signals(-code).name if code < 0 else f'exit code {code}'})")
            self._rest += piece
        line, _, self._rest = self._rest.partition(b"\n")
        answer = json.loads(line)
        if not isinstance(answer, dict) or not ("problem" in answer or {"svgs", "png"} <= answer.keys()):
            raise ValueError("gave no drawing")
        return answer

    def end(self) -> None:
        """End the child at once."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate()
