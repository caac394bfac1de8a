"""What `bnstudy audit` measured of each framework, as far as a translation needs it."""

from __future__ import annotations

from dataclasses import dataclass

from bnstudy.batchnorm.conventions import ALIASES, CONVENTIONS, Convention
from bnstudy.errors import UserError, shown


@dataclass(frozen=True)
class Framework:
    """A place that a checkpoint comes from or goes to.

    Args:
        name: framework or convention.
        convention: which variances it uses.
        eps: default ε; None for a bare convention, which has none.
        momentum: default weight α of the new batch; None where there is none.
        weighs: what its own momentum argument weighs, "new batch" or "old value".
        names: how its files name a layer's tensors, a key of `SCHEMES`; "" for a bare convention.
        row: name of its row in the audit's table; "" for a bare convention.
        bias_corrected: the stored average carries no trace of its start value. Default: False.
    """

    name: str
    convention: Convention
    eps: float | None
    momentum: float | None
    weighs: str
    names: str = ""
    row: str = ""
    bias_corrected: bool = False


_PAPER, _BIASED, _UNBIASED = (CONVENTIONS[name] for name in ("paper", "consistent_biased", "consistent_unbiased"))
_NEW, _OLD = "new batch", "old value"
FRAMEWORKS: dict[str, Framework] = {
    framework.name: framework
    for framework in (
        Framework("torch", _PAPER, 1e-5, 0.1, _NEW, "torch", "torch"),
        Framework("tinygrad", _PAPER, 1e-5, 0.1, _NEW, "torch", "tinygrad"),
        Framework("mlx", _PAPER, 1e-5, 0.1, _NEW, "mlx", "mlx"),
        Framework("tensorflow-fused", _PAPER, 1e-4, None, _NEW, "keras", "tensorflow-fused"),
        Framework("flax", _BIASED, 1e-5, 0.01, _OLD, "flax", "flax-linen"),
        Framework("keras", _BIASED, 1e-3, 0.01, _OLD, "keras", "keras-jax"),
        Framework("equinox", _BIASED, 1e-5, 0.01, _OLD, "torch", "equinox-batch"),  # its state has no names of its own
        Framework("haiku", _BIASED, 1e-5, None, _OLD, "haiku", "haiku", bias_corrected=True),
        Framework("onnx", _BIASED, 1e-5, 0.1, _OLD, "onnx", "onnx-operator"),
        Framework("paddle", _BIASED, 1e-5, 0.1, _OLD, "paddle", "paddle"),
        Framework("karpathy", _UNBIASED, 1e-5, 0.1, _NEW, "mxnet", "karpathy"),  # gamma, beta, running_mean, running_var
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
        f"{role}: {shown(name)} is no framework or convention; use {', '.join(FRAMEWORKS)}, or {', '.join(CONVENTIONS)}"
    )
