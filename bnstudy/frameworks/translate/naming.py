"""How frameworks name the tensors of a BatchNorm layer: one declared scheme for each source, and how a key is read by it."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cached_property

_MOVING = "ExponentialMovingAverage"
_VALUE = {"value", "raw_value", "VARIABLE_VALUE"}
"""What nnx, Orbax and TensorFlow's checkpoints put after a variable's own name."""
_PART = re.compile(r"""\[['"](?P<quoted>[^'"]*)['"]\]|\[(?P<index>[^\]]*)\]|(?P<sign>[./:]?)(?P<plain>[^./:\[\]]+)""")


@dataclass(frozen=True)
class Names:
    """The names of one layer's tensors: the last parts of their keys, "/" between parts.

    Args:
        mean, variance: the running statistics.
        gain, shift: γ and β.
        count: the number of batches seen. Default: there is none.
        also: another tensor in proportion to the variance. Default: there is none.
        any_of: statistics are a layer's only where one of these is beside them. Default: they are on their own.
        all_of: likewise, all of these.
        generic: other modules use the same words, so that what does not fit is left alone and not an error. Default: False.
        stacked: statistics may have several axes, as where Flax scans over layers. Default: one value a channel.
    """

    mean: str
    variance: str
    gain: str
    shift: str
    count: str = ""
    also: str = ""
    any_of: tuple[str, ...] = ()
    all_of: tuple[str, ...] = ()
    generic: bool = False
    stacked: bool = False

    @cached_property
    def roles(self) -> dict[tuple[str, ...], str]:
        """The role of each name: "mean", "variance", "gain", "shift", "count" or "also"."""
        roles = ("mean", "variance", "gain", "shift", "count", "also")
        return {tuple(getattr(self, role).split("/")): role for role in roles if getattr(self, role)}


@dataclass(frozen=True)
class Scheme:
    """How a source's files name BatchNorm layers.

    Args:
        names: of a layer's tensors, in each form that files have them.
        collections: (of statistics, of parameters), the trees in which a source keeps the two apart. Default: one tree.
        joined: a name may hang on the layer's by "_", as in `batchnorm0_gamma`. Default: False.
        lent: files of other sources may be named like this, too. Default: True.
    """

    names: tuple[Names, ...]
    collections: tuple[tuple[str, str], ...] = ()
    joined: bool = False
    lent: bool = True


_TORCH = Names("running_mean", "running_var", "weight", "bias", "num_batches_tracked", any_of=("count", "gain", "shift"))
_BOTH = ("gain", "shift")
SCHEMES: dict[str, Scheme] = {
    "torch": Scheme((_TORCH,)),
    "mlx": Scheme((replace(_TORCH, any_of=()),), lent=False),  # without γ and β its layer has nothing else
    "paddle": Scheme((
        Names("_mean", "_variance", "weight", "bias"),
        Names("w_1", "w_2", "w_0", "b_0", all_of=_BOTH, generic=True),  # the names of a static graph
    )),
    "keras": Scheme((
        Names("moving_mean", "moving_variance", "gamma", "beta"),
        Names("vars/2", "vars/3", "vars/0", "vars/1", all_of=_BOTH, generic=True),  # .weights.h5 counts variables
        Names("moments/Squeeze", "moments/Squeeze_1", "gamma", "beta", any_of=_BOTH, generic=True),  # of tf.nn.moments
    ), (("non_trainable_variables", "trainable_variables"),)),
    "flax": Scheme((
        Names("mean", "var", "scale", "bias", any_of=_BOTH, generic=True, stacked=True),
    ), (("batch_stats", "params"),)),
    "haiku": Scheme((
        Names("mean_ema/average", "var_ema/average", "scale", "offset", "var_ema/counter", "var_ema/hidden", stacked=True),
    ), (("state", "params"), ("1", "0"))),
    "onnx": Scheme((Names("input_mean", "input_var", "scale", "B", any_of=_BOTH),)),
    "mxnet": Scheme((
        Names("running_mean", "running_var", "gamma", "beta", any_of=_BOTH),
        Names("moving_mean", "moving_var", "gamma", "beta", any_of=_BOTH),
    ), (("aux", "arg"),), joined=True),
    "chainer": Scheme((Names("avg_mean", "avg_var", "gamma", "beta", "N"),)),
}  # fmt: skip
"""Taken from files that the frameworks themselves wrote; a test writes them again with those that are installed."""


@dataclass(frozen=True)
class Key:
    """A key taken apart.

    Args:
        parts: names from the root to the tensor, without what says only that it is a variable.
        signs: what stands before each part: "", ".", "/" or ":".
        averaged: the tensor is TensorFlow's moving average of another, in a variable of its own.
    """

    parts: tuple[str, ...]
    signs: tuple[str, ...]
    averaged: bool

    def name(self, layer: tuple[str, ...], without: int | None) -> str:
        """The name of a layer from its parts, the first of this key's, one of them left out."""
        kept = [sign + part for place, (sign, part) in enumerate(zip(self.signs, layer, strict=False)) if place != without]
        return "".join(kept).lstrip("./:")


def key_of(text: str) -> Key:
    """Take a key apart: `block.bn.weight`, `params/bn/scale`, `bn/gamma:0`, `arg:bn_gamma`, `['bn']['mean'].value`."""
    found = []
    for match in _PART.finditer(text):
        if match["plain"] is not None:
            found.append((match["sign"], match["plain"]))
        else:
            found += [("/", part) for part in (match["quoted"] or match["index"] or "").split("/")]
    if len(found) > 1 and found[-1][0] == ":" and found[-1][1].isdecimal():
        found.pop()  # the output of an operation, as TensorFlow counts them
    if len(found) > 1 and found[-1][1] in _VALUE:
        found.pop()
    if len(found) > 1 and found[-1][1] == "ATTRIBUTES":
        found.pop()
    averaged = len(found) > 1 and found[-1][1] == _MOVING
    kept = found[:-1] if averaged else found
    return Key(tuple(part for _, part in kept), tuple(sign for sign, _ in kept), averaged)


def role_of(key: Key, names: Names, joined: bool) -> tuple[str, tuple[str, ...]] | None:
    """The role of a tensor and the parts of its layer's name; None where it has none."""
    for length in (1, 2):
        rest, tail = key.parts[:-length], key.parts[-length:]
        if tail in names.roles:
            return names.roles[tail], rest[:-1] if rest[-1:] == ("~",) else rest  # "~": what a Haiku module made itself
    if joined:
        for (name,), role in names.roles.items():
            if key.parts[-1].endswith(f"_{name}"):
                return role, (*key.parts[:-1], key.parts[-1].removesuffix(f"_{name}"))
    return None
