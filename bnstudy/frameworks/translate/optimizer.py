"""Carry an optimizer's state and settings along when γ is rescaled, so that its updates continue unchanged."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from bnstudy.errors import UserError, shown
from bnstudy.frameworks.translate.rules import scaled

# Powers of s by which a quantity of the γ's goes when γ' = s·γ, and so grad' = grad/s.
_SGD_STATE = {"momentum_buffer": -1}
_ADAM_STATE = {"exp_avg": -1, "exp_avg_sq": -2, "max_exp_avg_sq": -2}
_RATES = ("lr", "initial_lr", "max_lr", "min_lr")
_RATE_LISTS = ("base_lrs", "_last_lr", "min_lrs", "max_lrs")


def translate_optimizer(
    optimizer: Mapping[str, Any], gains: Mapping[str, float], names: Sequence[str] | None = None
) -> dict[str, Any]:
    """The state_dict of an optimizer whose γ's were multiplied by s.

    Since the gradient of γ' = s·γ is 1/s of γ's, the update is s times γ's exactly when

        SGD           lr·s², weight_decay/s², momentum_buffer/s
        Adam, AdamW   lr·s, eps/s, exp_avg/s, exp_avg_sq/s²; weight_decay/s² (Adam, in the gradient), /s (AdamW, decoupled)

    A learning rate belongs to a group, so each s gets a group of its own after the group that its γ's come from; build the
    target's optimizer with `groups_for`, or in that order.

    Args:
        optimizer: `state_dict()` of torch's SGD, Adam or AdamW; it is not changed.
        gains: s by the name of γ, as `Translated.gains`.
        names: of all parameters in the model's order, where the optimizer was not built from `named_parameters()`.
            Default: None.

    Returns:
        A new state_dict, its groups with `param_names`.

    Raises:
        UserError: another optimizer, parameters whose names cannot be told, or state whose shape is not γ's.

    Source: docs/method.md, "The identity control", for the factors.
    """
    groups, state = _checked(optimizer)
    # Copies: an optimizer that is loaded from a state goes on in the very tensors that it was given.
    new_state = {
        identity: {key: value.clone() if isinstance(value, Tensor) else value for key, value in moments.items()}
        for identity, moments in state.items()
    }
    new_groups = []
    for group, factor, members in _split(optimizer, gains, names):
        kind = _kind(groups[group])
        settings = dict(groups[group]) if factor == 1 else _settings(groups[group], kind, factor)
        new_groups.append(settings | {"params": list(members), "param_names": list(members.values())})
        for identity, name in members.items() if factor != 1 else ():
            if identity in new_state:
                new_state[identity] = _moments(new_state[identity], kind, factor, name)
    return {"state": new_state, "param_groups": new_groups}


def translate_scheduler(
    scheduler: Mapping[str, Any],
    optimizer: Mapping[str, Any],
    gains: Mapping[str, float],
    names: Sequence[str] | None = None,
) -> dict[str, Any] | None:
    """The state_dict of a learning-rate scheduler whose optimizer was translated: a rate for each of the new groups.

    Args:
        scheduler: `state_dict()` of one of torch's schedulers; it is not changed.
        optimizer, gains, names: as for `translate_optimizer`.

    Returns:
        A new state_dict; None where its rates are not those of the optimizer's groups, or end at one for all of them.
    """
    groups, _ = _checked(optimizer)
    parts = [(group, _rate(_kind(groups[group]), factor)) for group, factor, _ in _split(optimizer, gains, names)]
    lists = {key: scheduler[key] for key in _RATE_LISTS if isinstance(scheduler.get(key), list)}
    if scheduler.get("eta_min") or any(len(rates) != len(groups) for rates in lists.values()):
        return None
    return dict(scheduler) | {key: [rates[group] * rate for group, rate in parts] for key, rates in lists.items()}


def groups_for(optimizer: Mapping[str, Any], parameters: Iterable[tuple[str, nn.Parameter]]) -> list[dict[str, Any]]:
    """Parameter groups for the target's optimizer, in the order of a translated state.

    Args:
        optimizer: what `translate_optimizer` returned.
        parameters: `model.named_parameters()` of the target.

    Returns:
        Groups to build the optimizer from, before `load_state_dict`; that call brings each group's settings.
    """
    by_name = dict(parameters)
    return [{"params": [by_name[name] for name in group["param_names"]]} for group in optimizer["param_groups"]]


def is_optimizer(value: object) -> bool:
    """Whether a value looks like an optimizer's state_dict."""
    return isinstance(value, dict) and {"state", "param_groups"} <= value.keys()


def is_scheduler(value: object) -> bool:
    """Whether a value looks like a learning-rate scheduler's state_dict."""
    return isinstance(value, dict) and {"last_epoch", "_last_lr"} <= value.keys()


def check_shapes(optimizer: Mapping[str, Any], names: Sequence[str] | None, state: Mapping[str, Tensor]) -> None:
    """Refuse an optimizer state that does not belong to a model's state.

    Args:
        optimizer: a state_dict.
        names: as for `translate_optimizer`.
        state: the model's tensors.

    Raises:
        UserError: a parameter that the model lacks, or a moment of another shape.
    """
    _, moments = _checked(optimizer)
    for _, _, members in _split(optimizer, {}, names):
        for identity, name in members.items():
            if name not in state:
                raise UserError(f"optimizer: parameter {shown(name)} is not in the weights")
            for key, value in moments.get(identity, {}).items():
                if isinstance(value, Tensor) and value.dim() > 0 and value.shape != state[name].shape:
                    shapes = f"{tuple(value.shape)}, the parameter has {tuple(state[name].shape)}"
                    raise UserError(f"optimizer: {shown(key)} of {shown(name)} has shape {shapes}; they must be equal")


def _checked(optimizer: Mapping[str, Any]) -> tuple[list[dict[str, Any]], dict[int, dict[str, Any]]]:
    groups, state = optimizer.get("param_groups"), optimizer.get("state")
    if not isinstance(groups, list) or not isinstance(state, dict) or not all("params" in group for group in groups):
        raise UserError("optimizer: no state_dict of a torch optimizer; state and param_groups expected")
    return groups, state


def _split(
    optimizer: Mapping[str, Any], gains: Mapping[str, float], names: Sequence[str] | None
) -> list[tuple[int, float, dict[int, str]]]:
    """The new groups: (index of the group that it comes from, s, names of its parameters by id)."""
    groups, parts = _checked(optimizer)[0], []
    for place, group in enumerate(groups):
        named = dict(zip(group["params"], _names(groups, group, names), strict=True))
        factors = {identity: gains.get(name, 1.0) for identity, name in named.items()}
        for factor in sorted(set(factors.values()), key=lambda factor: (factor != 1.0, factor)):
            parts.append((place, factor, {identity: named[identity] for identity in named if factors[identity] == factor}))
    return parts


def _kind(group: Mapping[str, Any]) -> str:
    if {"momentum", "dampening", "nesterov"} <= group.keys():
        return "sgd"
    if {"betas", "eps", "amsgrad"} <= group.keys():
        if "decoupled_weight_decay" not in group and group.get("weight_decay", 0) != 0:
            raise UserError(
                "optimizer: weight_decay without decoupled_weight_decay does not say Adam or AdamW; save it anew"
            )
        return "adamw" if group.get("decoupled_weight_decay", False) else "adam"
    raise UserError("optimizer: only torch's SGD, Adam and AdamW can be translated")


def _names(groups: list[dict[str, Any]], group: Mapping[str, Any], names: Sequence[str] | None) -> list[str]:
    if "param_names" in group:
        return list(group["param_names"])
    # Ids count parameters: they are places in the model only where the optimizer has them all.
    count = sum(len(other["params"]) for other in groups)
    if names is None or count != len(names) or any(not 0 <= identity < count for identity in group["params"]):
        known = "" if names is None else f", and it has {count} of the {len(names)} that the file could hold"
        raise UserError(f"optimizer: its parameters have no names{known}; build it from model.named_parameters()")
    return [names[identity] for identity in group["params"]]


def _rate(kind: str, s: float) -> float:
    return s**2 if kind == "sgd" else s


def _settings(group: Mapping[str, Any], kind: str, s: float) -> dict[str, Any]:
    new = {key: value * _rate(kind, s) if key in _RATES else value for key, value in group.items()}
    if "weight_decay" in new:
        new["weight_decay"] = new["weight_decay"] / (s if kind == "adamw" else s**2)
    if kind != "sgd":
        new["eps"] = new["eps"] / s
    return new


def _moments(state: dict[str, Any], kind: str, s: float, name: str) -> dict[str, Any]:
    powers = _SGD_STATE if kind == "sgd" else _ADAM_STATE
    new = dict(state)
    for key, value in state.items():
        if key in powers and isinstance(value, Tensor):
            new[key] = scaled(value, s ** powers[key])
        elif isinstance(value, Tensor) and value.dim() > 0:
            raise UserError(f"optimizer: {shown(name)} has state {shown(key)}, which is not SGD's or Adam's")
    return new
