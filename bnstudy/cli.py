"""The front door: `bnstudy COMMAND`. A mistake of the user's is one or two lines and exit code 2."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Annotated

import typer

from bnstudy.errors import UserError

app = typer.Typer(
    name="bnstudy",
    help="Which variance should BatchNorm use in training and at inference? Measure it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
_HYDRA = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


@app.command(context_settings=_HYDRA)
def run(context: typer.Context) -> None:
    """Run a study or a cell: Hydra overrides such as +experiments=quick, or -m model=mlp,resnet8 batch_size=2,4 seeds=8."""
    from bnstudy import commands

    raise typer.Exit(commands.run(context.args))


@app.command(context_settings=_HYDRA)
def plan(context: typer.Context) -> None:
    """Say what `run` with the same arguments would do, and how long it would take; nothing is trained or written."""
    from bnstudy import commands

    raise typer.Exit(commands.run(context.args, only_plan=True))


@app.command()
def status(name: str, output_dir: Annotated[Path, typer.Option(help="Where the raw runs are.")] = Path("outputs")) -> None:
    """Say what has become of a study: done, running and where, missing, failed and why."""
    from bnstudy import commands

    raise typer.Exit(commands.status(name, output_dir))


@app.command()
def report(
    name: str,
    results_dir: Annotated[Path, typer.Option(help="Where results/NAME is.")] = Path("results"),
    output_dir: Annotated[Path, typer.Option(help="Where the raw runs are.")] = Path("outputs"),
) -> None:
    """Build the tables of a study again from its raw runs."""
    from bnstudy import commands

    commands.report(name, results_dir, output_dir)


@app.command()
def publish(
    name: str,
    online: Annotated[bool, typer.Option("--online/--offline", help="Send the runs, or only write them.")] = True,
    only: Annotated[list[str] | None, typer.Option(help="KEY=VALUE,VALUE: runs whose configuration says so.")] = None,
    dashboard: Annotated[bool, typer.Option(help="Make or update the study's workspace and report, too.")] = False,
    output_dir: Annotated[Path, typer.Option(help="Where the raw runs are.")] = Path("outputs"),
) -> None:
    """Mirror a study to Weights & Biases from its raw runs; twice does nothing twice."""
    from bnstudy import commands

    raise typer.Exit(commands.publish(name, output_dir, online, only or [], dashboard))


@app.command()
def predict(
    batch_size: Annotated[int, typer.Option(help="Samples in a batch.")],
    positions: Annotated[int, typer.Option(help="Values per channel in one sample: H·W of an image, 1 for features.")] = 1,
    m_eff: Annotated[float | None, typer.Option(help="Independent samples that a batch is worth; default: m.")] = None,
    momentum: Annotated[float | None, typer.Option(help="α, to add the noise of a moving average.")] = None,
) -> None:
    """Print what theory predicts for each convention."""
    from bnstudy import commands

    commands.predict(batch_size, positions, m_eff, momentum)


@app.command()
def audit(
    names: Annotated[list[str] | None, typer.Argument(help="Layers or frameworks; none for all.")] = None,
    results_dir: Annotated[Path, typer.Option(help="Where audit/ is written.")] = Path("results"),
    timeout: Annotated[float, typer.Option(help="Seconds for each layer.")] = 300.0,
) -> None:
    """Measure which convention each installed framework implements (the extra `audit` brings them)."""
    from bnstudy.frameworks.audit import audit as measure

    raise typer.Exit(measure(names or [], results_dir, timeout=timeout))


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
    """Say why a trained model behaves differently in train() and eval(), and what to do about it."""
    from bnstudy.diagnosis.command import diagnose as explain
    from bnstudy.diagnosis.options import Options

    options = Options(
        model=model,
        data=data,
        weights=weights,
        entry=entry,
        evaluation_data=evaluation_data,
        held_out=held_out,
        metric=metric,
        higher_is_better=higher_is_better,
        batches=batches,
        swap_batches=swap_batches,
        swap_layers=tuple(swap_layer or ("*",)),
        seed=seed,
        device=device,
        recalibrate=recalibrate,
        translate=translate,
        remedies=tuple(remedy or ()),
        source=source,
        overwrite=overwrite,
        anyway=anyway,
        out=out,
        json=json,
        fail=fail,
    )
    raise typer.Exit(explain(options))


def _number(text: str | None) -> float | str | None:
    """A number where the text is one, else the text, for the command to judge."""
    try:
        return None if text is None else float(text)
    except ValueError:
        return text


def main() -> None:
    """Entry point of the console script."""
    try:
        app()
    except UserError as error:
        print(error, file=sys.stderr)  # noqa: T201
        sys.exit(2)


if __name__ == "__main__":
    main()
