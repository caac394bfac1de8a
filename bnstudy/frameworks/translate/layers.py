"""Find the BatchNorm layers of a flat state: complete groups of tensors, by the names of the source's scheme."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from bnstudy.errors import UserError, shown
from bnstudy.frameworks.translate.naming import SCHEMES, Key, Names, Scheme, key_of, role_of

_OPTIMIZERS = {"opt_state", "optimizer", "optimizer_state", "optimizer_states", "optimizer_variables", "optimizer_weights"}
_STATISTICS = ("mean", "variance")
_PARAMETERS = ("gain", "shift")


@dataclass(frozen=True)
class LayerKeys:
    """The keys of one BatchNorm layer.

    Args:
        name: the layer's own name.
        mean, variance: keys of the running statistics.
        gain, shift, count, also: keys of γ, of β, of the number of batches, and of what is kept in proportion to the
            variance; None where the file has none.
    """

    name: str
    mean: str
    variance: str
    gain: str | None = None
    shift: str | None = None
    count: str | None = None
    also: str | None = None


@dataclass(frozen=True)
class Layers:
    """The BatchNorm layers of a state.

    Args:
        found: in the state's order.
        notes: what is named like a layer's and was left alone, a line for each kind.
    """

    found: list[LayerKeys]
    notes: tuple[str, ...]


def batchnorm_layers(state: Mapping[str, Tensor], place: str, scheme: str = "") -> Layers:
    """The BatchNorm layers of a state.

    Only complete groups count: mean and variance of one layer, with γ, β or a count beside them where the names alone say
    too little. Where the source's own scheme finds none, the one that finds most is taken, since files are often renamed.
    Other tensors are left alone.

    Args:
        state: tensors by name.
        place: the file, for messages.
        scheme: the source's, a key of `SCHEMES`. Default: it has none.

    Raises:
        UserError: no layer, a layer with half of its statistics, or shapes that do not fit each other.
    """
    search = _searches(state, scheme)
    chosen = max(search, key=lambda name: (name == scheme and search[name].size > 0, search[name].size))
    best, own = search[chosen], search.get(scheme, search[chosen])
    if best.problems:
        raise UserError(f"{place}: {best.problems[0]}")
    alone = list(dict.fromkeys([*best.alone, *own.alone]))
    if not best.layers:
        names = SCHEMES[scheme or "torch"].names[0]
        expected = " and ".join(f"X.{name.replace('/', '.')}" for name in (names.mean, names.variance))
        beside = " with γ, β or a count beside them" if names.any_of else ""
        others = f"; {_some(alone)} have nothing beside them" if alone else ""
        raise UserError(f"{place}: no BatchNorm buffers in it; {expected}{beside} expected{others}")
    notes = (
        [f"left as they are, since nothing beside them says that a BatchNorm layer has them: {_some(alone)}"]
        if alone
        else []
    )
    taken = {layer.variance for layer in best.layers}
    for name, other in search.items():
        more = [layer.variance for layer in other.layers if layer.variance not in taken]
        if more:
            notes.append(f"left as they are, since they are named in the way of {name}, not of {chosen}: {_some(more)}")
            taken |= set(more)
    return Layers(best.layers, tuple(notes))


def has_layers(state: Mapping[str, Tensor], scheme: str | None = None) -> bool:
    """Whether a state holds BatchNorm layers, in the names of a scheme or of any."""
    keys = {text: key_of(text) for text in state}
    names = [name for name in SCHEMES if (SCHEMES[name].lent if scheme is None else name == scheme)]
    return any(_search(state, keys, SCHEMES[name]).size for name in names)


def optimizer_keys(state: Mapping[str, Tensor], layers: list[LayerKeys]) -> list[str]:
    """Keys of a state that hold an optimizer's tensors: in a branch of its own, or under the name of a γ."""
    gains = {key_of(layer.gain).parts for layer in layers if layer.gain is not None}
    return [text for text in state if _OPTIMIZERS & set(key_of(text).parts) or key_of(text).parts[:-1] in gains]


def looks_convolutional(state: Mapping[str, Tensor], layers: list[LayerKeys]) -> bool:
    """Whether the state holds convolution kernels, so that m is not the batch size."""
    own = {key for layer in layers for key in vars(layer).values()}
    return any(tensor.dim() >= 3 for key, tensor in state.items() if key not in own)


@dataclass
class _Search:
    """What a scheme finds in a state: layers, statistics without one, and what is wrong with layers that it would have."""

    layers: list[LayerKeys] = field(default_factory=list)
    alone: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def size(self) -> int:
        return len(self.layers) + len(self.problems)


@dataclass(frozen=True)
class _Place:
    """Where a layer's tensors stand: the parts of its name, and whether they are moving averages of other tensors."""

    parts: tuple[str, ...]
    averaged: bool


class _Table:
    """The tensors of a state that have a role in one set of names, by the place where they stand."""

    def __init__(self, keys: Mapping[str, Key], names: Names, scheme: Scheme) -> None:
        self.names, self.collections, self._keys = names, dict(scheme.collections), keys
        self.places: dict[_Place, dict[str, str]] = {}
        for text, key in keys.items():
            role = role_of(key, names, scheme.joined)
            if role is not None:
                self.places.setdefault(_Place(role[1], key.averaged), {}).setdefault(role[0], text)
        # γ and β by their way from a collection of parameters on, whatever root that has.
        self._branches: dict[tuple[str, ...], list[_Place]] = {}
        for place in self.places:
            for at, part in enumerate(place.parts):
                if part in self.collections.values() and self._has_parameters(place) and not _OPTIMIZERS & set(place.parts):
                    self._branches.setdefault(place.parts[at:], []).append(place)

    def layer(self, place: _Place) -> LayerKeys | None:
        """The group of tensors around the statistics at a place; None where it is not complete."""
        beside = next(filter(self._has_parameters, self._parameter_places(place)), place)
        roles = {role: text for role, text in self.places[beside].items() if role in _PARAMETERS} | self.places[place]
        if not set(_STATISTICS) <= roles.keys() or not set(self.names.all_of) <= roles.keys():
            return None
        collection = next((at for at, part in enumerate(place.parts) if part in self.collections), None)
        if self.names.any_of and collection is None and not set(self.names.any_of) & roles.keys():
            return None
        scope = beside.parts if place.parts[: len(beside.parts)] == beside.parts else place.parts
        name = self._keys[roles["variance"]].name(scope, collection)
        if place.averaged and beside == place:
            name += "/ExponentialMovingAverage"  # of all of the layer's tensors, beside the layer itself
        return LayerKeys(name, **roles)

    def _has_parameters(self, place: _Place) -> bool:
        return any(role in self.places.get(place, {}) for role in _PARAMETERS)

    def _parameter_places(self, place: _Place) -> Iterator[_Place]:
        """Where γ and β of a layer may stand, the likeliest place first."""
        parts, half = place.parts, len(place.parts) // 2
        scopes = [parts, *([parts[:half]] if half and parts[:half] == parts[half:] else [])]  # TensorFlow 1 doubles a scope
        yield from (_Place(scope, averaged) for scope in scopes for averaged in dict.fromkeys((place.averaged, False)))
        for at, part in enumerate(parts):
            if part in self.collections:
                inner = (self.collections[part], *parts[at + 1 :])
                yield _Place((*parts[:at], *inner), place.averaged)
                yield _Place((*parts[:at], *inner[1:]), place.averaged)
                # Another root, as where a training state keeps parameters and statistics in fields of their own.
                others = self._branches.get(inner, [])
                shortest = min((len(other.parts) for other in others), default=0)
                nearest = [other for other in others if len(other.parts) == shortest]
                yield from nearest if len(nearest) == 1 else ()


def _searches(state: Mapping[str, Tensor], own: str) -> dict[str, _Search]:
    """What each scheme finds, the source's own first."""
    keys = {text: key_of(text) for text in state}
    names = [name for name in sorted(SCHEMES, key=lambda name: name != own) if name == own or SCHEMES[name].lent]
    return {name: _search(state, keys, SCHEMES[name]) for name in names}


def _search(state: Mapping[str, Tensor], keys: Mapping[str, Key], scheme: Scheme) -> _Search:
    search = _Search()
    for names in scheme.names:
        table = _Table(keys, names, scheme)
        for place, roles in table.places.items():
            statistics = [roles[role] for role in _STATISTICS if role in roles]
            if len(statistics) == 1 and "count" in roles:
                there, other = (names.mean, names.variance) if "mean" in roles else (names.variance, names.mean)
                missing = other.join(statistics[0].rsplit(there, 1))
                search.problems.append(f"{shown(statistics[0])} has no {shown(missing)} beside it; both are needed")
            elif statistics:
                layer = table.layer(place)
                problem = None if layer is None else _misfit(layer, state, names)
                if layer is None or (problem is not None and names.generic):
                    search.alone += statistics
                elif problem is not None:
                    search.problems.append(problem)
                else:
                    search.layers.append(layer)
    order = {text: position for position, text in enumerate(state)}
    search.layers.sort(key=lambda layer: order[layer.variance])
    return search


def _misfit(layer: LayerKeys, state: Mapping[str, Tensor], names: Names) -> str | None:
    """What is wrong with the shapes of a group's tensors; None where they fit."""
    variance = state[layer.variance]
    if not variance.is_floating_point() or (variance.dim() != 1 and not names.stacked):
        shape = f"{tuple(variance.shape)} of {variance.dtype}"
        return f"{shown(layer.variance)} has shape {shape}; one floating-point value a channel expected"
    for key in (layer.mean, layer.gain, layer.shift, layer.also):
        if key is not None and state[key].shape != variance.shape:
            shapes = f"{tuple(state[key].shape)}, {shown(layer.variance)} has {tuple(variance.shape)}"
            return f"{shown(key)} has shape {shapes}; they must be equal"
    return None


def _some(keys: list[str]) -> str:
    listed = ", ".join(shown(key)[1:-1] for key in keys[:3])
    return listed if len(keys) <= 3 else f"{listed} … ({len(keys)} tensors)"
