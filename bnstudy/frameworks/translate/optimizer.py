"""Carry an optimizer's state and settings along when γ is rescaled, so that its updates continue unchanged."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from bnstudy.errors import UserError
from bnstudy.frameworks.translate.rules import scaled

# Powers of s by which a quantity of the γ's goes when γ' = s·γ, and so grad' = grad/s.
_SGD_STATE = {"momentum_buffer": -1}
_ADAM_STATE = {"exp_avg": -1, "exp_avg_sq": -2, "max_exp_avg_sq": -2}


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
        names: parameter names by id, where the optimizer was not built from `named_parameters()`. Default: None.

    Returns:
        A new state_dict, its groups with `param_names`.

    Raises:
        UserError: another optimizer, parameters without names, or state whose shape is not γ's.

    Source: bnstudy issue 6; the reparametrisation of DESIGN.md.
    """
    groups, state = _checked(optimizer)
    # Copies: an optimizer that is loaded from a state goes on in the very tensors that it was given.
    new_state = {
        identity: {key: value.clone() if isinstance(value, Tensor) else value for key, value in moments.items()}
        for identity, moments in state.items()
    }
    new_groups = []
    for group in groups:
        kind = _kind(group)
        named = dict(zip(group["params"], _names(group, names), strict=True))
        factors = {identity: gains.get(name, 1.0) for identity, name in named.items()}
        for factor in sorted(set(factors.values()), key=lambda one: (one != 1.0, one)):
            members = [identity for identity in group["params"] if factors[identity] == factor]
            settings = dict(group) if factor == 1 else _settings(group, kind, factor)
            new_groups.append(settings | {"params": members, "param_names": [named[one] for one in members]})
            for identity in members if factor != 1 else ():
                if identity in new_state:
                    new_state[identity] = _moments(new_state[identity], kind, factor, named[identity])
    return {"state": new_state, "param_groups": new_groups}


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


def _checked(optimizer: Mapping[str, Any]) -> tuple[list[dict[str, Any]], dict[int, dict[str, Any]]]:
    groups, state = optimizer.get("param_groups"), optimizer.get("state")
    if not isinstance(groups, list) or not isinstance(state, dict) or not all("params" in group for group in groups):
        raise UserError("optimizer: no state_dict of a torch optimizer; state and param_groups expected")
    return groups, state


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


def _names(group: Mapping[str, Any], names: Sequence[str] | None) -> list[str]:
    if "param_names" in group:
        return list(group["param_names"])
    if names is None:
        raise UserError("optimizer: its parameters have no names; build it from model.named_parameters()")
    if any(identity >= len(names) for identity in group["params"]):
        raise UserError(f"optimizer: it has more parameters than the {len(names)} of the model")
    return [names[identity] for identity in group["params"]]


def _settings(group: Mapping[str, Any], kind: str, s: float) -> dict[str, Any]:
    rate = s**2 if kind == "sgd" else s
    decay = s if kind == "adamw" else s**2
    new = dict(group)
    for key in ("lr", "initial_lr"):
        if key in new:
            new[key] = new[key] * rate
    if "weight_decay" in new:
        new["weight_decay"] = new["weight_decay"] / decay
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
            raise UserError(f"optimizer: {name!r} has state {key!r}, which is not SGD's or Adam's")
    return new


def check_shapes(optimizer: Mapping[str, Any], names: Sequence[str] | None, state: Mapping[str, Tensor]) -> None:
    """Refuse an optimizer state that does not belong to a model's state.

    Args:
        optimizer: a state_dict.
        names: parameter names by id, as for `translate_optimizer`.
        state: the model's tensors.

    Raises:
        UserError: a parameter that the model lacks, or a moment of another shape.
    """
    groups, moments = _checked(optimizer)
    for group in groups:
        for identity, name in zip(group["params"], _names(group, names), strict=True):
            if name not in state:
                raise UserError(f"optimizer: parameter {name!r} is not in the weights")
            for key, value in moments.get(identity, {}).items():
                if isinstance(value, Tensor) and value.dim() > 0 and value.shape != state[name].shape:
                    shapes = f"{tuple(value.shape)}, the parameter has {tuple(state[name].shape)}"
                    raise UserError(f"optimizer: {key} of {name!r} has shape {shapes}; they must be equal")


def is_optimizer(value: object) -> bool:
    """Whether a value looks like an optimizer's state_dict."""
    return isinstance(value, dict) and {"state", "param_groups"} <= value.keys()
