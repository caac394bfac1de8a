"""W&B dashboards of a study as code: a workspace and a report, built without a server and saved by one call.

wandb and wandb_workspaces are imported in the functions that need them.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from bnstudy.analysis.schemas import TERMS
from bnstudy.atomic import DamagedError
from bnstudy.errors import first_line
from bnstudy.metric import metric_of, metrics_for, primary_metric
from bnstudy.sweeps.store import Record, read_json, write_json
from bnstudy.tracking.record import PROJECT
from bnstudy.training.data import DATASETS

_WAIT = 60.0
_HALF, _WHOLE = 12, 24  # of a row's 24 units


@dataclass(frozen=True)
class Place:
    """Where in W&B a study's runs are.

    Args:
        entity: user or team; "" where it is not known yet.
        project: project of the runs.
    """

    entity: str = ""
    project: str = PROJECT


def primary_number(study: Record) -> tuple[str, str]:
    """Split and metric that a study's dashboards show first."""
    declared = study["study_fields"]
    tasks = {_task(cell["fields"]) for cell in study["cells"]}
    return declared.get("split") or "test", declared.get("metric") or primary_metric(metrics_for(*tasks))


def _task(fields: Mapping[str, Any]) -> str:
    """The task of a cell: recorded of the user's own data, known of the others."""
    return str(fields.get("dataset.task") or DATASETS[fields["dataset.name"]].task)


def workspace(study: Record, place: Place, layers: tuple[str, ...] = ()) -> Any:
    """A workspace of a study: gaps against batch size by convention, curves, decomposition, layer ratios, run comparer.

    Args:
        study: its record in the store.
        place: where its runs are.
        layers: names of BatchNorm layers to show the moment ratio of; without them the section is left out.

    Returns:
        A `wandb_workspaces.workspaces.Workspace`, not saved.

    Source: docs/architecture.md, "The mirror in W&B".
    """
    ws: Any = import_module("wandb_workspaces.workspaces")

    name = study["study"]
    sections = [
        ws.Section(name=title, panels=panels, is_open=index < 2)
        for index, (title, panels) in enumerate(_sections(*primary_number(study), layers))
    ]
    return ws.Workspace(
        entity=place.entity,
        project=place.project,
        name=f"bnstudy {name}",
        sections=sections,
        settings=ws.WorkspaceSettings(x_axis="epoch", max_runs=100, group_by_prefix="first"),
        runset_settings=ws.RunsetSettings(
            filters=[ws.Config("study") == name],
            groupby=[ws.Config("convention")],
            order=[ws.Ordering(ws.Config("batch_size"), ascending=True)],
            pinned_columns=["run:displayName", "config:convention", "config:batch_size", "config:seed"],
        ),
    )


def report(study: Record, place: Place, layers: tuple[str, ...] = ()) -> Any:
    """A report of a study, not saved: what was asked, what was expected, and the panels of its `workspace`."""
    wr: Any = import_module("wandb_workspaces.reports.v2")  # its types do not say what it exports

    declared = study["study_fields"]
    blocks: list[Any] = []
    for title, text in (("Question", declared.get("question")), ("Hypothesis", declared.get("hypothesis"))):
        if text:
            blocks += [wr.H2(text=title), wr.P(text=text)]
    blocks += [wr.H2(text="Command"), wr.MarkdownBlock(text=f"`{study['command']}`")]
    for title, panels in _sections(*primary_number(study), layers):
        runs = wr.Runset(
            entity="",  # the report's own project; named, it would be asked of the server
            project="",
            name=study["study"],
            filters=f"Config('study') = '{study['study']}'",
            groupby=["config.convention"],
        )
        blocks += [wr.H2(text=title), wr.PanelGrid(runsets=[runs], panels=panels)]
    return wr.Report(
        entity=place.entity,
        project=place.project,
        title=f"bnstudy {study['study']}"[:128],
        description=declared.get("question") or "",
        blocks=blocks,
        width="fluid",
    )


def _sections(split: str, metric: str, layers: tuple[str, ...]) -> list[tuple[str, list[Any]]]:
    wr: Any = import_module("wandb_workspaces.reports.v2")  # its types do not say what it exports

    def against_batch_size(title: str, key: str, y: int, x: int = 0) -> Any:
        layout = wr.Layout(x=x, y=y, w=_HALF, h=8)
        axis = {"x": wr.Config("batch_size"), "log_x": True}
        return wr.ScatterPlot(title=title, y=wr.SummaryMetric(key), layout=layout, **axis)

    def curve(title: str, keys: list[str], x: int, y: int) -> Any:
        return wr.LinePlot(
            title=title,
            x="epoch",
            y=keys,
            groupby=wr.Config("convention"),
            groupby_aggfunc="mean",
            groupby_rangefunc="stderr",
            max_runs_to_show=100,
            layout=wr.Layout(x=x, y=y, w=_HALF, h=8),
        )

    def bars(title: str, keys: list[str], y: int) -> Any:
        return wr.BarPlot(
            title=title,
            metrics=keys,
            orientation="v",
            groupby=wr.Config("convention"),
            groupby_aggfunc="mean",
            groupby_rangefunc="stderr",
            max_runs_to_show=100,
            layout=wr.Layout(x=0, y=y, w=_WHOLE, h=10),
        )

    companion = metric_of(metric).companion
    shown = [metric, companion] if companion else [metric]
    other = "train" if split == "test" else "test"
    sections = [
        (
            "Gap against batch size",
            [
                against_batch_size(f"{part} {name} gap", f"decomposition/{part}/{name}/gap", 8 * row, _HALF * column)
                for row, part in enumerate((split, other))
                for column, name in enumerate(shown)
            ],
        ),
        (
            "Training and inference, epoch by epoch",
            [
                curve(f"{part} {metric}, {mode.replace('_', ' ')}", [f"{part}/{mode}/{metric}"], _HALF * column, 8 * row)
                for row, part in enumerate((split, other))
                for column, mode in enumerate(("train_mode", "eval_mode"))
            ]
            + [curve(f"{split} {metric}, gap", [f"{split}/gap/{metric}"], 0, 16)],
        ),
        (
            "Causes of the gap",
            [
                bars(f"{part} {metric}: terms", [f"decomposition/{part}/{metric}/{term}" for term in TERMS], 10 * row)
                for row, part in enumerate((split, other))
            ],
        ),
    ]
    if layers:
        keys = [f"layers/{layer}/ratio" for layer in layers]
        sections.append(("Layers: second moment, eval over train", [bars("Ratio by layer", keys, 0)]))
    comparer = wr.RunComparer(diff_only="split", layout=wr.Layout(x=0, y=0, w=_WHOLE, h=16))
    return [*sections, ("Runs compared", [comparer])]


def specification(view: Any) -> Record:
    """What is sent to W&B for a workspace or report, with its random names numbered: equal content gives equal records."""
    return dict(_numbered(json.loads(view._to_model().model_dump_json(by_alias=True, exclude_none=True)), {}))


def _numbered(node: Any, names: dict[str, str]) -> Any:
    if isinstance(node, Mapping):
        return {
            key: names.setdefault(value, f"id-{len(names)}")
            if key in ("id", "__id__", "ref") and isinstance(value, str) and value
            else _numbered(value, names)
            for key, value in node.items()
        }
    return [_numbered(item, names) for item in node] if isinstance(node, list) else node


def write_specifications(folder: Path, study: Record, layers: tuple[str, ...] = ()) -> list[Path]:
    """Write workspace and report as JSON, for use without a server."""
    paths = []
    for name, build in (("workspace", workspace), ("report", report)):
        paths.append(folder / f"{name}.json")
        write_json(paths[-1], specification(build(study, Place(), layers)))
    return paths


def save(study: Record, server: str, memory: Path, layers: tuple[str, ...] = ()) -> list[str]:
    """Create a study's workspace and report on a server, or update those that were saved before.

    Args:
        study: its record in the store.
        server: the server's address.
        memory: JSON file that remembers what was saved where.
        layers: see `workspace`.

    Returns:
        Addresses of the two.

    Raises:
        ConnectionError: the server refused, or took longer than a minute; one line says what.
    """
    try:
        known = read_json(memory) or {}
    except DamagedError:
        known = {}  # then they are made anew
    saved = known.setdefault(server, {})
    try:
        with _within(_WAIT):
            os.environ["WANDB_ERROR_REPORTING"] = "false"
            import wandb

            entity = os.environ.get("WANDB_ENTITY") or wandb.Api(timeout=15).default_entity or ""
            place = Place(entity, os.environ.get("WANDB_PROJECT") or PROJECT)
            board = workspace(study, place, layers)
            board._internal_name, board._internal_id = saved.get("workspace", ["", ""])
            board.save()
            page = report(study, place, layers)
            page.id = saved.get("report", "")
            page.save()
    except Exception as error:  # whatever W&B raises
        raise ConnectionError(first_line(error)) from error
    saved |= {"workspace": [board._internal_name, board._internal_id], "report": page.id}
    write_json(memory, known)
    return [board.url, page.url]


@contextlib.contextmanager
def _within(seconds: float) -> Iterator[None]:
    def give_up(number: int, frame: FrameType | None) -> NoReturn:
        raise TimeoutError(f"no answer within {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
