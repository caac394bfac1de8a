"""What `run`, `plan` and `predict` do; everything heavy is imported here, when it is needed.

A study is run where its rooms meet: sweeps train, tracking mirrors what is done, analysis asks and answers.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bnstudy.errors import UserError
from bnstudy.printing import say

if TYPE_CHECKING:
    from bnstudy.sweeps.config import Config
    from bnstudy.sweeps.plan import Plan
    from bnstudy.sweeps.store import Store
    from bnstudy.sweeps.study import StudyOutcome


def run(overrides: Sequence[str], multirun: bool = False, config_dir: Path | None = None) -> int:
    """Run a study: compose its cells, train what is missing, write tables and print them.

    Args:
        overrides: in Hydra's grammar.
        multirun: whether several values of a key are an axis.
        config_dir: a folder of the user's own configuration, beside conf/.

    Returns:
        0; 1 if a job is not done; 130 if interrupted.

    Raises:
        UserError: anything wrong with the configuration.

    Source: docs/architecture.md, "The way of a batch size".
    """
    from bnstudy.sweeps.interrupts import CODE, STOPPED, interrupts

    with interrupts(stay=True):
        try:
            code = _run(overrides, multirun, config_dir)
        except KeyboardInterrupt:
            code = CODE
        if code == CODE:
            say(STOPPED, error=True)
        return code


def _run(overrides: Sequence[str], multirun: bool, config_dir: Path | None) -> int:
    from bnstudy.analysis.results import require_own
    from bnstudy.sweeps.axes import study_cells
    from bnstudy.sweeps.config import Config
    from bnstudy.sweeps.interrupts import CODE, last_resort
    from bnstudy.sweeps.provenance import command_line
    from bnstudy.sweeps.redaction import redacted
    from bnstudy.sweeps.study import describe_failures, run_study
    from bnstudy.tracking import Mirror, mode_and_note

    configs = study_cells(overrides, multirun, config_dir)
    first = configs[0]
    plan, store = _planned(configs)
    require_own(Path(first.results_dir) / first.name)
    _require_writable(Path(first.results_dir))
    given = first.tracking != Config().tracking or any(text.lstrip("+").startswith("tracking=") for text in overrides)
    mode, note = mode_and_note(first.tracking, given)
    if note is not None:
        say(note, error=True)
    with Mirror(store.root, first.name, mode) as mirror, last_resort(mirror.kill):
        outcome = run_study(first, plan, store, command_line(), mirror)
        for line in describe_failures(outcome):
            say(line, error=True)
        if not outcome.interrupted:
            _report(first, outcome)
            mirror.finish()
    if (warning := mirror.warning()) is not None:
        say(redacted(warning), error=True)
    return CODE if outcome.interrupted else 0 if outcome.complete else 1


def plan(overrides: Sequence[str], multirun: bool = False, config_dir: Path | None = None) -> int:
    """Print what `run` would do and how long it would take; nothing is trained or written.

    Args:
        overrides, multirun, config_dir: see `run`.

    Returns:
        0.

    Raises:
        UserError: anything wrong with the configuration.
    """
    from bnstudy.sweeps.axes import study_cells
    from bnstudy.sweeps.engines.local import workers
    from bnstudy.sweeps.estimate import estimate
    from bnstudy.sweeps.planning import plan_changes
    from bnstudy.sweeps.redaction import redacted

    configs = study_cells(overrides, multirun, config_dir)
    plan, store = _planned(configs)
    counts = f"{len(plan.done)} done, {len(plan.missing)} missing, {len(plan.failed)} failed"
    say(f"{len(plan.cells)} cells, {len(plan.jobs)} jobs: {counts}")
    for line in plan_changes(plan, store, configs[0].name):
        say(line)
    for name, record in plan.failed.items():
        say(redacted(f"failed: {name}: {record.get('message', '')}"))
    for name, reason in plan.damaged.items():
        say(f"{name}: damaged: {reason}; `bnstudy run` trains it again")
    if todo := plan.to_run(configs[0].retry_failed):
        number = workers(configs[0].engine)
        cost = estimate(todo, store, number)
        for line in cost.problems:
            say(redacted(line))
        if cost.measured + cost.probed:
            jobs = f"{cost.measured} jobs from finished ones, {cost.probed} from a probe"
            core = f"{_duration(cost.core_seconds)} of one core; {jobs}"
            say(f"About {_duration(cost.seconds)} on {number} workers ({core}), {cost.disk / 1e6:.1f} MB")
    return 0


def show_cell(overrides: Sequence[str], config_dir: Path | None = None, resolve: bool = False) -> None:
    """Print the configuration of one cell as YAML, as `run` would compose it."""
    from bnstudy.sweeps.axes import cell_yaml

    print(cell_yaml(overrides, config_dir, resolve), end="")  # noqa: T201


def _planned(configs: Sequence[Config]) -> tuple[Plan, Store]:
    """The plan and its store; comparisons that the cells cannot answer are refused before anything is trained for them."""
    from bnstudy.analysis import check_metric, declared_family
    from bnstudy.sweeps.plan import recorded_cells
    from bnstudy.sweeps.planning import plan_study

    plan, store = plan_study(configs)
    for cell in plan.cells:
        check_metric(cell.config)
    declared_family(dataclasses.asdict(configs[0].study), recorded_cells(plan))
    return plan, store


def _report(config: Config, outcome: StudyOutcome) -> None:
    from bnstudy.analysis import report_study

    try:
        report_study(config.name, Path(config.results_dir), Path(config.output_dir), config.report)
    except UserError:
        if outcome.complete or outcome.plan.done or any(item.status == "done" for item in outcome.outcomes):
            raise  # otherwise no job is done, and why has been said


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


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
