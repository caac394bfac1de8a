"""`bnstudy diagnose`: a user's model on a user's batches, told, written, and mended on request."""

from __future__ import annotations

import math
import os
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from rich.console import Console

from bnstudy.analysis.figures.units import amount, listed, number, plural
from bnstudy.diagnosis.bar import Bar
from bnstudy.diagnosis.diagnose import diagnose as measure
from bnstudy.diagnosis.machine import to_json
from bnstudy.diagnosis.options import Options, Wanted, wanted
from bnstudy.diagnosis.page import write_diagnosis
from bnstudy.diagnosis.remedies import Remedied, remedy
from bnstudy.diagnosis.supplied import SuppliedBatches, device_named, metric_named, model_named
from bnstudy.diagnosis.terminal import print_diagnosis
from bnstudy.diagnosis.weights import Weights, check_output, load_weights, writer
from bnstudy.errors import UserError
from bnstudy.frameworks.translate import files
from bnstudy.metric import metric_of
from bnstudy.sweeps.provenance import command_line

_OPTIONS = {
    "model": "--model",
    "batches": "--data",
    "evaluation_batches": "--evaluation-data",
    "held_out": "--held-out",
    "metric": "--metric",
    "limit": "--batches",
    "swap_layers": "--swap-layer",
    "remedy": "--remedy",
    "translate": "--translate",
    "source": "--source",
    "folder": "--out",
}
"""Arguments of the functions by the option that the user gave them by."""
_HARMLESS = ("healthy", "other_layers")
"""First findings that `--fail` lets pass: dropout is meant to differ between modes."""


def diagnose(options: Options) -> int:
    """Diagnose a model, say and write what was found, and write remedied weights where they were asked for.

    Everything is measured before anything is written. A remedy that makes held-out metrics worse is not written.

    Args:
        options: see `Options`.

    Returns:
        0; 1 if a remedy was refused for its harm, or with `fail` for a model that is not healthy; 130 if interrupted.

    Raises:
        UserError: whatever is wrong with what was given; nothing is written then.

    Source: bnstudy issue 7.
    """
    try:
        return _diagnose(options)
    except UserError as error:
        key, colon, rest = str(error).partition(":")
        raise UserError(_OPTIONS.get(key, key) + colon + rest) from error
    except KeyboardInterrupt:
        print("interrupted; nothing was written", file=sys.stderr)  # noqa: T201
        return 130


def _diagnose(options: Options) -> int:
    asked_for = wanted(options)
    device = device_named(options.device)
    metric = metric_named(options.metric)
    _check_numbers(options)
    torch.manual_seed(options.seed)  # of what the user's functions draw
    model = model_named(options.model)
    weights = Weights() if options.weights is None else load_weights(model, options.weights, options.entry)
    for each in asked_for:
        check_output(each.option, each.out, weights, options.overwrite)
    model = model.to(device)
    batches = SuppliedBatches("--data", options.data)
    others = [
        None if spec is None else SuppliedBatches(option, spec)
        for option, spec in (("--evaluation-data", options.evaluation_data), ("--held-out", options.held_out))
    ]
    asked: dict[str, Any] = {
        "metric": metric,
        "higher_is_better": options.higher_is_better,
        "limit": options.batches,
        "seed": options.seed,
    }
    screen = Console(stderr=True)
    _tell(screen, [f"note: {note}" for note in weights.notes])
    with Bar(screen) as bar:
        diagnosis = measure(
            model,
            batches,
            evaluation_batches=others[0],
            swap_batches=options.swap_batches,
            swap_layers=tuple(options.swap_layers) or ("*",),
            progress=bar,
            **asked,
        )
    if not options.json:
        print_diagnosis(Console(highlight=False), diagnosis)
    with Bar(screen) as bar:
        remedied = [
            (each, remedy(model, batches, each.choice, others[1], source=options.source, progress=bar, **asked))
            for each in asked_for
        ]
    refused = [each.out for each, made in remedied if made.harmful and not options.anyway]
    writers = {each.out: writer(model, weights, made.state, each.out) for each, made in remedied if each.out not in refused}
    extra = {"command": command_line(), "remedies": [_plain(each, made, each.out in writers) for each, made in remedied]}
    diagnosis = replace(diagnosis, setting={**diagnosis.setting, **extra})
    if writers:
        files.write_together(writers)
    if options.out is not None:
        write_diagnosis(options.out, diagnosis)
    if options.json:
        print(to_json(diagnosis))  # noqa: T201
    said = screen if options.json else Console()
    for each, made in remedied:
        _tell(said, ["", *_lines(each, made, each.out in writers)])
    return 1 if refused or (options.fail and diagnosis.findings[0].kind not in _HARMLESS) else 0


def _check_numbers(options: Options) -> None:
    if options.batches is not None and options.batches < 1:
        raise UserError(f"--batches: {options.batches} leaves no batch; use 1 or more")
    if options.swap_batches < 0:
        raise UserError(f"--swap-batches: {options.swap_batches} is no number of batches; use 0 for no swaps, or more")
    if options.entry is not None and options.weights is None:
        raise UserError("--entry: it is the key of a state in --weights, which is not given")
    if options.held_out is not None and options.recalibrate is None and options.translate is None:
        raise UserError("--held-out: it measures what a remedy gains; give --recalibrate OUT or --translate OUT too")
    if options.out is not None:
        there = next(path for path in (options.out, *options.out.absolute().parents) if path.exists())
        if not there.is_dir() or not os.access(there, os.W_OK):
            raise UserError(f"--out: {options.out} cannot be made or written to; name another folder")


def _plain(each: Wanted, made: Remedied, written: bool) -> dict[str, Any]:
    """A remedy for machines."""
    return {
        "file": str(each.out),
        "written": written,
        "choices": made.choices,
        "convention": made.convention,
        "calibrating": made.calibrating,
        "measuring": made.measuring,
        "gains": made.gains.to_dict("records"),
        "harmful": list(made.harmful),
        "notes": list(made.notes),
    }


def _lines(each: Wanted, made: Remedied, written: bool) -> list[str]:
    """A remedy in words."""
    counts = Counter(made.choices.values())
    done = {"recalibrate": "recalibrated", "translate": f"translated from {made.convention!r}", "keep": "kept"}
    what = listed([f"{plural(counts[choice], 'layer')} {word}" for choice, word in done.items() if counts[choice]])
    lines = [f"{each.option}: {what}; in evaluation mode, on {plural(made.measuring, 'held-out batch')}:"]
    for row in made.gains.to_dict("records"):
        metric = metric_of(row["metric"])
        before, after = (number(row[side] * metric.factor, metric.decimals) for side in ("before", "after"))
        error = "" if math.isnan(row["error"]) else f" ± {amount(row['error'], metric, unit=False)}"
        better = "change" if row["direction"] is None else "gain"
        unit = f" {metric.level_unit}" if metric.level_unit else ""
        lines.append(f"  {metric.label}: {before} to {after}{unit}, {better} {amount(row['gain'], metric)}{error}")
    lines += [f"note: {note}" for note in made.notes]
    if written:
        return [*lines, f"written: {each.out}"]
    worse = listed([metric_of(name).label for name in made.harmful])
    return [*lines, f"{each.option}: {each.out} is not written, since {worse} would be worse by it; --anyway writes it"]


def _tell(console: Console, lines: Sequence[str]) -> None:
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)
