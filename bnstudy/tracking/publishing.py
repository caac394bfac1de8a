"""From the store to W&B: `bnstudy publish`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from bnstudy.batchnorm.conventions import ALIASES
from bnstudy.errors import UserError
from bnstudy.names import suggested
from bnstudy.sweeps.redaction import redacted
from bnstudy.sweeps.store import Store, store_option
from bnstudy.tracking.ledger import Ledger
from bnstudy.tracking.mirror import StudyMirror
from bnstudy.tracking.record import MirroredRun
from bnstudy.tracking.sending import destination, send_runs, server
from bnstudy.tracking.writing import NotWrittenError, write_runs


def publish(
    name: str, output_dir: Path, online: bool, only: Sequence[str], dashboard: bool, say: Callable[[str], None]
) -> int:
    """Write a study's runs into W&B's offline folders, and send those that the server does not have.

    Args:
        name: the study.
        output_dir: the store's folder.
        online: also send them.
        only: conditions "key=value,value" on a run's configuration; all must hold.
        dashboard: save workspace and report as well; as JSON files where offline.
        say: prints a line.

    Returns:
        0; 1 if a run was not written or not sent.

    Raises:
        UserError: no such study, or a condition that cannot be read or that no run meets.

    Source: docs/architecture.md, "The mirror in W&B".
    """
    study = StudyMirror(Store(output_dir), name)
    ledger = Ledger(output_dir, name)
    wanted = _conditions(only)
    chosen: dict[str, list[str]] = {}
    written = 0
    keys: set[str] = set()
    for job in study.jobs():
        runs = study.runs(job)
        keys |= {key for run in runs for key in run.config}
        runs = [run for run in runs if _meets(run, wanted)]
        if not runs:
            continue
        chosen[job] = [run.id for run in runs]
        try:
            written += write_runs(ledger, job, runs)
        except NotWrittenError as error:
            say(f"W&B: {error}; nothing else is affected, and the same command goes on from here")
            return 1
    count = sum(map(len, chosen.values()))
    if not count:
        if not keys:
            raise UserError(f"{name}: none of its jobs is done; run it with `bnstudy run`")
        if unknown := sorted(set(wanted) - keys):
            raise UserError(f"only: {unknown[0]!r} is no key of these runs; use {', '.join(sorted(keys))}")
        raise UserError(f"only: no run of {name!r} meets {' and '.join(only)}")
    say(f"{count} runs in {ledger.folder / 'wandb'}: {written} written, {count - written} there already")
    if not online:
        if dashboard:
            for path in _dashboard_files(study, ledger):
                say(f"Dashboard: {path}")
        return 0
    sent = send_runs(ledger, chosen)
    if sent.problem is not None:
        say(f"W&B: {sent.problem}; {suggested('publish', name, *store_option(output_dir), '--online')} tries again")
        return 1
    say(f"{count} runs at {redacted(server())}: {sent.count} sent, {count - sent.count} there already")
    return _save_dashboards(study, ledger, say) if dashboard else 0


def _dashboard_files(study: StudyMirror, ledger: Ledger) -> list[Path]:
    from bnstudy.tracking.dashboards import write_specifications

    return write_specifications(ledger.folder / "dashboards", study.record, study.layer_names())


def _save_dashboards(study: StudyMirror, ledger: Ledger, say: Callable[[str], None]) -> int:
    from bnstudy.tracking.dashboards import save

    try:
        for address in save(study.record, destination(), ledger.folder / "dashboards.json", study.layer_names()):
            say(f"Dashboard: {address}")
    except ConnectionError as error:
        again = suggested("publish", study.name, *store_option(study.store.root), "--dashboard")
        say(f"W&B: dashboards were not saved ({error}); {again} tries again")
        return 1
    return 0


def _conditions(only: Sequence[str]) -> dict[str, set[str]]:
    accepted: dict[str, set[str]] = {}
    for text in only:
        key, equals, values = text.partition("=")
        if not (key and equals and values):
            raise UserError(f"only: {text!r} is no condition; use KEY=VALUE or KEY=VALUE,VALUE, such as batch_size=2,4")
        names = [ALIASES.get(value, value) if key == "convention" else value for value in values.split(",")]
        accepted.setdefault(key, set()).update(names)
    return accepted


def _meets(run: MirroredRun, wanted: Mapping[str, set[str]]) -> bool:
    return all(str(run.config.get(key)) in values for key, values in wanted.items())
