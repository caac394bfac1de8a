"""What `bnstudy translate` can be asked for, and which of it makes no sense."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bnstudy.errors import UserError, shown
from bnstudy.frameworks.translate import files
from bnstudy.frameworks.translate.frameworks import Framework
from bnstudy.frameworks.translate.settings import parse_momentum, settings_path

KEEPS = ("inference", "training")


@dataclass(frozen=True)
class Options:
    """What was asked for on the command line; None where it was left out.

    Args:
        source, target: a framework or a convention.
        keep: "inference" or "training"; exclusive with `as_trained`.
        as_trained: running variances as the target would have stored them.
        batch_size: N of training (of all devices together for SyncBatchNorm), or "varying".
        spatial: (H, W) that every layer saw.
        per_layer: YAML or JSON file with m, or [H, W], by layer name.
        momentum: α, the weight of the new batch, or "cumulative".
        steps: t, the number of batches.
        eps: ε of the source's layers.
        target_eps: the ε that the target has and cannot change.
        optimizer: torch file with the optimizer's state_dict, if it is not in IN.
        optimizer_out: where its translation goes.
        entry: key of the model's state in a torch file that holds several.
        overwrite: replace OUT and its settings if they exist.
    """

    source: str
    target: str
    keep: str | None = None
    as_trained: bool = False
    batch_size: int | str | None = None
    spatial: tuple[int, int] | None = None
    per_layer: Path | None = None
    momentum: float | str | None = None
    steps: int | None = None
    eps: float | None = None
    target_eps: float | None = None
    optimizer: Path | None = None
    optimizer_out: Path | None = None
    entry: str | None = None
    overwrite: bool = False


def goal_of(options: Options) -> str:
    """The one goal that was asked for: "inference", "training" or "as-trained".

    Raises:
        UserError: none or several were asked for.
    """
    if options.as_trained == (options.keep is not None):
        raise UserError("goal: give exactly one of --keep inference, --keep training, --as-trained")
    if options.keep is not None and options.keep not in KEEPS:
        raise UserError(f"keep: {shown(options.keep)} is unknown; use {' or '.join(KEEPS)}")
    return options.keep or "as-trained"


def check_numbers(options: Options, here: Framework) -> None:
    """Refuse numbers out of range, and a momentum in the source's own sense where that is the opposite of ours.

    Raises:
        UserError: one of them.
    """
    for key in ("eps", "target_eps"):
        value = getattr(options, key)
        if value is not None and not 0 <= value < float("inf"):
            raise UserError(f"{key}: {value} is no ε; use a number of 0 or more")
    if options.steps is not None and options.steps < 0:
        raise UserError(f"steps: {options.steps} is no number of batches; use 0 or more")
    if isinstance(options.batch_size, int) and options.batch_size < 1:
        raise UserError(f"batch_size: {options.batch_size} is no number of samples; use 1 or more")
    if options.spatial is not None and (min(options.spatial) < 1 or options.per_layer is not None):
        raise UserError(f"spatial: {options.spatial} must be positive, and excludes --per-layer")
    if options.momentum is not None:
        alpha = parse_momentum(options.momentum, "momentum")
        if alpha is not None and 0.5 < alpha < 1 and here.weighs == "old value":
            raise UserError(
                f"momentum: {alpha:g} is read as the weight of the new batch; "
                f"{here.name}'s own momentum {alpha:g} is {1 - alpha:.6g} here"
            )


def outputs_of(source_file: Path, target_file: Path, options: Options) -> list[Path]:
    """The files that will be written.

    Raises:
        UserError: one that is an input, exists, has no folder or no known format.
    """
    files.check_suffix(source_file, "IN")
    files.check_suffix(target_file, "OUT")
    outputs = [target_file, settings_path(target_file)]
    if (options.optimizer is None) != (options.optimizer_out is None):
        raise UserError("optimizer: give both --optimizer and --optimizer-out, or neither")
    if options.optimizer_out is not None:
        if options.optimizer_out.suffix not in files.TORCH:
            raise UserError(
                f"optimizer_out: {options.optimizer_out.name!r} must be a torch file; use {', '.join(files.TORCH)}"
            )
        outputs.append(options.optimizer_out)
    inputs = {path.resolve() for path in (source_file, settings_path(source_file), options.optimizer) if path is not None}
    for path in outputs:
        if path.resolve() in inputs:
            raise UserError(f"OUT: {path} is one of the inputs; name another file")
        if path.is_dir():
            raise UserError(f"OUT: {path} is a folder; name a file")
        if path.exists() and not options.overwrite:
            raise UserError(f"OUT: {path} exists; name another file, or allow overwriting")
        if not path.parent.is_dir():
            raise UserError(f"OUT: folder {path.parent} does not exist")
    if len({path.resolve() for path in outputs}) < len(outputs):
        raise UserError("optimizer_out: it is the same file as OUT; name another")
    return outputs
