"""What `bnstudy audit` measured of each framework, as far as a translation needs it."""

from __future__ import annotations

from dataclasses import dataclass

from bnstudy.batchnorm.conventions import ALIASES, CONVENTIONS, Convention
from bnstudy.errors import UserError


@dataclass(frozen=True)
class Framework:
    """A place that a checkpoint comes from or goes to.

    Args:
        name: framework or convention.
        convention: which variances it uses.
        eps: default ε; None for a bare convention, which has none.
        momentum: default weight α of the new batch; None where there is none.
        weighs: what its own momentum argument weighs, "new batch" or "old value".
        bias_corrected: the stored average carries no trace of its start value.
        row: name of its row in the audit's table; "" for a bare convention.
    """

    name: str
    convention: Convention
    eps: float | None
    momentum: float | None
    weighs: str
    bias_corrected: bool = False
    row: str = ""


_PAPER, _BIASED, _UNBIASED = (CONVENTIONS[name] for name in ("paper", "consistent_biased", "consistent_unbiased"))
_NEW, _OLD = "new batch", "old value"
FRAMEWORKS: dict[str, Framework] = {
    framework.name: framework
    for framework in (
        Framework("torch", _PAPER, 1e-5, 0.1, _NEW, row="torch"),
        Framework("tinygrad", _PAPER, 1e-5, 0.1, _NEW, row="tinygrad"),
        Framework("mlx", _PAPER, 1e-5, 0.1, _NEW, row="mlx"),
        Framework("tensorflow-fused", _PAPER, 1e-4, None, _NEW, row="tensorflow-fused"),
        Framework("flax", _BIASED, 1e-5, 0.01, _OLD, row="flax-linen"),
        Framework("keras", _BIASED, 1e-3, 0.01, _OLD, row="keras-jax"),
        Framework("equinox", _BIASED, 1e-5, 0.01, _OLD, row="equinox-batch"),
        Framework("haiku", _BIASED, 1e-5, None, _OLD, bias_corrected=True, row="haiku"),
        Framework("onnx", _BIASED, 1e-5, 0.1, _OLD, row="onnx-operator"),
        Framework("paddle", _BIASED, 1e-5, 0.1, _OLD, row="paddle"),
        Framework("karpathy", _UNBIASED, 1e-5, 0.1, _NEW, row="karpathy"),
    )
}
"""Measured, not quoted: a test compares every field with the committed table of the audit."""

_OTHER_NAMES = {"pytorch": "torch"}


def framework(name: str, role: str) -> Framework:
    """The framework or convention of a name.

    Args:
        name: a framework, a convention, or an alias of either.
        role: the argument it came from, for the message.

    Raises:
        UserError: neither.
    """
    known = _OTHER_NAMES.get(name, name)
    if known in FRAMEWORKS:
        return FRAMEWORKS[known]
    known = ALIASES.get(known, known)
    if known in CONVENTIONS:
        return Framework(known, CONVENTIONS[known], None, None, _NEW)
    raise UserError(
        f"{role}: {name!r} is no framework or convention; use {', '.join(FRAMEWORKS)}, or {', '.join(CONVENTIONS)}"
    )
