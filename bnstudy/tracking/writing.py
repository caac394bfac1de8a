"""Runs into W&B's offline folders: the only place that calls wandb for runs."""

from __future__ import annotations

import contextlib
import math
import os
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from bnstudy.errors import first_line
from bnstudy.tracking.ledger import Ledger, RunEntry
from bnstudy.tracking.record import PROJECT, MirroredRun

RUNS_OPEN = 64
"""Runs that are open at a time, so that their starts and ends overlap."""
_FLUSH = 10.0
_BLOCK, _HEADER, _PREAMBLE = 32768, 7, 7


class NotWrittenError(Exception):
    """W&B did not take a run; one line says why."""


def prepare(ledger: Ledger) -> None:
    """Load wandb before the first run needs it; an error is reported when a run is written."""
    with contextlib.suppress(Exception), _environment(ledger.folder):
        import wandb  # noqa: F401


def write_runs(ledger: Ledger, job: str, runs: Sequence[MirroredRun], heard: Callable[[], None] = lambda: None) -> int:
    """Write the runs of a job that are not there, or not with this content, as W&B's offline runs.

    A run is recorded once its log was read back to its last record. So one that a full disk or a killed process cut short
    is written again the next time, and a complete one is left alone.

    Args:
        ledger: the study's.
        job: whose runs they are.
        runs: what to write.
        heard: called at every run, since a job may have a hundred.

    Returns:
        How many runs were written.

    Raises:
        NotWrittenError: W&B or the disk refused; nothing of it is recorded.

    Source: docs/architecture.md, "The mirror in W&B".
    """
    try:
        with ledger.lock():
            entries = ledger.entries(job)
            digests = {run.id: run.digest() for run in runs}
            todo = [run for run in runs if not _there(ledger, run.id, entries.get(run.id), digests[run.id])]
            if not todo:
                return 0
            ledger.remove(run.id for run in todo)
            with _environment(ledger.folder):
                for start in range(0, len(todo), RUNS_OPEN):
                    for run, file in _write(todo[start : start + RUNS_OPEN], ledger.folder, heard):
                        facts = {"folder": file.parent.name, "bytes": file.stat().st_size}
                        entries[run] = {"digest": digests[run], **facts, "servers": []}
            ledger.save(job, entries)
            return len(todo)
    except (OSError, NotWrittenError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise NotWrittenError(f"cannot write runs ({reason})") from error


def _there(ledger: Ledger, run: str, entry: RunEntry | None, digest: str) -> bool:
    if entry is None or entry["digest"] != digest:
        return False
    if entry["servers"]:
        return True  # a folder that was sent may be cleaned away (`wandb clean`)
    file = ledger.run_file(run, entry)
    return file is not None and is_finished(file)


def _write(batch: Sequence[MirroredRun], root: Path, heard: Callable[[], None]) -> list[tuple[str, Path]]:
    open_runs: list[tuple[MirroredRun, Any, Path]] = []
    try:
        import wandb

        settings = wandb.Settings(
            mode="offline",
            root_dir=str(root),
            console="off",
            silent=True,
            host="",  # nobody's business, as in our own records
            init_timeout=20.0,
            symlink=False,  # three a run, for the latest one only
            disable_git=True,
            disable_code=True,
            disable_job_creation=True,
            x_disable_meta=True,  # neither command line nor environment
            x_disable_stats=True,
            x_disable_machine_info=True,
            x_save_requirements=False,
        )
        for run in batch:
            opened = wandb.init(
                project=PROJECT,
                id=run.id,
                name=run.name,
                group=run.group,
                job_type=run.job_type,
                tags=run.tags,
                config=run.config,
                reinit="create_new",
                settings=settings,
            )
            open_runs.append((run, opened, Path(opened.settings.sync_file)))
            _log(run, opened, wandb)
            heard()
        for _, opened, _ in open_runs:
            opened.finish()
            heard()
    except Exception as error:  # whatever W&B raises, it must not become the study's
        for _, opened, _ in open_runs:
            with contextlib.suppress(Exception):
                opened.finish(exit_code=1)
        raise NotWrittenError(first_line(error)) from error
    deadline = time.monotonic() + _FLUSH
    for run, _, file in open_runs:
        while not is_finished(file):  # W&B's service flushes a log a moment after it said that the run is finished
            if time.monotonic() < deadline:
                time.sleep(0.01)
                continue
            raise NotWrittenError(f"the log of {run.id} is cut short; is the disk full?")
    return [(run.id, file) for run, _, file in open_runs]


def _log(run: MirroredRun, opened: Any, wandb: Any) -> None:
    for axis in ("epoch", "step"):
        opened.define_metric(axis)
    for prefix in sorted({key.partition("/")[0] for row in run.history for key in row if "/" in key}):
        opened.define_metric(f"{prefix}/*", step_metric="epoch")
    for row in run.history:
        opened.log(row)
    opened.summary.update({key: _encoded(value) for key, value in run.summary.items()})
    for key, (columns, rows) in run.tables.items():
        opened.log({key: wandb.Table(columns=columns, data=rows)})
    for key, (title, rows) in run.bars.items():
        table = wandb.Table(columns=["label", "value"], data=rows)
        opened.log({key: wandb.plot.bar(table, "label", "value", title=title)})


def _encoded(value: Any) -> Any:
    """A number as W&B writes it in a history; in a summary W&B itself turns one that is not finite into None."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


@contextlib.contextmanager
def _environment(root: Path) -> Iterator[None]:
    """Hide the user's settings and key from W&B while it writes, and keep its files under the study's folder."""
    before = dict(os.environ)
    for name in before:
        if name.startswith("WANDB_"):
            del os.environ[name]
    folders = {f"WANDB_{kind}_DIR": str((root / "local" / kind.lower()).absolute()) for kind in ("CACHE", "CONFIG", "DATA")}
    os.environ.update(folders | {"WANDB_ERROR_REPORTING": "false", "WANDB_SILENT": "true", "WANDB_MODE": "offline"})
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def is_finished(file: Path) -> bool:
    """Whether a run's log is complete: then its last record is that of the run's end."""
    try:
        record: Any = import_module("wandb.proto.wandb_internal_pb2").Record
        last = _last_record(file.read_bytes())
        return last is not None and bool(record.FromString(last).HasField("exit"))
    except Exception:  # unreadable is unfinished
        return False


def _last_record(log: bytes) -> bytes | None:
    """The last complete record of a W&B log: LevelDB's format of blocks and fragments, after a preamble."""
    position, record, last = _PREAMBLE, b"", None
    while position + _HEADER <= len(log):
        if (left := _BLOCK - position % _BLOCK) < _HEADER:
            position += left
            continue
        _, length, kind = struct.unpack_from("<IHB", log, position)
        begin, position = position + _HEADER, position + _HEADER + length
        record = (b"" if kind in (1, 2) else record) + log[begin:position]  # 1 whole, 2 first, 3 middle, 4 last
        if kind in (1, 4) and position <= len(log):
            last = record
    return last
