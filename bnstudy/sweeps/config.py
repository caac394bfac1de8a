"""The configuration of one cell of a study, as Hydra composes it: a training, what is asked of it, and where it runs."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from bnstudy.training.config import TrainingConfig
from bnstudy.training.keys import PLACE, PRESENTATION, SELECTION


@dataclass
class EngineConfig:
    """Where jobs run; none of it changes their numbers, `threads` apart, which rounding may show.

    Args:
        name: "local", "slurm" or "ray"; see `bnstudy.sweeps.engines`.
        workers: jobs at a time; None for one a core (local), or as many as the cluster takes.
        threads: threads of each worker, and cores asked for a job.
        gpus_per_job: GPUs asked for a job of a cluster; None for one where `device` is "cuda". Ray shares one by fractions.
        partition: Slurm's partition; None for the cluster's default.
        time: minutes that Slurm lets a job run; what is cut off goes on from its last checkpoint, once.
        memory: GB (2³⁰ bytes) asked for a job of Slurm; None for the cluster's default.
        options: further options of sbatch by their long names, such as {account: lab, qos: high}.
        setup: lines of shell that Slurm runs before a job, such as loading modules; no other key's text is
            run as a program.
        address: HOST:PORT of a Ray cluster, or "auto"; None for $RAY_ADDRESS, else a Ray of our own on this machine.
    """

    name: str = "local"
    workers: int | None = None
    threads: int = 1
    gpus_per_job: float | None = None
    partition: str | None = None
    time: int = 60
    memory: float | None = 4.0
    options: dict[str, Any] = field(default_factory=dict)
    setup: list[str] = field(default_factory=list)
    address: str | None = None


@dataclass
class StudyConfig:
    """What a study asks, declared before it runs; none of it changes a training's numbers.

    Args:
        question: what is to be found out.
        hypothesis: what is expected, and why.
        metric: the primary metric; None for accuracy, or R² where there is no accuracy.
        split: the split on which it is measured, "test" or "train".
        statistic: what is compared: "own" (under each convention's stored statistic), "batch", or "gap" (own − batch).
        margin: the largest difference in the metric's own units that counts as none; None for no equivalence tests.
        alpha: error rate of every family of tests.
        contrasts: arms to compare with `paper`, or pairs [arm, reference].
        kinds: which comparisons are the family: "arm" (`contrasts`), "storage" (what is stored, on the same weights),
            "training" (what normalises, under the total variance).
        family: which cells make up the family that is adjusted together: values by column, such as {batch_size: [2, 4]};
            empty for all of them.
    """

    question: str = ""
    hypothesis: str = ""
    metric: str | None = None
    split: str = "test"
    statistic: str = "own"
    margin: float | None = None
    alpha: float = 0.05
    contrasts: list[Any] = field(default_factory=lambda: ["consistent_unbiased", "consistent_biased", "inverted", "total"])
    kinds: list[str] = field(default_factory=lambda: ["arm"])
    family: dict[str, Any] = field(default_factory=dict)


@dataclass
class Config(TrainingConfig):
    """One cell of a study: one training under one convention, for some seeds.

    Args:
        name: the study's name; tables and report go to results/NAME.
        scale: "standard", or "full" for the larger version of an experiment, whose YAML gives both.
        study: what is asked; see `StudyConfig`.
        seeds: a number R for the seeds 0…R-1, or a list of seeds.
        engine: where jobs run; see `EngineConfig`.
        tracking: Weights & Biases: "offline" (runs in files under `output_dir`), "online" or "disabled".
        output_dir: folder of the raw runs, which all studies share.
        results_dir: folder of the results, one folder a study.
        retry_failed: train again what failed before.
        report: draw figures and write the report after the tables; `bnstudy report NAME` does it later.
    """

    name: str = field(default="run", metadata=PRESENTATION)
    scale: str = field(default="standard", metadata=PRESENTATION)
    study: StudyConfig = field(default_factory=StudyConfig, metadata=PRESENTATION)
    seeds: Any = field(default=8, metadata=SELECTION)
    engine: EngineConfig = field(default_factory=EngineConfig, metadata=PLACE)
    tracking: str = field(default="offline", metadata=PRESENTATION)
    output_dir: str = field(default="outputs", metadata=PLACE)
    results_dir: str = field(default="results", metadata=PRESENTATION)
    retry_failed: bool = field(default=False, metadata=PRESENTATION)
    report: bool = field(default=True, metadata=PRESENTATION)


def study_keys() -> list[str]:
    """Keys that have one value for all cells of a study: what a cell adds to a training, seeds apart, and the device."""
    training = {field.name for field in fields(TrainingConfig)}
    return [field.name for field in fields(Config) if field.name not in training | {"seeds"}] + ["device"]
