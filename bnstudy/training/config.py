"""The configuration of one training: every key that it reads, its type and its default."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from bnstudy.training.data.registry import reads
from bnstudy.training.keys import NUMBERS, PLACE, SELECTION, numbers_where


def _where_data_read(field: str) -> dict[str, Any]:
    return numbers_where(lambda config: reads("import" if config.dataset.imported else config.dataset.name, field))


_SIZED = numbers_where(lambda config: config.model.architecture in ("mlp", "resnet"))
_OWN_NETWORK = numbers_where(lambda config: config.model.imported)
_BATCHNORM = numbers_where(lambda config: config.model.norm == "batch")
_SGD = numbers_where(lambda config: config.optimizer.name == "sgd")
_ADAMW = numbers_where(lambda config: config.optimizer.name == "adamw")


@dataclass
class DatasetConfig:
    """Which data, how much of it, and from where.

    Args:
        name: digits, fashion_mnist, mnist, kmnist, cifar10, cifar100, svhn, gaussian, diabetes or friedman1; "import" for
            data of your own, or then whatever tables should call them.
        root: folder that holds the files of a torchvision data set.
        download: let torchvision fetch missing files.
        train_size: training samples to use; None for all of the split.
        test_size: test samples to use; None for all of the split.
        split_seed: seed of the fixed split and of the drawn sets; it is not the seed of a run.
        augment: "none" or "crop_flip" (pad by an eighth of the side, at most 4; random crop, flip), training batches only.
        samples: size of a drawn set (`gaussian`, `friedman1`) before it is split.
        dimension: number of features of `gaussian`.
        noise: standard deviation of the noise on the target of `friedman1` and on the logits of `gaussian`.
        factory: `pkg.module:function` that returns data of your own; see `bnstudy.training.data.imported`.
        args: keyword arguments of `factory`.
        scale: normalise inputs of your own like all others; false leaves them as `factory` gives them.
        source: digest of `factory`'s source, which the plan fills in; whatever is given here is overwritten.
    """

    name: str = field(default="digits", metadata=NUMBERS)
    root: str = field(default="data", metadata=PLACE)
    download: bool = field(default=False, metadata=PLACE)
    train_size: int | None = field(default=None, metadata=NUMBERS)
    test_size: int | None = field(default=None, metadata=NUMBERS)
    split_seed: int = field(default=0, metadata=NUMBERS)
    augment: str = field(default="none", metadata=NUMBERS)
    samples: int = field(default=5120, metadata=_where_data_read("samples"))
    dimension: int = field(default=64, metadata=_where_data_read("dimension"))
    noise: float = field(default=1.0, metadata=_where_data_read("noise"))
    factory: str | None = field(default=None, metadata=_where_data_read("factory"))
    args: dict[str, Any] = field(default_factory=dict, metadata=_where_data_read("args"))
    scale: bool = field(default=True, metadata=_where_data_read("scale"))
    source: str | None = field(default=None, metadata=_where_data_read("source"))

    @property
    def imported(self) -> bool:
        """Whether a function of the user's brings the data."""
        return self.factory is not None or self.name == "import"


@dataclass
class ModelConfig:
    """Which network.

    Args:
        name: what tables call the network: mlp, resnet8, resnet18, …
        architecture: "mlp", "resnet" (CIFAR-style, 6n+2 layers), "torchvision" (then `name` is torchvision's), or "import"
            for a network of your own.
        depth: hidden layers of an MLP; layers of a CIFAR-style ResNet (6n+2).
        width: units of an MLP's hidden layers; channels of the first stage of a ResNet.
        norm: "batch", or a baseline in its place: "group", "layer", "none".
        factory: `pkg.module:function` that builds a network of your own; see `bnstudy.training.networks.imported`.
        args: keyword arguments of `factory`.
        source: digest of `factory`'s source, which the plan fills in; whatever is given here is overwritten.
    """

    name: str = field(default="mlp", metadata=NUMBERS)
    architecture: str = field(default="mlp", metadata=NUMBERS)
    depth: int = field(default=2, metadata=_SIZED)
    width: int = field(default=128, metadata=_SIZED)
    norm: str = field(default="batch", metadata=NUMBERS)
    factory: str | None = field(default=None, metadata=_OWN_NETWORK)
    args: dict[str, Any] = field(default_factory=dict, metadata=_OWN_NETWORK)
    source: str | None = field(default=None, metadata=_OWN_NETWORK)

    @property
    def imported(self) -> bool:
        """Whether a function of the user's builds the network."""
        return self.architecture == "import"


@dataclass
class VarianceConfig:
    """Which variance convention; see `bnstudy.batchnorm.conventions`.

    Args:
        name: the convention's name in tables.
        normalize: "biased" or "unbiased", the variance that normalises a training batch.
        accumulate: "biased" or "unbiased", the variance stored for inference.
        rescaled: whether this is the identity control, for which both variances are biased; see
            `bnstudy.training.networks.arms`.
    """

    name: str = field(default="paper", metadata=SELECTION)
    normalize: str = field(default="biased", metadata=_BATCHNORM)
    accumulate: str = field(default="unbiased", metadata=SELECTION)
    rescaled: bool = field(default=False, metadata=numbers_where(lambda config: config.variance.rescaled))


@dataclass
class PortConfig:
    """A first phase under another convention, as if a framework had trained the checkpoint that another fine-tunes.

    Args:
        variance: name or alias of the convention that the network is first trained under; None for no such phase.
        epochs: how many of the training's epochs that phase takes; the others fine-tune under `variance`.
        lr_factor: the learning rate of the fine-tuning, as a multiple of the first phase's. Either phase has the whole
            schedule, warm-up included.
    """

    variance: str | None = None
    epochs: int = 0
    lr_factor: float = 0.1


@dataclass
class OptimizerConfig:
    """Which optimizer, and how its learning rate follows the batch size.

    Args:
        name: "sgd" or "adamw" (torch.optim, fused).
        lr: learning rate at `reference_batch_size`.
        scaling: lr is multiplied by (batch_size / reference_batch_size) to the power 1 ("linear"), ½ ("sqrt") or 0 ("none").
        reference_batch_size: the batch size at which the learning rate is `lr`; see `scaling`.
        momentum: momentum of SGD; 0 ≤ momentum < 1.
        nesterov: whether SGD's momentum is Nesterov's.
        betas: β₁ and β₂ of AdamW; 0 ≤ β < 1.
        eps: ε of AdamW.
        weight_decay: weight decay, decoupled in AdamW, an L2 term in SGD.
        decay_norm: whether weight decay acts on γ, β and biases too.
    """

    name: str = "sgd"
    lr: float = 0.05
    scaling: str = "linear"
    reference_batch_size: int = field(default=32, metadata=numbers_where(lambda config: config.optimizer.scaling != "none"))
    momentum: float = field(default=0.9, metadata=_SGD)
    nesterov: bool = field(default=False, metadata=_SGD)
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999], metadata=_ADAMW)
    eps: float = field(default=1e-8, metadata=_ADAMW)
    weight_decay: float = 0.0
    decay_norm: bool = field(default=False, metadata=numbers_where(lambda config: config.optimizer.weight_decay != 0))


@dataclass
class ScheduleConfig:
    """How the learning rate moves over the training, step by step.

    Args:
        name: "constant", or "cosine" (half a wave, down to 0 after the last step).
        warmup: share of the steps over which the rate first rises linearly from 0; 0 ≤ warmup < 1.
    """

    name: str = "constant"
    warmup: float = 0.0


@dataclass
class TrainingConfig:
    """Everything that a training reads; `bnstudy.sweeps.config.Config` adds what a study and its engines read.

    Args:
        dataset, model, variance, port, optimizer, schedule: the groups above.
        batch_size: samples in a step.
        norm_batch_size: samples that share normalisation statistics; None for the whole batch.
        momentum: α of the running averages; None for the cumulative average.
        eps: ε of the BatchNorm layers.
        epochs: passes over the training split.
        steps: optimizer steps; ends the training within or beyond `epochs` where given.
        drop_last: leave out a last partial batch.
        device: "auto" (cuda where there is one; on Slurm and Ray, where `engine.gpus_per_job` asks for it), "cpu" or "cuda".
        precision: "float32", "bfloat16" (autocast) or "float64".
        probe_batches: batches that each BatchNorm layer is probed with after training, 4 or more; 0 for no `layers` table.
        replicas: how many seeds train as one module; "auto" for the fixed rule.
    """

    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    variance: VarianceConfig = field(default_factory=VarianceConfig)
    port: PortConfig = field(
        default_factory=PortConfig, metadata=numbers_where(lambda config: config.port.variance is not None)
    )
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig, metadata=NUMBERS)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig, metadata=NUMBERS)
    batch_size: int = field(default=32, metadata=NUMBERS)
    norm_batch_size: int | None = field(default=None, metadata=_BATCHNORM)
    momentum: float | None = field(default=0.1, metadata=_BATCHNORM)
    eps: float = field(default=1e-5, metadata=numbers_where(lambda config: config.model.norm != "none"))
    epochs: int = field(default=10, metadata=numbers_where(lambda config: config.steps is None))
    steps: int | None = field(default=None, metadata=NUMBERS)
    drop_last: bool = field(default=True, metadata=NUMBERS)
    device: str = field(default="auto", metadata=NUMBERS)
    precision: str = field(default="float32", metadata=NUMBERS)
    probe_batches: int = field(default=200, metadata=_BATCHNORM)
    replicas: Any = field(default="auto", metadata=SELECTION)
