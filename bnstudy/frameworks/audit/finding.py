"""What an identification says about a layer: one record, one row of the audit's table."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """The identified behaviour; measured numbers are rounded to the shortest decimal within their error.

    Args:
        convention: "paper", "consistent_unbiased", "consistent_biased", "inverted", or "unknown".
        oddities: why it is none of the four; empty for one that is.
        remarks: what else a user of it should know.
        normalize: "biased" or "unbiased" batch variance, or "moving average", "stored", "unknown".
        normalize_factor: measured k at m = 8, over the biased variance (8/7 is unbiased); NaN where there is none.
        accumulate: "biased", "unbiased", "nothing", or "unknown".
        accumulate_factor: likewise.
        buffer: what is stored: "variance", "standard deviation", "unknown"; with what is averaged where that differs.
        weight: weight of the new batch at the layer's default, once the average has settled; NaN if nothing accumulates.
        schedule: "constant", "first batch replaces the start", "bias-corrected", "cumulative", "none",
            "unknown".
        weights: weight of each of the five batches in the step that took it in.
        momentum_means: "new batch" or "old value" (what the argument weighs), "no argument", "no effect" or
            "unknown".
        momentum_default: the argument's own default; NaN where it has none.
        bias_correction: "none", "in the stored average", "at inference".
        eps, eps_place: ε in training: "inside" the root, "outside", "floor" (a lower bound), "not visible".
        eval_eps, eval_place: the same at inference; NaN and "not measured" where statistics cannot be written.
        start_mean, start_variance: what is stored before the first batch.
        single: what happens at m = 1.
        residual: the largest relative misfit among the laws that the answer rests on.
        runner_up: the smallest relative misfit among the rejected normalising and accumulating variances: by how much the
            answer is better than the next.
    """

    convention: str
    oddities: tuple[str, ...]
    remarks: tuple[str, ...]
    normalize: str
    normalize_factor: float
    accumulate: str
    accumulate_factor: float
    buffer: str
    weight: float
    schedule: str
    weights: tuple[float, ...]
    momentum_means: str
    momentum_default: float
    bias_correction: str
    eps: float
    eps_place: str
    eval_eps: float
    eval_place: str
    start_mean: float
    start_variance: float
    single: str
    residual: float
    runner_up: float
