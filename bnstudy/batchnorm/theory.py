"""What theory predicts for the scale of a normalised activation at inference, layer by layer, with no parameter fitted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from bnstudy.batchnorm.conventions import Convention, bessel


@dataclass(frozen=True)
class Prediction:
    """Second moment of x̂ under batch statistics and under a stored one, ε → 0.

    Args:
        train: E[x̂²] in training.
        evaluation: E[x̂²] at inference.
    """

    train: float
    evaluation: float

    @property
    def ratio(self) -> float:
        """Inference over training; 1 means that nothing shifts."""
        return self.evaluation / self.train


class Activation(NamedTuple):
    """Moments of relu(x̂), where x̂ has second moment 1.

    Args:
        mean, variance: of one value.
        inverse_size: 1/m_eff, the variance of the mean over a batch as a share of `variance`.
    """

    mean: float
    variance: float
    inverse_size: float


INFERENCE = Activation(1 / math.sqrt(2 * math.pi), (1 - 1 / math.pi) / 2, math.nan)
"""relu of a standard Gaussian value: at inference the values of a wide layer are Gaussian, and independent."""


@lru_cache
def activation_in_training(m: int) -> Activation:
    """Moments of relu(x̂) in a training batch of m values, x̂ normalised by the biased variance.

    For independent Gaussian samples the m values of x̂ are uniform on the sphere of radius √m that is orthogonal to the
    vector of ones: a sphere in n = m-1 dimensions. One value is √n times a coordinate u of a unit vector of R^n, so

        E[relu] = √n·E|u|/2,   E|u| = Γ(n/2)/(√π·Γ((n+1)/2)),   E[relu²] = 1/2.

    Two values of a batch have the correlation -1/n = cos θ. The product of their relus has the arc-cosine kernel of first
    order for its mean, J = (sin θ + (π-θ)·cos θ)/(2π), on the sphere as for Gaussian values, since it is homogeneous. So

        Var(batch mean of relu) = 1/(2m) + (1 - 1/m)·J - E[relu]².

    Args:
        m: values per channel in a batch.

    Returns:
        The moments. `inverse_size` is 0 at m = 2, where x̂ is ±1 and every batch has the same mean.

    Raises:
        ValueError: m below 2.

    Source: docs/method.md, "Theory, layer by layer"; Cho & Saul 2009, section 2 (arc-cosine kernels).
    """
    if m < 2:
        raise ValueError(f"m: a batch of {m} cannot be normalised; use 2 or more")
    n = m - 1
    mean = math.sqrt(n / math.pi) / 2 * math.exp(math.lgamma(n / 2) - math.lgamma((n + 1) / 2))
    angle = math.acos(-1 / n)
    product = (math.sin(angle) + (math.pi - angle) * math.cos(angle)) / (2 * math.pi)
    variance = 0.5 - mean**2
    return Activation(mean, variance, max(0.0, 0.5 / m + (1 - 1 / m) * product - mean**2) / variance)


def stored_share(variance: str, m: int, inverse_size: float) -> float:
    """What is stored, as a multiple of the total variance σ²: 1 is right, more shrinks the activation at inference.

    E[s²_biased] = (1 - 1/m_eff)·σ², and E[s²_unbiased] is c = m/(m-1) times that: right for independent samples only.

    Args:
        variance: "biased", "unbiased" or "total".
        m: values per channel in a batch.
        inverse_size: 1/m_eff.

    Raises:
        ValueError: another variance; a 1/m_eff outside 0 ≤ 1/m_eff < 1, where the batch mean is all there is; m below 2.

    Source: docs/method.md, "Theory, layer by layer".
    """
    if not 0 <= inverse_size < 1:
        worth = 1 / inverse_size if inverse_size else math.inf
        raise ValueError(f"m_eff: {worth:g} samples have no variance of their own; use more than 1")
    if m < 2:
        raise ValueError(f"m: a batch of {m} cannot be normalised; use 2 or more")
    shares = {"biased": 1 - inverse_size, "unbiased": bessel(m) * (1 - inverse_size), "total": 1.0}
    if variance not in shares:
        raise ValueError(f"variance: {variance!r} is not stored by any convention; use {', '.join(shares)}")
    return shares[variance]


def predict(convention: Convention, m: int, m_eff: float | None = None) -> Prediction:
    """Second moment of the normalised activation in a layer whose inputs are the same in training and at inference.

    With c = m/(m-1): 1 in training where the biased variance normalises, 1/c where the unbiased one does; σ²/(stored
    variance) at inference (`stored_share`).

    Args:
        convention: who normalises and accumulates.
        m: values per channel in a batch.
        m_eff: number of independent samples that a batch is worth. Default: m.

    Raises:
        ValueError: m below 2, an m_eff of 1 or less.

    Source: docs/method.md, "Theory, layer by layer".
    """
    if m < 2:
        raise ValueError(f"m: a batch of {m} cannot be normalised; use 2 or more")
    share = stored_share(convention.accumulate, m, 1 / (m if m_eff is None else m_eff))
    return Prediction(1.0 if convention.normalize == "biased" else 1 / bessel(m), 1 / share)


def noise_of_average(weight_square: float, inverse_size: float, variation: float) -> float:
    """The factor by which the noise of a moving average raises the second moment at inference.

    With weights w of sum 1, μ̂ adds Σw²·Var(μ_B) to the distance from the mean, and E[1/v] exceeds 1/E[v] by Σw²·CV²(s²):

        (1 + Σw²/m_eff)·(1 + Σw²·CV²(s²))

    Args:
        weight_square: Σw²; α/(2-α) for a moving average once burnt in, 1/t for the mean of t batches.
        inverse_size: 1/m_eff.
        variation: CV²(s²), the squared coefficient of variation of what a batch says of the variance; 2/(m-1) for
            independent Gaussian samples, and in every layer of a wide network at initialisation.

    Source: docs/method.md, "Theory, layer by layer"; the second-order expansion of E[1/v].
    """
    return (1 + weight_square * inverse_size) * (1 + weight_square * variation)


def inverse_sizes(m: int, depth: int, first_m_eff: float | None = None, skip: bool = False) -> list[float]:
    """1/m_eff of each BatchNorm layer of a wide ReLU network at initialisation.

    The first layer sees the samples: m_eff = m where they are independent. In a plain stack every further layer sees linear
    combinations of a normalised layer's relu, whose batch means hardly vary (`activation_in_training`): 295 at m = 4, and
    about 30·m for large m. With a skip connection around each (BatchNorm, relu, linear) block, the variance that comes in
    with the samples stays in the stream and each block adds its own, so that m_eff grows from m by steps.

    Args:
        m: values per channel in a batch.
        depth: BatchNorm layers.
        first_m_eff: of the first layer. Default: m.
        skip: whether there is a skip connection around each block; see `layer_ratios`.

    Raises:
        ValueError: m below 2, a depth below 1, a first m_eff of 1 or less.

    Source: docs/method.md, "Theory, layer by layer".
    """
    if depth < 1:
        raise ValueError(f"depth: {depth} layers have nothing to predict; use 1 or more")
    block = activation_in_training(m)  # refuses an m that is none
    first = 1 / (m if first_m_eff is None else first_m_eff)
    stored_share("total", m, first)  # refuses what is no m_eff
    if not skip:
        return [first, *[block.inverse_size] * (depth - 1)]
    stream = [1 + index * block.variance for index in range(depth)]  # variance, the embedding's being 1
    return [(first + (total - 1) * block.inverse_size) / total for total in stream]


def layer_ratios(
    normalize: str,
    stored: str,
    m: int,
    inverse: Sequence[float],
    *,
    skip: bool = False,
    noise: Sequence[float] | None = None,
) -> list[float]:
    """Second moment of x̂ at inference over that in training, for each BatchNorm layer of a wide ReLU network.

    A layer whose inputs have D times the second moment at inference that they have in training, both about the training mean
    and in units of σ², gets ρ = k·D/`stored_share`, with k = c where the unbiased variance normalises and else 1. In the
    first layer D = 1. What the next layer sees is a linear combination of relus, of values on a sphere in training (mean
    M_t, variance V_t) and of Gaussian values √ρ as large at inference (mean √ρ·M_g, variance ρ·V_g); over random weights

        D = [ρ·V_g + (√ρ·M_g - M_t)²]/V_t.

    In a plain stack an error of the stored constant therefore multiplies from layer to layer. With a skip connection around
    each block, stream + linear(relu(BatchNorm(stream))), D is the mean of the embedding's 1 and of the blocks' so far,
    weighted by the variance that each brings; the blocks' weights are taken to have the embedding's scale.

    Args:
        normalize: "biased" or "unbiased", the variance that normalises a training batch.
        stored: "biased", "unbiased" or "total", the variance that is stored for inference.
        m: values per channel in a batch.
        inverse: 1/m_eff of each layer, measured or from `inverse_sizes`.
        skip: whether there is a skip connection around each block.
        noise: a factor for each layer, by which the noise of a moving average raises E[1/v] and the mean's own error the
            second moment. Default: 1, as for a population pass.

    Returns:
        The ratios. They hold for ReLU, wide layers, Gaussian weights and γ = 1, β = 0, that is at initialisation, and were
        found to describe trained networks, too; not for m = 2, where E[1/s²] does not exist, nor for pixels that depend
        on each other, whose m_eff has to be measured.

    Raises:
        ValueError: see `stored_share`.

    Source: docs/method.md, "Theory, layer by layer".
    """
    block = activation_in_training(m)
    factor = bessel(m) if normalize == "unbiased" else 1.0
    variance, moment = (1.0, 1.0) if skip else (0.0, 0.0)  # of the stream, in training and at inference
    ratios: list[float] = []
    for index, share in enumerate(stored_share(stored, m, size) for size in inverse):
        if index:
            ratio = ratios[-1]
            shifted = ratio * INFERENCE.variance + (math.sqrt(ratio) * INFERENCE.mean - block.mean) ** 2
            kept = 1.0 if skip else 0.0
            variance, moment = kept * variance + block.variance / factor, kept * moment + shifted / factor
        drift = moment / variance if index else 1.0
        ratios.append(factor * drift / share * (1.0 if noise is None else noise[index]))
    return ratios
