"""The front door: `bnstudy COMMAND`. A mistake of the user's is one or two lines and exit code 2."""

from __future__ import annotations

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
def predict(
    batch_size: Annotated[int, typer.Option(help="Samples in a batch.")],
    positions: Annotated[int, typer.Option(help="Values per channel in one sample: H·W of an image, 1 for features.")] = 1,
    m_eff: Annotated[float | None, typer.Option(help="Independent samples that a batch is worth; default: m.")] = None,
    momentum: Annotated[float | None, typer.Option(help="α, to add the noise of a moving average.")] = None,
) -> None:
    """Print what theory predicts for each convention."""
    from bnstudy import commands

    commands.predict(batch_size, positions, m_eff, momentum)


def main() -> None:
    """Entry point of the console script."""
    try:
        app()
    except UserError as error:
        print(error, file=sys.stderr)  # noqa: T201
        sys.exit(2)


if __name__ == "__main__":
    main()
