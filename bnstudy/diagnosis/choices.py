"""What is to be done to the running statistics of each layer, by patterns of names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from bnstudy.diagnosis.normlayers import NormLayer
from bnstudy.errors import UserError

CHOICES = ("recalibrate", "translate", "keep")
"""What can be done to a layer's running statistics."""


def chosen(layers: Sequence[NormLayer], choice: Mapping[str, str]) -> dict[NormLayer, str]:
    """What to do with each layer that stores statistics.

    Args:
        layers: of the model.
        choice: "recalibrate", "translate" or "keep" by pattern of layer names, as in a shell; later patterns win. Layers
            that fit none are kept.

    Raises:
        UserError: another choice, or a pattern that fits no layer.
    """
    keeping = [layer for layer in layers if layer.stored is not None]
    if not keeping:
        raise UserError("model: none of its BatchNorm layers stores statistics, so there are none to write")
    result = dict.fromkeys(keeping, "keep")
    for pattern, what in choice.items():
        if what not in CHOICES:
            raise UserError(f"remedy: {what!r} for {pattern!r} is unknown; use {', '.join(CHOICES)}")
        fitting = [layer for layer in keeping if any(fnmatchcase(name, pattern) for name in layer.names)]
        if not fitting:
            raise UserError(
                f"remedy: {pattern!r} fits no layer with stored statistics; use patterns for names such as "
                f"{keeping[0].name!r}"
            )
        result |= dict.fromkeys(fitting, what)
    return result
