"""What theory says of every convention, layer by layer, as `bnstudy predict` prints it."""

from __future__ import annotations

from dataclasses import dataclass

from bnstudy.errors import UserError
from bnstudy.printing import say, show


@dataclass(frozen=True)
class Asked:
    """What `bnstudy predict` is asked.

    Args:
        batch_size: samples in a batch.
        positions: values per channel in one sample: H·W of an image, 1 for features.
        depth: BatchNorm layers.
        first_m_eff: independent samples that a batch is worth in the first layer; None for m.
        skip: whether there is a skip connection around each block.
        momentum: α, to add the noise of a moving average; None leaves it out.
    """

    batch_size: int
    positions: int = 1
    depth: int = 8
    first_m_eff: float | None = None
    skip: bool = False
    momentum: float | None = None


def predict(asked: Asked) -> None:
    """Print two tables, a row a layer and a column a convention: the ratio of second moments, and what is stored.

    Raises:
        UserError: a number that no batch, network or average can have.

    Source: docs/method.md, "Theory, layer by layer".
    """
    import pandas as pd

    from bnstudy.batchnorm.conventions import CONVENTIONS
    from bnstudy.batchnorm.theory import inverse_sizes, layer_ratios, noise_of_average, stored_share

    _check(asked)
    m = asked.batch_size * asked.positions
    try:
        sizes = inverse_sizes(m, asked.depth, asked.first_m_eff, asked.skip)
        noise = None
        if asked.momentum is not None:
            weights = asked.momentum / (2 - asked.momentum)
            noise = [noise_of_average(weights, size, 2 / (m - 1)) for size in sizes]
        pairs = {name: (convention.normalize, convention.accumulate) for name, convention in CONVENTIONS.items()}
        ratios = {name: layer_ratios(*pair, m, sizes, skip=asked.skip, noise=noise) for name, pair in pairs.items()}
        shares = {name: [stored_share(stored, m, size) for size in sizes] for name, (_, stored) in pairs.items()}
    except ValueError as error:
        raise UserError(str(error)) from error
    layers = [str(index) for index in range(1, asked.depth + 1)]
    worth = ["∞" if size == 0 else f"{1 / size:.4g}" for size in sizes]
    shape = "a skip connection around each block" if asked.skip else "one layer above the other"
    alpha = "" if asked.momentum is None else f", with the noise of a moving average, α = {asked.momentum:g}"
    heads = pd.DataFrame({"layer": layers, "m_eff": worth})
    for title, table in (
        (f"E[x̂²] at inference over E[x̂²] in training (m = {m}, {shape}{alpha})", ratios),
        ("Stored variance over the total variance that it should be", shares),
    ):
        columns = {name: [f"{value:.3f}" for value in column] for name, column in table.items()}
        show(title, heads.assign(**columns))
    say(
        "For ReLU, wide layers and random weights; trained networks were found close to it. It says nothing of m = 2, where "
        "E[1/s²] does not exist, of other activations, nor of pixels that depend on each other: give their measured m_eff."
    )


def _check(asked: Asked) -> None:
    for option, value in (("--batch-size", asked.batch_size), ("--positions", asked.positions)):
        if value < 1:
            raise UserError(f"{option}: {value} is no number of values; use 1 or more")
    if asked.momentum is not None and not 0 < asked.momentum <= 1:
        raise UserError(f"--momentum: {asked.momentum:g} is no weight of the new batch; use 0 < momentum ≤ 1")
    if asked.first_m_eff is not None and not asked.first_m_eff > 1:
        raise UserError(f"--first-m-eff: {asked.first_m_eff:g} samples have no variance of their own; use more than 1")
