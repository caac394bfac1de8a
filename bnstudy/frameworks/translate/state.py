"""Translate a state: the three goals, on tensors by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bnstudy.errors import UserError, shown
from bnstudy.frameworks.translate import rules
from bnstudy.frameworks.translate.frameworks import Framework, framework
from bnstudy.frameworks.translate.layers import LayerKeys, batchnorm_layers
from bnstudy.frameworks.translate.settings import parse_momentum

GOALS = ("inference", "training", "as-trained")
Values = Mapping[str, int] | Callable[[], Mapping[str, int]]
"""m by layer name, or a function that works it out when it turns out to be needed."""


@dataclass(frozen=True)
class Translated:
    """A translated state.

    Args:
        state: tensors by name; those that no rule touches are the source's own.
        eps: ε that the target's layers must be built with, by layer name.
        gains: the factor that γ was multiplied by, by the key of γ, where the goal is "training"; for `translate_optimizer`.
        notes: what the user should know, one line each.
    """

    state: dict[str, Tensor]
    eps: dict[str, float]
    gains: dict[str, float]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Task:
    """What is to be translated, from where to where, and what is known of the training; see `translate_state`."""

    state: Mapping[str, Tensor]
    layers: list[LayerKeys]
    eps: dict[str, float]
    here: Framework
    there: Framework
    values: Values | None
    momentum: float | str | None
    steps: int | None
    target_eps: float | None
    place: str


def translate_state(
    state: Mapping[str, Tensor],
    source: str,
    target: str,
    goal: str,
    *,
    eps: float | Mapping[str, float],
    values: Values | None = None,
    momentum: float | str | None = None,
    steps: int | None = None,
    target_eps: float | None = None,
    place: str = "state",
) -> Translated:
    """Translate the BatchNorm layers of a state from one framework or convention to another.

    c = m/(m-1), k and A the ratios of the two sides' normalising and accumulated variances, w = (1-α)ᵗ:

        inference     inference outputs unchanged: only ε is carried; folded into γ where the target's ε is fixed,
                      γ' = γ·√(v + ε')/√(v + ε)
        training      training outputs and updates continue unchanged: γ' = √k·γ, ε' = k·ε, v' = A·v, and v' stays A times
                      what the source's would be
        as-trained    v' = w + A·(v - w), what the target would have stored, fed the same batches

    Args:
        state: tensors by name, in the source's scheme of `naming.SCHEMES` or in another; only complete layers are touched.
        source, target: a framework ("torch", "flax", …) or a convention ("paper", …).
        goal: "inference", "training" or "as-trained".
        eps: ε of the source's layers, one number or one by layer name.
        values: m by layer name, or a function that works it out when it turns out to be needed. Default: unknown.
        momentum: α, the weight of the new batch, the same on both sides; "cumulative" for the average over all batches;
            None where it is unknown. Default: None.
        steps: t, where the state does not count batches. Default: None.
        target_eps: the ε that the target has and cannot change; goal "inference" only. Default: None.
        place: name of the state in messages. Default: "state".

    Returns:
        The new state; the given one is not changed.

    Raises:
        UserError: an unknown name; no BatchNorm layer; statistics that are not finite or below 0; m or t needed and unknown;
            γ needed and missing; statistics that α, t and a start at 1 cannot have left; results that a tensor's type cannot
            hold; running variances to or from `total`, which no factor gives.

    Source: docs/architecture.md, "Translation"; docs/method.md, "One kernel for all".
    """
    if goal not in GOALS:
        raise UserError(f"goal: {shown(goal)} is unknown; use {', '.join(GOALS)}")
    here, there = framework(source, "source"), framework(target, "target")
    if target_eps is not None and goal != "inference":
        raise UserError(f"target_eps: {target_eps:g} can be folded into γ for --keep inference only; other goals carry ε")
    layers = batchnorm_layers(state, place, here.names)
    _check_statistics(state, layers.found, place)
    known = _eps_by_layer(eps, layers.found)
    task = _Task(state, layers.found, known, here, there, values, momentum, steps, target_eps, place)
    result = {"inference": _keep_inference, "training": _keep_training, "as-trained": _as_trained}[goal](task)
    _check_results(state, result.state, place)
    return replace(result, notes=(*result.notes, *layers.notes))


def _keep_inference(task: _Task) -> Translated:
    new, notes, eps, target = dict(task.state), [], task.eps, task.target_eps
    if target is not None:
        for layer in task.layers:
            if eps[layer.name] == target:
                continue
            if layer.gain is None:
                raise UserError(f"target_eps: layer {shown(layer.name)} has no γ to fold ε into; "
                                f"give the target ε {eps[layer.name]:g}")  # fmt: skip
            new[layer.gain] = rules.fold(task.state[layer.gain], task.state[layer.variance], eps[layer.name], target)
        if any(value != target for value in eps.values()):
            notes.append("ε is folded into γ: inference is unchanged, training-mode outputs are not")
        eps = dict.fromkeys(eps, target)
    if task.there.name == "equinox":
        notes.append("set Equinox's batch counter to 0: it then leaves the statistics uncorrected at inference")
    return Translated(new, eps, {}, tuple(notes))


def _keep_training(task: _Task) -> Translated:
    source, target = task.here.convention, task.there.convention
    new, gains, eps = dict(task.state), {}, dict(task.eps)
    if source == target:
        return Translated(new, eps, {}, ("both sides have the same convention: nothing to rescale",))
    rules.check_stored(source, target)
    counts = _values(task)
    for layer in task.layers:
        m = counts[layer.name]
        ratio = rules.normalising_ratio(source, target, m)
        if ratio != 1:
            if layer.gain is None:
                raise UserError(f"keep: layer {shown(layer.name)} has no γ in the file, and 'training' must rescale it")
            gains[layer.gain] = ratio**0.5
            new[layer.gain] = rules.scaled(task.state[layer.gain], ratio**0.5)
            eps[layer.name] *= ratio
        for key in filter(None, (layer.variance, layer.also)):
            new[key] = rules.scaled(task.state[key], rules.accumulating_ratio(source, target, m))
    same = source.normalize == source.accumulate and target.normalize == target.accumulate
    note = "training goes on as before; inference changes to what the target's convention makes of it"
    return Translated(new, eps, gains, () if same else (note,))


def _as_trained(task: _Task) -> Translated:
    here, there = task.here, task.there
    source, target = here.convention, there.convention
    new, notes = dict(task.state), []
    if source.normalize != target.normalize:
        notes.append(
            "the two sides normalise training batches differently: the target's layers would also have seen other inputs"
        )
    if source.accumulate == target.accumulate and here.bias_corrected == there.bias_corrected:
        stay = f"both sides store the {source.accumulate} variance: running variances stay as they are"
        return Translated(new, task.eps, {}, (stay, *notes))
    rules.check_stored(source, target)
    if task.momentum is None:
        raise UserError("momentum: the weight of the new batch in training is unknown; give --momentum")
    alpha = parse_momentum(task.momentum, "momentum")
    counts = _values(task)
    for layer in task.layers:
        steps = _steps(task, layer)
        shares = [rules.start_share(alpha, steps, side.bias_corrected) for side in (here, there)]
        ratio = rules.accumulating_ratio(source, target, counts[layer.name])
        try:
            new[layer.variance] = rules.as_trained(task.state[layer.variance], ratio, *shares)
        except ValueError as error:
            raise UserError(f"{task.place}: layer {shown(layer.name)}: {error}, the share of the start value 1 that {steps} "
                            f"batches at momentum {task.momentum} leave; check momentum and steps") from error  # fmt: skip
        if layer.also is not None:
            new[layer.also] = rules.scaled(task.state[layer.also], ratio)
    return Translated(new, task.eps, {}, tuple(notes))


def _values(task: _Task) -> Mapping[str, int]:
    if task.values is None:
        raise UserError("values: m, the values per channel in training, is unknown; give --batch-size or --per-layer FILE")
    found = task.values() if callable(task.values) else task.values
    missing = [layer.name for layer in task.layers if layer.name not in found]
    if missing:
        raise UserError(f"values: layer {shown(missing[0])} is missing; give m for every layer")
    return found


def _steps(task: _Task, layer: LayerKeys) -> int:
    counted = None if layer.count is None else int(task.state[layer.count])
    if counted is None and task.steps is None:
        raise UserError(f"steps: layer {shown(layer.name)} does not count its batches in {task.place}; give --steps")
    if counted is not None and task.steps is not None and counted != task.steps:
        raise UserError(f"steps: {task.steps} was given but layer {shown(layer.name)} counted {counted}; leave --steps out")
    return counted if counted is not None else task.steps or 0


def _eps_by_layer(eps: float | Mapping[str, float], layers: list[LayerKeys]) -> dict[str, float]:
    if not isinstance(eps, Mapping):
        return {layer.name: float(eps) for layer in layers}
    missing = [layer.name for layer in layers if layer.name not in eps]
    if missing:
        raise UserError(f"eps: layer {shown(missing[0])} is missing; give ε for every layer, or one number")
    return {layer.name: float(eps[layer.name]) for layer in layers}


def _check_statistics(state: Mapping[str, Tensor], layers: list[LayerKeys], place: str) -> None:
    """Refuse statistics that no training leaves, since what is made of them would be as wrong."""
    for layer in layers:
        for key, least, rule in ((layer.mean, -torch.inf, "finite"), (layer.variance, 0.0, "finite and not negative")):
            values = state[key]
            wrong = values[~(values.isfinite() & (values >= least))]
            if wrong.numel():
                holds = f"holds {float(wrong[0]):g} in {wrong.numel()} of {values.numel()} channels"
                raise UserError(f"{place}: {shown(key)} {holds}; running statistics are {rule}")
        if layer.count is not None and (state[layer.count].numel() != 1 or state[layer.count].item() < 0):
            holds = f"holds {shown(state[layer.count].tolist())}"
            raise UserError(f"{place}: {shown(layer.count)} {holds}; one count of batches expected")


def _check_results(old: Mapping[str, Tensor], new: Mapping[str, Tensor], place: str) -> None:
    """Refuse results that the type of a tensor cannot hold, as float16 may not."""
    for key, tensor in new.items():
        if tensor is not old[key] and not tensor.isfinite().all() and bool(old[key].isfinite().all()):
            raise UserError(f"{place}: {shown(key)} rescaled does not fit into {str(tensor.dtype).removeprefix('torch.')}; "
                            "convert the file to float32 first")  # fmt: skip
