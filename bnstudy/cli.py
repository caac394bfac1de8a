"""The front door: `bnstudy COMMAND`. A mistake of the user's is one or two lines and exit code 2."""

from __future__ import annotations

import errno
import os
import re
import shutil
import sys
import traceback
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

import bnstudy
from bnstudy.errors import UserError
from bnstudy.printing import plain, sturdy_streams

_SURROUNDINGS = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "free some space and try again"),
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), "a process needs some hundred file handles here: see `ulimit -n`"),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "make it accessible, or use another place"),
}
"""What helps against troubles that a command's surroundings make."""
UsageError: type[Exception] = typer.BadParameter.__bases__[0]
"""What typer raises for arguments that fit no command; typer brings a click of its own, so that click's is another class."""
app = typer.Typer(
    name="bnstudy",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["--help", "-h"]},
)


class _StudyCommand(TyperCommand):
    """A command that takes overrides; its help shows them all."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        from bnstudy.sweeps.keys import page

        super().format_help(ctx, formatter)
        formatter.write("\n" + page(min(shutil.get_terminal_size().columns, 125)))


class Shown(StrEnum):
    """What `--cfg` can show."""

    job = "job"


Overrides = Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Overrides, as listed below.")]
Multirun = Annotated[bool, typer.Option("--multirun", "-m", help="Several values of a key are an axis: a cell for each.")]
ConfigDir = Annotated[
    Path | None, typer.Option("--config-dir", "-cd", metavar="FOLDER", help="Configuration of your own, laid out as conf/.")
]
Cfg = Annotated[Shown | None, typer.Option("--cfg", "-c", help="Show the configuration of a cell, and run nothing.")]


def _heed_quiet(wanted: bool) -> bool:
    from bnstudy.printing import quiet, set_quiet

    set_quiet(wanted or quiet())
    return wanted


Quiet = Annotated[bool, typer.Option("--quiet", "-q", callback=_heed_quiet, help="Print nothing but what went wrong.")]
Resolve = Annotated[bool, typer.Option("--resolve", help="With --cfg: interpolations replaced by what they refer to.")]


@app.callback(invoke_without_command=True)
def front(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    quiet: Quiet = False,
) -> None:
    """Which variance should BatchNorm use in training and at inference? Measure it."""
    if version:
        typer.echo(f"bnstudy {bnstudy.__version__}")
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command(cls=_StudyCommand)
def run(
    overrides: Overrides = None,
    multirun: Multirun = False,
    config_dir: ConfigDir = None,
    cfg: Cfg = None,
    resolve: Resolve = False,
    quiet: Quiet = False,
) -> None:
    """Run a study, or a cell; what is done already is kept.

    Trains what is missing and writes tables and a report to results/NAME. The same command typed again goes on where it was.
    """
    from bnstudy import commands

    if cfg is not None:
        commands.show_cell(overrides or [], config_dir, resolve)
    else:
        raise typer.Exit(commands.run(overrides or [], multirun, config_dir))


@app.command(cls=_StudyCommand)
def plan(overrides: Overrides = None, multirun: Multirun = False, config_dir: ConfigDir = None) -> None:
    """Say what `run` would do, and how long it would take.

    Nothing is trained or written.
    """
    from bnstudy import commands

    raise typer.Exit(commands.plan(overrides or [], multirun, config_dir))


@app.command()
def status(name: str, output_dir: Annotated[Path, typer.Option(help="Where the raw runs are.")] = Path("outputs")) -> None:
    """Say what has become of a study.

    Which jobs are done, running and where, missing, failed and why.
    """
    from bnstudy.sweeps.status import print_status

    raise typer.Exit(print_status(name, output_dir))


@app.command()
def report(
    name: str,
    results_dir: Annotated[Path, typer.Option(help="Where results/NAME is.")] = Path("results"),
    output_dir: Annotated[Path, typer.Option(help="Where the raw runs are.")] = Path("outputs"),
    quiet: Quiet = False,
) -> None:
    """Build the tables of a study again from its raw runs."""
    from bnstudy.analysis import report_study

    report_study(name, results_dir, output_dir)


@app.command()
def publish(
    name: str,
    online: Annotated[bool, typer.Option("--online/--offline", help="Send the runs, or only write them.")] = True,
    only: Annotated[list[str] | None, typer.Option(help="KEY=VALUE,VALUE: runs whose configuration says so.")] = None,
    dashboard: Annotated[bool, typer.Option(help="Make or update the study's workspace and report, too.")] = False,
    output_dir: Annotated[Path, typer.Option(help="Where the raw runs are.")] = Path("outputs"),
) -> None:
    """Mirror a study to Weights & Biases from its raw runs.

    Twice does nothing twice.
    """
    from bnstudy.printing import say
    from bnstudy.tracking import publish as send

    raise typer.Exit(send(name, output_dir, online, only or [], dashboard, say))


@app.command()
def predict(
    batch_size: Annotated[int, typer.Option(help="Samples in a batch.")],
    positions: Annotated[int, typer.Option(help="Values per channel in one sample: H·W of an image, 1 for features.")] = 1,
    depth: Annotated[int, typer.Option(help="BatchNorm layers.")] = 8,
    first_m_eff: Annotated[
        float | None, typer.Option(help="Independent samples that a batch is worth in the first layer; default: m.")
    ] = None,
    skip: Annotated[bool, typer.Option("--skip", help="A skip connection around each block.")] = False,
    momentum: Annotated[float | None, typer.Option(help="α, to add the noise of a moving average.")] = None,
) -> None:
    """Print what theory predicts, layer by layer."""
    from bnstudy import prediction

    prediction.predict(prediction.Asked(batch_size, positions, depth, first_m_eff, skip, momentum))


@app.command()
def audit(
    names: Annotated[list[str] | None, typer.Argument(help="Layers or frameworks; none for all.")] = None,
    results_dir: Annotated[Path, typer.Option(help="Where audit/ is written.")] = Path("results"),
    timeout: Annotated[float, typer.Option(help="Seconds for each layer.")] = 300.0,
    only_report: Annotated[bool, typer.Option("--only-report", help="Write the pages again from the table.")] = False,
) -> None:
    """Measure which convention each framework implements.

    Of the installed ones; the extra `audit` brings them all.
    """
    from bnstudy.frameworks.audit import audit as measure

    raise typer.Exit(measure(names or [], results_dir, timeout=timeout, only_report=only_report))


@app.command()
def translate(
    source_file: Annotated[Path, typer.Argument(metavar="IN", help="A safetensors or torch checkpoint.")],
    target_file: Annotated[Path, typer.Argument(metavar="OUT", help="Likewise; settings go beside it.")],
    source: Annotated[str, typer.Option(help="Framework or convention that trained it.")],
    target: Annotated[str, typer.Option(help="Framework or convention that goes on with it.")],
    keep: Annotated[str | None, typer.Option(help="inference: same outputs; training: training goes on unchanged.")] = None,
    as_trained: Annotated[bool, typer.Option(help="Running variances as the target would have stored them.")] = False,
    batch_size: Annotated[str | None, typer.Option(help="Samples a step, or 'varying'.")] = None,
    spatial: Annotated[tuple[int, int] | None, typer.Option(help="H W that every layer saw.")] = None,
    per_layer: Annotated[Path | None, typer.Option(help="YAML or JSON: m, or [H, W], by layer.")] = None,
    momentum: Annotated[str | None, typer.Option(help="Weight of the new batch, or 'cumulative'.")] = None,
    steps: Annotated[int | None, typer.Option(help="Batches seen, where the checkpoint does not say.")] = None,
    eps: Annotated[float | None, typer.Option(help="ε of the source's layers.")] = None,
    target_eps: Annotated[float | None, typer.Option(help="The ε that the target has and cannot change.")] = None,
    optimizer: Annotated[Path | None, typer.Option(help="Torch file with the optimizer's state_dict.")] = None,
    optimizer_out: Annotated[Path | None, typer.Option(help="Where its translation goes.")] = None,
    entry: Annotated[str | None, typer.Option(help="Key of the model's state, where a file holds several.")] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace OUT.")] = False,
) -> None:
    """Carry a checkpoint from a framework or convention to another."""
    from bnstudy.frameworks.translate import Options
    from bnstudy.frameworks.translate import translate as carry

    options = Options(
        source=source,
        target=target,
        keep=keep,
        as_trained=as_trained,
        batch_size=int(batch_size) if batch_size and re.fullmatch(r"-?[0-9]{1,18}", batch_size) else batch_size,
        spatial=spatial,
        per_layer=per_layer,
        momentum=_number(momentum),
        steps=steps,
        eps=eps,
        target_eps=target_eps,
        optimizer=optimizer,
        optimizer_out=optimizer_out,
        entry=entry,
        overwrite=overwrite,
    )
    for line in carry(source_file, target_file, options):
        typer.echo(line)


@app.command()
def diagnose(
    model: Annotated[str, typer.Option(metavar="PKG.MODULE:FUNCTION", help="Builds the model, without arguments.")],
    data: Annotated[
        str,
        typer.Option(metavar="PKG.MODULE:FUNCTION", help="Gives batches of inputs and targets, prepared as in training."),
    ],
    weights: Annotated[Path | None, typer.Option(help="A safetensors or torch checkpoint to load.")] = None,
    entry: Annotated[str | None, typer.Option(help="Key of the model's state, where a file holds several.")] = None,
    evaluation_data: Annotated[str | None, typer.Option(help="Batches on which evaluation mode disappoints.")] = None,
    held_out: Annotated[
        str | None, typer.Option(help="Batches to measure a remedy's gain on; default: half of those of --data.")
    ] = None,
    metric: Annotated[
        str | None, typer.Option(help="accuracy, loss, bce, mse, output_rms or a function of (outputs, targets).")
    ] = None,
    higher_is_better: Annotated[
        bool | None, typer.Option("--higher-is-better/--lower-is-better", help="Of a function given as metric.")
    ] = None,
    batches: Annotated[int | None, typer.Option(help="Batches to use at most.")] = None,
    swap_batches: Annotated[int, typer.Option(help="Batches on which each layer is swapped alone; 0 for none.")] = 2,
    swap_layer: Annotated[list[str] | None, typer.Option(metavar="PATTERN", help="Layers to swap; default: all.")] = None,
    seed: Annotated[int, typer.Option(help="Of dropout and of shuffled data.")] = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda or auto.")] = "auto",
    recalibrate: Annotated[Path | None, typer.Option(metavar="OUT", help="Write weights with measured statistics.")] = None,
    translate: Annotated[
        Path | None, typer.Option(metavar="OUT", help="Write weights with running variances of the layers' own convention.")
    ] = None,
    remedy: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN=CHOICE", help="What to do with some layers instead: recalibrate, translate or keep."),
    ] = None,
    source: Annotated[str | None, typer.Option(help="What to translate from; default: the convention found.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUT.")] = False,
    anyway: Annotated[bool, typer.Option("--anyway", help="Write OUT even if it makes held-out metrics worse.")] = False,
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Write diagnosis.html and diagnosis.json there.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
    fail: Annotated[bool, typer.Option("--fail", help="Exit code 1 where something is wrong.")] = False,
) -> None:
    """Say why train() and eval() disagree, and what to do.

    Any model with BatchNorm layers, with batches as it was trained on.
    """
    given = dict(locals())  # every option by its name
    from bnstudy.diagnosis.command import diagnose as explain
    from bnstudy.diagnosis.options import Options

    raise typer.Exit(explain(Options(**given)))


@app.command()
def completion(shell: Annotated[str, typer.Argument(help="bash, zsh or fish.")]) -> None:
    """Print what teaches a shell to complete commands and keys.

    For bash, put eval "$(bnstudy completion bash)" into ~/.bashrc, for zsh the same with zsh into ~/.zshrc, for fish
    bnstudy completion fish | source into config.fish.
    """
    from bnstudy.completion import script

    typer.echo(script(shell), nl=False)


@app.command(hidden=True)
def complete(words: Annotated[list[str] | None, typer.Argument()] = None) -> None:
    """Print every way to finish the last word; shells ask it."""
    from bnstudy.completion import candidates

    typer.echo("\n".join(candidates(app, words or [""])))


def _number(text: str | None) -> float | str | None:
    """A number where the text is one, else the text, for the command to judge."""
    try:
        return None if text is None else float(text)
    except ValueError:
        return text


def main() -> None:
    """Entry point of the console script."""
    with sturdy_streams():
        try:
            code = _run()
        except Exception:  # our own mistake; its text may hold what the user's configuration does
            from bnstudy.sweeps.redaction import redacted

            sys.stderr.write(redacted(traceback.format_exc()))
            code = 1
    sys.exit(code)


def _run() -> int:
    """Run a command; its exit code. Whatever goes wrong is told without secrets."""
    from bnstudy.sweeps.redaction import redacted

    try:
        _require_current_folder()
        code = app(standalone_mode=False)
    except UserError as error:
        code = _complain(redacted(str(error)))
    except UsageError as error:
        code = _complain(_usage(error))
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except OSError as error:
        if error.errno not in _SURROUNDINGS:
            raise
        place = f"{error.filename}: " if error.filename is not None else ""
        code = _complain(f"{place}{error.strerror}; {_SURROUNDINGS[error.errno]}")
    return int(code or 0)


def _require_current_folder() -> None:
    """Refuse a current folder that somebody has deleted, in which everything fails in its own way."""
    try:
        os.getcwd()
    except OSError as error:
        raise UserError("the current folder does not exist any more; change to one that does") from error


def _complain(text: str) -> int:
    print(plain(text), file=sys.stderr)  # noqa: T201
    return 2


def _usage(error: Any) -> str:
    """A mistake in options or arguments, in a line."""
    context = error.ctx
    command = context.command_path if context is not None else "bnstudy"
    text = " ".join(error.format_message().split()).rstrip(".").replace("Value error, ", "")
    return f"{command}: {text[:1].lower()}{text[1:]}; see `{command} --help`"


if __name__ == "__main__":
    main()
