"""`bnstudy diagnose`: a user's model on a user's batches, told, written, and mended on request."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import replace
from typing import Any

import torch
from rich.console import Console

from bnstudy.analysis.wording import listed, plural
from bnstudy.diagnosis.account import gains
from bnstudy.diagnosis.bar import Bar
from bnstudy.diagnosis.diagnose import diagnose as measure
from bnstudy.diagnosis.machine import to_json
from bnstudy.diagnosis.options import Options, Wanted
from bnstudy.diagnosis.page import write_diagnosis
from bnstudy.diagnosis.remedies import Remedied, remedy
from bnstudy.diagnosis.supplied import batches_named, device_named, metric_named, model_named
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

    Returns:
        0; 1 if a remedy was refused for its harm, or with `fail` for a model that is not healthy; 130 if interrupted.

    Raises:
        UserError: whatever is wrong with what was given; nothing is written then.
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
    wanted = options.wanted()
    device = device_named(options.device)
    metric = metric_named(options.metric)
    options.check()
    torch.manual_seed(options.seed)  # of what the user's functions draw
    model = model_named(options.model)
    weights = Weights() if options.weights is None else load_weights(model, options.weights, options.entry)
    for each in wanted:
        check_output(each.option, each.out, weights, options.overwrite)
    model = model.to(device)
    batches = batches_named("--data", options.data)
    evaluation, held_out = (
        None if spec is None else batches_named(option, spec)
        for option, spec in (("--evaluation-data", options.evaluation_data), ("--held-out", options.held_out))
    )
    asked: dict[str, Any] = {
        "metric": metric,
        "higher_is_better": options.higher_is_better,
        "limit": options.batches,
        "seed": options.seed,
    }
    screen = Console(stderr=True)
    _tell(screen, [f"note: {note}" for note in weights.notes])
    swapped: dict[str, Any] = {"swap_batches": options.swap_batches, "swap_layers": tuple(options.swap_layer or ("*",))}
    with Bar(screen) as bar:
        diagnosis = measure(model, batches, evaluation_batches=evaluation, progress=bar, **swapped, **asked)
    if not options.json:
        print_diagnosis(Console(highlight=False), diagnosis)
    with Bar(screen) as bar:
        remedied = [
            (each, remedy(model, batches, each.choice, held_out, source=options.source, progress=bar, **asked))
            for each in wanted
        ]
    written = [(each, made) for each, made in remedied if not made.harmful or options.anyway]
    writers = {each.out: writer(model, weights, made.state, each.out) for each, made in written}
    extra = {"command": command_line(), "remedies": [_plain(each, made, each.out in writers) for each, made in remedied]}
    diagnosis = replace(diagnosis, setting={**diagnosis.setting, **extra})
    if writers:
        files.write_together(writers)
    if options.out is not None:
        write_diagnosis(options.out, diagnosis)
    if options.json:
        print(to_json(diagnosis))  # noqa: T201
    for each, made in remedied:
        _tell(screen if options.json else Console(), ["", *_lines(each, made, each.out in writers)])
    refused = len(written) < len(remedied)
    return 1 if refused or (options.fail and diagnosis.findings[0].kind not in _HARMLESS) else 0


def _plain(each: Wanted, made: Remedied, written: bool) -> dict[str, Any]:
    """A remedy for machines."""
    told = {name: value for name, value in vars(made).items() if name != "state"}
    lists = {"harmful": list(made.harmful), "notes": list(made.notes), "gains": made.gains.to_dict("records")}
    return {"file": str(each.out), "written": written} | told | lists


def _lines(each: Wanted, made: Remedied, written: bool) -> list[str]:
    """A remedy in words."""
    counts = Counter(made.choices.values())
    done = {"recalibrate": "recalibrated", "translate": f"translated from {made.convention!r}", "keep": "kept"}
    what = listed([f"{plural(counts[choice], 'layer')} {word}" for choice, word in done.items() if counts[choice]])
    lines = [f"{each.option}: {what}; in evaluation mode, on {plural(made.measuring, 'held-out batch')}:"]
    lines += [f"  {line}" for line in gains(made.gains.to_dict("records"))] + [f"note: {note}" for note in made.notes]
    if written:
        return [*lines, f"written: {each.out}"]
    worse = listed([metric_of(name).label for name in made.harmful])
    return [*lines, f"{each.option}: {each.out} is not written, since {worse} would be worse by it; --anyway writes it"]


def _tell(console: Console, lines: list[str]) -> None:
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)
