"""What the commands do once their arguments are read; everything heavy is imported here, when it is needed."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bnstudy.errors import UserError


def run(overrides: Sequence[str], multirun: bool = False, config_dir: Path | None = None, only_plan: bool = False) -> int:
    """Run a study: compose its cells, train what is missing, write tables and print them.

    Args:
        overrides: in Hydra's grammar.
        multirun: whether several values of a key are an axis.
        config_dir: a folder of the user's own configuration, beside conf/.
        only_plan: print the plan instead; nothing is trained or written.

    Returns:
        0; 1 if a job is not done; 130 if interrupted.

    Raises:
        UserError: anything wrong with the configuration.
    """
    from bnstudy.sweeps.axes import study_cells
    from bnstudy.sweeps.provenance import command_line

    configs = study_cells(overrides, multirun, config_dir)
    return _plan_cells(configs) if only_plan else _run_cells(configs, command_line())


def show_cell(overrides: Sequence[str], config_dir: Path | None = None, resolve: bool = False) -> None:
    """Print the configuration of one cell as YAML, as `run` would compose it."""
    from bnstudy.sweeps.axes import cell_yaml

    Console(highlight=False).out(cell_yaml(overrides, config_dir, resolve), end="")


def _run_cells(configs: list[Any], command: str) -> int:
    from bnstudy.tracking import Mirror

    first = configs[0]
    planned = _planned(configs)
    _require_writable(Path(first.results_dir))
    with Mirror(planned[1].root, first.name, first.tracking) as mirror:
        code = _run_planned(configs, command, planned, mirror)
        if code != 130:
            mirror.finish()
    if (warning := mirror.warning()) is not None:
        Console(stderr=True, highlight=False).print(warning, markup=False, soft_wrap=True)
    return code


def _run_planned(configs: list[Any], command: str, planned: tuple[Any, Any], mirror: Any) -> int:
    from bnstudy.sweeps.study import describe_failures, run_study

    first = configs[0]
    outcome = run_study(first, *planned, command, mirror)
    errors = Console(stderr=True, highlight=False)
    for line in describe_failures(outcome):
        errors.print(line, markup=False, soft_wrap=True)
    if outcome.interrupted:
        errors.print("stopped; finished jobs are kept, and the same command goes on from here", soft_wrap=True)
        return 130
    try:
        report(first.name, Path(first.results_dir), Path(first.output_dir), first.report)
    except UserError:
        if outcome.complete:
            raise
        return 1  # no job is done, and why was said above
    return 0 if outcome.complete else 1


def _planned(configs: list[Any]) -> tuple[Any, Any]:
    """The plan and its store; comparisons that the cells cannot answer are refused before anything is trained for them."""
    import dataclasses

    from bnstudy.analysis import check_metric, declared_family
    from bnstudy.sweeps.plan import recorded_cells
    from bnstudy.sweeps.planning import plan_study

    plan, store = plan_study(configs)
    for cell in plan.cells:
        check_metric(cell.config)
    declared_family(dataclasses.asdict(configs[0].study), recorded_cells(plan))
    return plan, store


def _plan_cells(configs: list[Any]) -> int:
    from bnstudy.sweeps.engines.local import workers
    from bnstudy.sweeps.estimate import estimate
    from bnstudy.sweeps.planning import plan_changes

    plan, store = _planned(configs)
    console = Console(highlight=False)
    console.print(
        f"{len(plan.cells)} cells, {len(plan.jobs)} jobs: {len(plan.done)} done, {len(plan.missing)} missing, "
        f"{len(plan.failed)} failed"
    )
    for line in plan_changes(plan, store, configs[0].name):
        console.print(line, markup=False)
    for name, record in plan.failed.items():
        console.print(f"failed: {name}: {record.get('message', '')}", markup=False)
    for name, reason in plan.damaged.items():
        console.print(f"{name}: damaged: {reason}; `bnstudy run` trains it again", markup=False, soft_wrap=True)
    if todo := plan.to_run(configs[0].retry_failed):
        engine = configs[0].engine
        cost = estimate(todo, store, workers(engine))
        for line in cost.problems:
            console.print(line, markup=False, soft_wrap=True)
        if not cost.measured + cost.probed:
            return 0
        console.print(
            f"About {_duration(cost.seconds)} on {workers(engine)} workers ({_duration(cost.core_seconds)} of one core; "
            f"{cost.measured} jobs from finished ones, {cost.probed} from a probe), {cost.disk / 1e6:.1f} MB",
            soft_wrap=True,
        )
    return 0


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def status(name: str, output_dir: Path) -> int:
    """Print what has become of a study; 1 if some job is failed or missing and not running."""
    from bnstudy.sweeps.status import status_lines, study_status
    from bnstudy.sweeps.store import Store

    found = study_status(Store(output_dir), name)
    console = Console(highlight=False)
    for line in status_lines(found):
        console.print(line, markup=False, soft_wrap=True)
    return 0 if not (found.failed or found.missing or found.damaged) else 1


def report(name: str, results_dir: Path, output_dir: Path, drawn: bool = True) -> None:
    """Write tables and, if `drawn`, figures and the report of a study to results/NAME; print what is in them.

    From its raw runs where they are; else the tables stay, and the rest is built from them.
    """
    from bnstudy.analysis import printed_tables, provenance_lines, reported, subject_of, write_results
    from bnstudy.sweeps.store import Store

    tables, provenance = reported(name, results_dir, output_dir)
    if Store(output_dir).study(name) is not None:
        write_results(results_dir / name, tables, provenance)
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 120  # a file has no width of its own
    for title, table in printed_tables(tables["summary"]):
        show(console, title, table)
    subject = subject_of(tables, provenance)
    for line in provenance_lines(provenance, subject):
        console.print(line, markup=False, soft_wrap=True)
    if drawn:
        from bnstudy.analysis.report import answer_of, write_report

        write_report(results_dir / name, tables, provenance)
        for sentence in answer_of(tables, subject):
            console.print(sentence, markup=False, soft_wrap=True)
    console.print(f"Results: {results_dir / name}{'/report.html' if drawn else ''}", markup=False, soft_wrap=True)


def publish(name: str, output_dir: Path, online: bool, only: Sequence[str], dashboard: bool) -> int:
    """Mirror a study to W&B from its raw runs; 1 if something of it could not be written or sent."""
    from bnstudy.tracking import publish as send

    console = Console(highlight=False)

    def say(line: str) -> None:
        console.print(line, markup=False, soft_wrap=True)

    return send(name, output_dir, online, only, dashboard, say)


def predict(batch_size: int, positions: int, m_eff: float | None, momentum: float | None) -> None:
    """Print the theory table for a batch of `batch_size` samples with `positions` values per channel each."""
    from bnstudy.batchnorm.conventions import CONVENTIONS
    from bnstudy.batchnorm.theory import predict as prediction

    m = batch_size * positions
    rows = []
    try:
        for name, convention in CONVENTIONS.items():
            plain = prediction(convention, m, m_eff)
            noisy = prediction(convention, m, m_eff, momentum=momentum)
            row: dict[str, Any] = {
                "convention": name,
                "train": plain.train,
                "eval": plain.evaluation,
                "eval/train": plain.ratio,
            }
            if momentum is not None:
                row[f"eval/train, α = {momentum:g}"] = noisy.ratio
            rows.append(row)
    except ValueError as error:
        raise UserError(str(error)) from error
    worth = f"{m}" if m_eff is None else f"{m_eff:g}"
    title = f"Second moment of the normalised activation, m = {m}, m_eff = {worth}, c = {m / (m - 1):.6g}"
    show(
        Console(highlight=False),
        title,
        pd.DataFrame(rows).map(lambda value: f"{value:.6f}" if isinstance(value, float) else value),
    )


def show(console: Console, title: str, frame: pd.DataFrame) -> None:
    """Print a DataFrame of texts as a table."""
    console.print(f"[bold]{escape(title)}")
    table = Table()
    for index, column in enumerate(frame.columns):
        table.add_column(str(column), justify="left" if index == 0 else "right")
    for row in frame.itertuples(index=False):
        table.add_row(*(str(value) for value in row))
    console.print(table)


def _require_writable(folder: Path) -> None:
    """Refuse a results folder that cannot be made or written; none is left behind by looking."""
    made: list[Path] = []
    try:
        for parent in reversed([folder, *folder.parents]):
            if not parent.exists():
                parent.mkdir()
                made.append(parent)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise UserError(
            f"results_dir: {str(folder)!r} cannot be written ({reason}); use a folder you may write to"
        ) from error
    finally:
        for parent in reversed(made):
            parent.rmdir()
