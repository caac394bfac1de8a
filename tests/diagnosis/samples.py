"""Diagnoses such as the measurement makes them, written by hand: their numbers fit together."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from bnstudy.diagnosis.measured import Effect
from bnstudy.diagnosis.result import TERMS, Diagnosis, Finding

EVIL = "<script>alert('x')</script> & \"q\" [b]bold[/b] {{ 7*7 }}"
RESNET = ["bn1", *(f"layer{stage}.{block}.bn{one}" for stage in (1, 2, 3, 4) for block in (0, 1) for one in (1, 2))]


def levels_and_terms(
    metrics: dict[str, tuple[dict[str, float], float]], error: float = 1.0
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Tables of metrics whose terms are differences of the levels.

    Args:
        metrics: by name, the value by condition, and the standard error of a level.
        error: factor of all errors; NaN for a single batch.
    """
    sides = {"gap": ("own", "batch"), "bessel": ("own", "ema_unbiased"), "lag": ("ema_unbiased", "population_unbiased"),
             "pooling": ("population_unbiased", "population_total"), "noise": ("population_total", "batch"),
             "other": ("batch", "train")}  # fmt: skip
    levels, terms = [], []
    for metric, (values, spread) in metrics.items():
        for index, (condition, value) in enumerate(values.items()):
            levels.append((metric, condition, value, error * spread, [0.31, 0.0, 0.27, 0.12, 0.09, 0.08][index]))
        for index, (term, (first, second)) in enumerate(sides.items()):
            difference = values.get(first, values["own"]) - values.get(second, values["own"])
            exact = term == "bessel" and "ema_unbiased" not in values
            terms.append((metric, term, difference, 0.0 if exact else error * spread * (0.5 - 0.07 * index)))
    return (
        pd.DataFrame(levels, columns=["metric", "condition", "value", "error", "distance"]),
        pd.DataFrame(terms, columns=["metric", "term", "value", "error"]),
    )


def conditions(train: float, batch: float, own: float, unbiased: float, pooled: float) -> dict[str, float]:
    """Values by condition of a model whose layers store the unbiased variance."""
    return {"train": train, "batch": batch, "own": own, "population_unbiased": unbiased, "population_total": pooled}


def layers_of(names: list[str], *, seed: int = 0, off: float = 0.03, swaps: tuple[str, ...] = ("accuracy", "loss"),
              m: float = 8192) -> pd.DataFrame:  # fmt: skip
    """A layers table.

    Args:
        names: of the layers.
        seed: of their numbers.
        off: scale of how far stored variances are off, in log units.
        swaps: metrics of the swaps; none for no swaps.
        m: values per channel of the first layer; deeper ones have fewer.
    """
    draw = np.random.default_rng(seed)
    depth = np.arange(len(names)) / max(len(names), 1)
    sizes = np.maximum(2, m / 4 ** np.floor(4 * depth)).astype(int)
    share = np.exp(-1.5 * depth + draw.normal(0, 0.25, len(names)))
    log_ratio = draw.normal(0, off, len(names)) + off / 2
    mean = np.abs(draw.normal(0, off, len(names)))
    expected = 0.02 + 0.1 * depth
    table = {
        "layer": names,
        "type": "BatchNorm2d",
        "channels": 64 * 2 ** np.floor(4 * depth).astype(int),
        "m": sizes,
        "m_eff": sizes * share,
        "m_eff_se": sizes * share * 0.12,
        "m_eff_samples": sizes * share * 1.1,
        "composition": draw.normal(1, 0.1, len(names)),
        "batches_tracked": 23_400,
        "momentum": 0.1,
        "eps": 1e-5,
        "calls": 1,
        "stored_mean_distance": mean,
        "variance_ratio": np.exp(log_ratio),
        "variance_ratio_se": 0.01 + 0.02 * depth,
        "distance": np.sqrt(mean**2 + log_ratio**2 / 2) + 1e-4,
        "distance_expected": expected,
        "dead": 0,
        "zero_gain": 0,
        "broken": 0,
        "swap_distance": np.abs(draw.normal(0, 0.02 + off, len(names))) if swaps else math.nan,
    }
    return pd.DataFrame(table | {f"swap_{name}": draw.normal(0, off / 5, len(names)) for name in swaps})


def setting_of(metric: str = "accuracy", direction: str | None = "higher", **more: Any) -> dict[str, Any]:
    """A setting; further keys replace its own."""
    return {
        "model": "ResNet", "parameters": 11_181_642, "metric": metric, "direction": direction, "batches": 40,
        "samples": 5_120, "batch_size": 128, "evaluation_samples": None, "passes": 8, "swap_passes": 36, "seconds": 41.273,
        "device": "CPU, 2 cores", "threads": 2, "seed": 0,
        "versions": {"bnstudy": "0.1.0", "torch": "2.11.0", "python": "3.11.7"},
    } | more  # fmt: skip


def healthy() -> Diagnosis:
    """A ResNet with nothing wrong."""
    tables = levels_and_terms({"accuracy": (conditions(0.9431, 0.9433, 0.9428, 0.943, 0.9431), 0.0033),
                               "loss": (conditions(0.1882, 0.1878, 0.1885, 0.1881, 0.188), 0.009)})  # fmt: skip
    finding = Finding(
        "healthy",
        "What the BatchNorm layers store is what these batches say, within luck or without consequence; evaluation mode is "
        "not worse for it.",
        ("accuracy: 94.28 in evaluation mode, 94.33 on batch statistics; difference −0.05 pp ± 0.17.",
         "loss: 0.189 in evaluation mode, 0.188 on batch statistics; difference 0.001 nats ± 0.005."),
        "Nothing to do.",
    )  # fmt: skip
    return Diagnosis((finding,), *tables, layers_of(RESNET), setting_of())


def three() -> Diagnosis:
    """Three findings, bessel's term, dropout, dead channels, a shared layer, a remedy, and a command."""
    accuracy = {"train": 0.9102, "batch": 0.9433, "own": 0.8127, "ema_unbiased": 0.8164, "population_unbiased": 0.9379,
                "population_total": 0.9401}  # fmt: skip
    loss = {"train": 0.2711, "batch": 0.1878, "own": 0.6921, "ema_unbiased": 0.672, "population_unbiased": 0.2012,
            "population_total": 0.195}  # fmt: skip
    tables = levels_and_terms({"accuracy": (accuracy, 0.0051), "loss": (loss, 0.014)})
    layers = layers_of(RESNET, seed=3, off=0.35)
    layers.loc[6, ["dead", "calls"]] = [3, 2]
    layers.loc[7, "zero_gain"] = 64
    findings = (
        Finding(
            "noisy_average",
            "The running statistics rest on about 1 batch of 512 values a channel (momentum 0.9): they are a matter of "
            "luck, and evaluation inherits it: accuracy changes by −12.15 pp ± 0.22.",
            ("layer4.1.bn2: stored and measured statistics lie 0.52 apart; by luck alone it would be 0.49.",
             "The term `lag` is −12.15 pp ± 0.22 of a gap of −13.06 pp ± 0.26."),
            "Momentum 0.1 or less, or measure the statistics again on training batches: `bnstudy diagnose … --recalibrate "
            "OUT`.",
            tuple(RESNET), Effect("accuracy", -0.1215, 0.0022),
        ),
        Finding(
            "other_layers",
            "Not BatchNorm: dropout (Dropout) makes training mode differ from evaluation mode by 3.31 pp ± 0.08 in "
            "accuracy.",
            ("Held in evaluation mode while BatchNorm stays on batch statistics, accuracy changes by that much.",),
            "Nothing to repair: this is what they are for. Compare modes with these layers off before blaming BatchNorm.",
            (), Effect("accuracy", 0.0331, 0.0008),
        ),
        Finding(
            "dead_channels",
            "3 channels of layer 'layer2.0.bn2' give the same value whatever comes in.",
            ("layer2.0.bn2: 3 of 128 channels have a variance below ε in every batch.",),
            "They cost time and nothing else; prune them, or look at the learning rate that killed them.",
            ("layer2.0.bn2",),
        ),
    )  # fmt: skip
    gains = [{"metric": "accuracy", "direction": "higher", "before": 0.8127, "after": 0.9381, "gain": 0.1254,
              "error": 0.0031}, {"metric": "loss", "direction": "lower", "before": 0.6921, "after": 0.2008, "gain": 0.4913,
              "error": 0.0121}]  # fmt: skip
    remedy = {"file": "mended.safetensors", "written": True, "choices": dict.fromkeys(RESNET, "recalibrate"),
              "convention": None, "calibrating": 20, "measuring": 20, "gains": gains, "harmful": [],
              "notes": []}  # fmt: skip
    command = "bnstudy diagnose --model torchvision.models:resnet18 --weights net.safetensors --data pets:batches"
    return Diagnosis(findings, *tables, layers, setting_of(command=command, remedies=[remedy]))


def unlabelled() -> Diagnosis:
    """No targets: the outputs' scale, which no side of is better; a user's own metric beside it; no swaps; few batches."""
    tables = levels_and_terms({"output_rms": (conditions(1.8423, 1.8423, 1.7011, 1.7988, 1.8034), 0.021),
                               EVIL: (conditions(12_345.678, 12_345.678, 12_811.2, 12_400.5, 12_390.25), 81.0)})  # fmt: skip
    finding = Finding("not_separable", "5 batches do not say how far luck goes.",
                      ("Standard errors over fewer than 8 batches are too rough for a verdict.",),
                      "Give 3 more batches, better 15.")  # fmt: skip
    names = ["features.0.norm", f"features.1.{EVIL}", "features.2." + "long_" * 20 + "norm"]
    setting = setting_of("output_rms", None, batches=5, samples=40, batch_size=8, swap_passes=0, model=EVIL)
    return Diagnosis((finding,), *tables, layers_of(names, swaps=(), m=64), setting)


def broken() -> Diagnosis:
    """Statistics with NaN in one layer: evaluation mode has no metric."""
    tables = levels_and_terms({"accuracy": (conditions(0.9433, 0.9433, math.nan, 0.943, 0.9431), 0.0033),
                               "loss": (conditions(0.1878, 0.1878, math.nan, 0.1881, 0.188), 0.009)})  # fmt: skip
    levels, terms = tables
    levels.loc[levels["value"].isna(), ["error", "distance"]] = [math.nan, math.inf]
    terms.loc[terms["value"].isna(), "error"] = math.nan
    layers = layers_of(RESNET, seed=5)
    at = RESNET.index("layer2.1.bn1")
    layers.loc[at, ["stored_mean_distance", "variance_ratio", "variance_ratio_se", "distance", "distance_expected"]] = (
        math.nan
    )
    layers.loc[at, ["swap_distance", "swap_accuracy", "swap_loss", "m_eff", "m_eff_se"]] = [math.inf, math.nan, math.nan,
                                                                                           math.inf, math.nan]  # fmt: skip
    layers.loc[at, "broken"] = 2
    finding = Finding(
        "invalid_statistics",
        "Layer 'layer2.1.bn1' holds running statistics that no data can have. Evaluation mode divides by them; training "
        "mode does not look at them, so training seems fine.",
        ("layer2.1.bn1: of 128 channels 1 with a mean that is not finite and 1 with a negative variance",),
        "Find the batch that brought the first non-finite input (one is enough: a moving average never forgets NaN) or the "
        "tool that wrote the checkpoint.",
        ("layer2.1.bn1",), Effect("accuracy", math.nan, math.nan),
    )  # fmt: skip
    return Diagnosis((finding,), levels, terms, layers, setting_of())


def deep() -> Diagnosis:
    """161 layers, as a DenseNet has."""
    names = [f"features.denseblock{block}.denselayer{layer}.norm{norm}" for block, count in enumerate((10, 20, 30, 20), 1)
             for layer in range(1, count + 1) for norm in (1, 2)] + ["features.norm5"]  # fmt: skip
    tables = levels_and_terms({"accuracy": (conditions(0.7444, 0.7444, 0.7013, 0.7401, 0.7409), 0.0061)})
    layers = layers_of(names, seed=7, off=0.2, swaps=("accuracy",), m=401_408)
    layers.loc[40, ["variance_ratio", "distance", "swap_distance"]] = [11.3, 4.1, 0.9]
    finding = Finding(
        "frozen",
        "The running statistics of 161 layers are those of other weights: they follow no pattern, and accuracy changes by "
        "−3.88 pp ± 0.33.",
        (f"{names[40]}: stored variances are 11.3 ± 0.4 times those of the batches.",),
        "Measure the statistics again on training batches: `bnstudy diagnose … --recalibrate OUT`.",
        tuple(names), Effect("accuracy", -0.0388, 0.0033),
    )  # fmt: skip
    return Diagnosis((finding,), *tables, layers, setting_of(model="DenseNet", swap_passes=324))


def single() -> Diagnosis:
    """One layer and one batch: no errors anywhere."""
    levels, terms = levels_and_terms({"mse": (conditions(0.51, 0.51, 0.6, 0.52, 0.515), 0.02)}, error=math.nan)
    layers = layers_of(["1"], swaps=("mse",), m=16).assign(variance_ratio_se=math.nan, m_eff=math.nan, m_eff_se=math.nan,
                                                           distance_expected=math.nan)  # fmt: skip
    finding = Finding("not_separable", "1 batch do not say how far luck goes.", (), "Give 7 more batches, better 19.")
    return Diagnosis((finding,), levels, terms, layers, setting_of("mse", "lower", batches=1, samples=16, batch_size=16))


def nothing() -> Diagnosis:
    """Everything that can be missing is: no number anywhere, and a setting without keys."""
    levels, terms = levels_and_terms({"loss": (dict.fromkeys(conditions(0, 0, 0, 0, 0), math.nan), math.nan)})
    layers = layers_of(["norm", "other"], swaps=())
    numbers = [name for name in layers if name not in ("layer", "type", "channels", "m", "calls")]
    layers = layers.assign(**dict.fromkeys(numbers, math.nan))
    finding = Finding("invalid_statistics", "Nothing is finite.", (), "Look at the inputs.")
    return Diagnosis((finding,), levels.assign(distance=math.nan), terms, layers, {})


EVERY = (healthy, three, unlabelled, broken, deep, single, nothing)
assert set(TERMS) < set(three().terms["term"])
