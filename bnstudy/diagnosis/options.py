"""What `bnstudy diagnose` can be asked for, and what of it makes no sense."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bnstudy.diagnosis.remedies import CHOICES
from bnstudy.errors import UserError


@dataclass(frozen=True)
class Wanted:
    """Remedied weights to be written.

    Args:
        option: that asked for them.
        out: the file.
        choice: what to do, by pattern of layer names.
    """

    option: str
    out: Path
    choice: dict[str, str]


@dataclass(frozen=True)
class Options:
    """The options of the command line by their names; `bnstudy diagnose --help` says what each means."""

    model: str
    data: str
    weights: Path | None = None
    entry: str | None = None
    evaluation_data: str | None = None
    held_out: str | None = None
    metric: str | None = None
    higher_is_better: bool | None = None
    batches: int | None = None
    swap_batches: int = 2
    swap_layer: Sequence[str] | None = None
    seed: int = 0
    device: str = "auto"
    recalibrate: Path | None = None
    translate: Path | None = None
    remedy: Sequence[str] | None = None
    source: str | None = None
    overwrite: bool = False
    anyway: bool = False
    out: Path | None = None
    json: bool = False
    fail: bool = False

    def check(self) -> None:
        """Refuse what can be seen to be wrong before anything is loaded.

        Raises:
            UserError: numbers out of range, options that go only with others, a folder that cannot be written.
        """
        if self.batches is not None and self.batches < 1:
            raise UserError(f"--batches: {self.batches} leaves no batch; use 1 or more")
        if self.swap_batches < 0:
            raise UserError(f"--swap-batches: {self.swap_batches} is no number of batches; use 0 for no swaps, or more")
        if self.entry is not None and self.weights is None:
            raise UserError("--entry: it is the key of a state in --weights, which is not given")
        if self.held_out is not None and self.recalibrate is None and self.translate is None:
            raise UserError("--held-out: it measures what a remedy gains; give --recalibrate OUT or --translate OUT too")
        if self.out is not None:
            there = next(path for path in (self.out, *self.out.absolute().parents) if path.exists())
            if not there.is_dir() or not os.access(there, os.W_OK):
                raise UserError(f"--out: {self.out} cannot be made or written to; name another folder")

    def wanted(self) -> list[Wanted]:
        """The remedies that were asked for, with what `--remedy` changes in them.

        Raises:
            UserError: a choice that has not the form PATTERN=CHOICE, that no file asks for, or that two files do.
        """
        choices: dict[str, str] = {}
        for text in self.remedy or ():
            pattern, equals, choice = text.rpartition("=")
            if not equals or not pattern or choice not in CHOICES:
                raise UserError(f"--remedy: {text!r} is no PATTERN=CHOICE; CHOICE is one of {', '.join(CHOICES)}")
            choices.pop(pattern, None)  # so that it comes last
            choices[pattern] = choice
        files = {"recalibrate": self.recalibrate, "translate": self.translate}
        result = [Wanted(f"--{name}", out, {"*": name} | choices) for name, out in files.items() if out is not None]
        if choices and len(result) != 1:
            raise UserError(
                "--remedy: it changes what is done to some layers; give one of --recalibrate OUT and --translate OUT too"
            )
        if len({remedy.out.resolve() for remedy in result}) < len(result):
            raise UserError(f"--translate: {self.translate} is the file of --recalibrate too; name another")
        return result
