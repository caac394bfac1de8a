"""What `bnstudy diagnose` can be asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bnstudy.diagnosis.choices import CHOICES
from bnstudy.errors import UserError


@dataclass(frozen=True)
class Options:
    """What was asked for on the command line; see `bnstudy diagnose --help`.

    Args:
        model, data: `pkg.module:function`.
        weights, entry: a checkpoint, and the key of the state in it. Default: the model as it is built.
        evaluation_data, held_out: further batches, likewise by function.
        metric: a name, or `pkg.module:function`; None for what fits the targets.
        higher_is_better: of a function.
        batches, swap_batches, swap_layers, seed: as for `bnstudy.diagnose`; no batches for all.
        device: "auto", "cpu" or "cuda".
        recalibrate, translate: files to write the remedied weights to.
        remedies: PATTERN=CHOICE, what to do with layers instead.
        source: what trained the model, to translate from.
        overwrite: replace files that exist.
        anyway: write weights that are worse than before.
        out: folder for diagnosis.html and diagnosis.json.
        json: JSON instead of text.
        fail: exit code 1 for a model that is not healthy.
    """

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
    swap_layers: Sequence[str] = ("*",)
    seed: int = 0
    device: str = "auto"
    recalibrate: Path | None = None
    translate: Path | None = None
    remedies: Sequence[str] = ()
    source: str | None = None
    overwrite: bool = False
    anyway: bool = False
    out: Path | None = None
    json: bool = False
    fail: bool = False


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


def wanted(options: Options) -> list[Wanted]:
    """The remedies that were asked for, with what `--remedy` changes in them.

    Raises:
        UserError: a choice that has not the form PATTERN=CHOICE, that no file asks for, or that two files do.
    """
    choices: dict[str, str] = {}
    for text in options.remedies:
        pattern, equals, choice = text.rpartition("=")
        if not equals or not pattern or choice not in CHOICES:
            raise UserError(f"--remedy: {text!r} is no PATTERN=CHOICE; CHOICE is one of {', '.join(CHOICES)}")
        choices.pop(pattern, None)  # so that it comes last
        choices[pattern] = choice
    files = {"recalibrate": options.recalibrate, "translate": options.translate}
    result = [Wanted(f"--{name}", out, {"*": name} | choices) for name, out in files.items() if out is not None]
    if choices and len(result) != 1:
        raise UserError(
            "--remedy: it changes what is done to some layers; give one of --recalibrate OUT and --translate OUT too"
        )
    if len({each.out.resolve() for each in result}) < len(result):
        raise UserError(f"--translate: {options.translate} is the file of --recalibrate too; name another")
    return result
