"""`bnstudy translate IN OUT --source A --target B …`: read, translate, write, all or nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from bnstudy.errors import UserError, shown
from bnstudy.frameworks.translate import files, settings
from bnstudy.frameworks.translate.beside import carry_along, optimizer_file, parameter_names
from bnstudy.frameworks.translate.frameworks import Framework, framework
from bnstudy.frameworks.translate.layers import LayerKeys, batchnorm_layers, looks_convolutional
from bnstudy.frameworks.translate.options import Options, check_numbers, goal_of, outputs_of
from bnstudy.frameworks.translate.settings import Settings, parse_momentum, settings_path
from bnstudy.frameworks.translate.state import Translated, translate_state
from bnstudy.frameworks.translate.values import resolve
from bnstudy.yaml12 import read_mapping


def translate(source_file: Path, target_file: Path, options: Options) -> list[str]:
    """Translate a checkpoint file, and write its settings beside it.

    Names and shapes of tensors stay as they are; only γ and running variances are rescaled, as the goal asks.

    Args:
        source_file: safetensors (.safetensors) or torch (.pt, .pth, .bin, .ckpt, .tar).
        target_file: likewise; its settings go to NAME.batchnorm.yaml beside it.
        options: see `Options`.

    Returns:
        Lines to print.

    Raises:
        UserError: whatever is wrong, missing or unknown; nothing is written then.

    Source: docs/architecture.md, "Translation".
    """
    goal = goal_of(options)
    here, there = framework(options.source, "source"), framework(options.target, "target")
    check_numbers(options, here)
    outputs = outputs_of(source_file, target_file, options)
    checkpoint = files.load(source_file, options.entry, here.names)
    state = checkpoint.state
    layers = batchnorm_layers(state, str(source_file), here.names).found
    known = settings.read(settings_path(source_file))
    if known.convention is not None and framework(known.convention, "settings").convention != here.convention:
        raise UserError(
            f"source: {shown(options.source)} contradicts {settings_path(source_file)}, which says {shown(known.convention)}"
        )
    eps, eps_note = _eps(options, known, here, source_file)
    values = _Values(options, known, state, layers)
    momentum, momentum_note = _momentum(options, known, here)
    result = translate_state(
        state,
        options.source,
        options.target,
        goal,
        eps=eps,
        values=values,
        momentum=momentum,
        steps=options.steps if options.steps is not None else known.steps,
        target_eps=options.target_eps,
        place=str(source_file),
    )
    new, notes = checkpoint.with_state(result.state), list(result.notes)
    writers: dict[Path, Any] = {}
    if options.optimizer is not None and options.optimizer_out is not None:
        if not result.gains:
            raise UserError("optimizer: --keep training alone translates one, and here it rescales no γ; leave it out")
        names = parameter_names(checkpoint, layers)
        writers[options.optimizer_out] = optimizer_file(options.optimizer, result, names, state)
        notes.append(f"{options.optimizer_out}: the optimizer's state for the rescaled γ; build it with groups_for")
    if result.gains:
        new, beside = carry_along(new, result, layers, alone=options.optimizer is None)
        notes += beside
    after = replace(
        known,
        convention=there.name,
        eps=result.eps,
        momentum=known.momentum if momentum_note and not values.found else momentum,
        batch_size=known.batch_size if options.batch_size is None else options.batch_size,
        values=values.found or known.values,
    )
    text = settings.dump(after, target_file.name)
    writers |= {
        target_file: lambda file: files.save(new, target_file.suffix, file),
        settings_path(target_file): lambda file: file.write(text.encode()),
    }
    files.write_together(writers)
    assumed = [eps_note, momentum_note if goal == "as-trained" and values.found else ""]
    lines = [f"{target_file}: {len(layers)} BatchNorm layers, {here.name} to {there.name}, {goal}", *filter(None, assumed)]
    lines += [*_build_with(there, result, after, goal), *notes]
    return [*lines, f"written: {', '.join(str(path) for path in outputs)}"]


class _Values:
    """m by layer, worked out when a rule asks for it; what was worked out is kept for the settings."""

    def __init__(self, options: Options, known: Settings, state: Mapping[str, Tensor], layers: list[LayerKeys]) -> None:
        self._options, self._known, self._state, self._layers = options, known, state, layers
        self.found: dict[str, int] | None = None

    def __call__(self) -> dict[str, int]:
        options, known = self._options, self._known
        per_layer: Mapping[str, Any] | None = known.values
        if options.per_layer is not None:
            per_layer = read_mapping(options.per_layer)
        elif options.spatial is not None or options.batch_size is not None:
            per_layer = None
        self.found = resolve(
            [layer.name for layer in self._layers],
            batch_size=options.batch_size if options.batch_size is not None else known.batch_size,
            spatial=options.spatial,
            per_layer=per_layer,
            convolutional=looks_convolutional(self._state, self._layers),
        )
        return self.found


def _eps(options: Options, known: Settings, here: Framework, source_file: Path) -> tuple[float | dict[str, float], str]:
    if options.eps is not None:
        return options.eps, ""
    if known.eps is not None:
        return known.eps, ""
    place = settings_path(source_file)
    if here.eps is None:
        raise UserError(f"eps: {here.name!r} has no default ε and there is no {place.name} beside IN; give --eps")
    return here.eps, f"ε: {here.eps:g}, {here.name}'s default, since neither --eps nor {place.name} says"


def _momentum(options: Options, known: Settings, here: Framework) -> tuple[float | str | None, str]:
    given = options.momentum if options.momentum is not None else known.momentum
    if given is not None or here.momentum is None:
        alpha = None if given is None else parse_momentum(given, "momentum")
        return "cumulative" if given is not None and alpha is None else alpha, ""
    return here.momentum, f"momentum: {here.momentum:g} for the new batch, {here.name}'s default, since nothing else says"


def _build_with(there: Framework, result: Translated, after: Settings, goal: str) -> list[str]:
    """What the target's layers must be built with, where its defaults are others."""
    lines = []
    eps = sorted(set(result.eps.values()))
    if there.eps is not None and eps != [there.eps]:
        values = f"{eps[0]:.6g}" if len(eps) == 1 else "as in the settings file"
        lines.append(f"build the target's layers with ε {values}: {there.name}'s default is {there.eps:g}")
    alpha = after.momentum
    if goal != "inference" and isinstance(alpha, float) and there.momentum not in (None, alpha):
        argument = alpha if there.weighs == "new batch" else 1 - alpha
        lines.append(
            f"build the target's layers with momentum {argument:.6g}, the weight of the {there.weighs} in {there.name}, "
            f"so that the new batch weighs {alpha:g}"
        )
    return lines
