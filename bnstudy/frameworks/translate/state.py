"""Translate a state: the three goals, on tensors by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from bnstudy.errors import UserError
from bnstudy.frameworks.translate import rules
from bnstudy.frameworks.translate.frameworks import Framework, framework
from bnstudy.frameworks.translate.layers import LayerKeys, batchnorm_layers
from bnstudy.frameworks.translate.settings import parse_momentum

GOALS = ("inference", "training", "as-trained")


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


def translate_state(
    state: Mapping[str, Tensor],
    source: str,
    target: str,
    goal: str,
    *,
    eps: float | Mapping[str, float],
    values: Mapping[str, int] | Callable[[], Mapping[str, int]] | None = None,
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
        state: tensors by name, as torch, tinygrad, MLX, Paddle, Keras or Flax name them ("." or "/" between parts).
        source, target: a framework ("torch", "flax", …) or a convention ("paper", …).
        goal: "inference", "training" or "as-trained".
        eps: ε of the source's layers, one number or one by layer name.
        values: m by layer name, or a function that works it out when it turns out to be needed. Default: None.
        momentum: α, the weight of the new batch, the same on both sides; "cumulative" for the average over all batches;
            None where it is unknown. Default: None.
        steps: t, where the state does not count batches. Default: None.
        target_eps: the ε that the target has and cannot change; goal "inference" only. Default: None.
        place: name of the state in messages. Default: "state".

    Returns:
        The new state; the given one is not changed.

    Raises:
        UserError: an unknown name; no BatchNorm layer; m or t needed and unknown; γ needed and missing; statistics that
            α, t and a start at 1 cannot have left.

    Source: bnstudy issue 6.
    """
    if goal not in GOALS:
        raise UserError(f"goal: {goal!r} is unknown; use {', '.join(GOALS)}")
    here, there = framework(source, "source"), framework(target, "target")
    layers = batchnorm_layers(state, place)
    known_eps = _eps_by_layer(eps, layers)
    if target_eps is not None and goal != "inference":
        raise UserError(f"target_eps: {target_eps:g} can be folded into γ for --keep inference only; other goals carry ε")
    if goal == "inference":
        return _keep_inference(state, layers, known_eps, target_eps, there)
    if goal == "training":
        return _keep_training(state, layers, known_eps, here, there, values)
    return _as_trained(state, layers, known_eps, here, there, values, momentum, steps, place)


def _keep_inference(
    state: Mapping[str, Tensor],
    layers: list[LayerKeys],
    eps: dict[str, float],
    target_eps: float | None,
    target: Framework,
) -> Translated:
    new, notes = dict(state), []
    if target_eps is not None:
        for layer in layers:
            if eps[layer.name] == target_eps:
                continue
            if layer.gain is None:
                raise UserError(
                    f"target_eps: layer {layer.name!r} has no γ to fold ε into; give the target ε {eps[layer.name]:g}"
                )
            new[layer.gain] = rules.fold(state[layer.gain], state[layer.variance], eps[layer.name], target_eps)
        if any(eps[layer.name] != target_eps for layer in layers):
            notes.append("ε is folded into γ: inference is unchanged, training-mode outputs are not")
        eps = dict.fromkeys(eps, target_eps)
    if target.name == "equinox":
        notes.append("set Equinox's batch counter to 0: it then leaves the statistics uncorrected at inference")
    return Translated(new, eps, {}, tuple(notes))


def _keep_training(
    state: Mapping[str, Tensor],
    layers: list[LayerKeys],
    eps: dict[str, float],
    here: Framework,
    there: Framework,
    values: Mapping[str, int] | Callable[[], Mapping[str, int]] | None,
) -> Translated:
    source, target = here.convention, there.convention
    new, gains, new_eps = dict(state), {}, dict(eps)
    if source == target:
        return Translated(new, new_eps, {}, ("both sides have the same convention: nothing to rescale",))
    counts = _values(values, layers)
    for layer in layers:
        m = counts[layer.name]
        ratio = rules.normalising_ratio(source, target, m)
        if ratio != 1:
            if layer.gain is None:
                raise UserError(f"keep: layer {layer.name!r} has no γ, which 'training' must rescale; add one of ones")
            gains[layer.gain] = ratio**0.5
            new[layer.gain] = rules.scaled(state[layer.gain], ratio**0.5)
            new_eps[layer.name] = eps[layer.name] * ratio
        variance = rules.accumulating_ratio(source, target, m)
        new[layer.variance] = rules.scaled(state[layer.variance], variance)
    notes = []
    same = source.normalize == source.accumulate and target.normalize == target.accumulate
    if not same:
        notes.append("training goes on as before; inference changes to what the target's convention makes of it")
    if gains:
        notes.append("a γ was rescaled: its optimizer state and learning rate must be too (translate_optimizer)")
    return Translated(new, new_eps, gains, tuple(notes))


def _as_trained(
    state: Mapping[str, Tensor],
    layers: list[LayerKeys],
    eps: dict[str, float],
    here: Framework,
    there: Framework,
    values: Mapping[str, int] | Callable[[], Mapping[str, int]] | None,
    momentum: float | str | None,
    steps: int | None,
    place: str,
) -> Translated:
    source, target = here.convention, there.convention
    new = dict(state)
    if source.accumulate == target.accumulate and here.bias_corrected == there.bias_corrected:
        note = f"both sides store the {source.accumulate} variance: running variances stay as they are"
        return Translated(new, eps, {}, (note, *_other_divisor(here, there)))
    if momentum is None:
        raise UserError("momentum: the weight of the new batch in training is unknown; give --momentum")
    alpha = parse_momentum(momentum, "momentum")
    counts = _values(values, layers)
    for layer in layers:
        t = _steps(state, layer, steps)
        shares = [rules.start_share(alpha, t, side.bias_corrected) for side in (here, there)]
        ratio = rules.accumulating_ratio(source, target, counts[layer.name])
        try:
            new[layer.variance] = rules.as_trained(state[layer.variance], ratio, *shares)
        except ValueError as error:
            raise UserError(
                f"{place}: layer {layer.name!r}: {error}, the share of the start value 1 that {t} batches at momentum "
                f"{momentum} leave; check momentum and steps"
            ) from error
    return Translated(new, eps, {}, _other_divisor(here, there))


def _other_divisor(here: Framework, there: Framework) -> tuple[str, ...]:
    if here.convention.normalize == there.convention.normalize:
        return ()
    return ("the two sides normalise training batches differently: the target's layers would also have seen other inputs",)


def _values(
    values: Mapping[str, int] | Callable[[], Mapping[str, int]] | None, layers: list[LayerKeys]
) -> Mapping[str, int]:
    if values is None:
        raise UserError("values: m, the values per channel in training, is unknown; give --batch-size or --per-layer FILE")
    found = values() if callable(values) else values
    missing = [layer.name for layer in layers if layer.name not in found]
    if missing:
        raise UserError(f"values: layer {missing[0]!r} is missing; give m for every layer")
    return found


def _steps(state: Mapping[str, Tensor], layer: LayerKeys, steps: int | None) -> int:
    counted = None if layer.count is None else int(state[layer.count])
    if counted is None and steps is None:
        raise UserError(f"steps: layer {layer.name!r} does not count its batches (num_batches_tracked); give --steps")
    if counted is not None and steps is not None and counted != steps:
        raise UserError(f"steps: {steps} was given but layer {layer.name!r} counted {counted}; leave --steps out")
    return counted if counted is not None else steps or 0


def _eps_by_layer(eps: float | Mapping[str, float], layers: list[LayerKeys]) -> dict[str, float]:
    if not isinstance(eps, Mapping):
        return {layer.name: float(eps) for layer in layers}
    missing = [layer.name for layer in layers if layer.name not in eps]
    if missing:
        raise UserError(f"eps: layer {missing[0]!r} is missing; give ε for every layer, or one number")
    return {layer.name: float(eps[layer.name]) for layer in layers}
