"""Data sets as tensors: both splits whole on the device, scaled by the training split, cut into batches by index."""

from __future__ import annotations

from dataclasses import dataclass
from pkgutil import resolve_name

import torch
from torch import Tensor

from bnstudy.training.config import DatasetConfig
from bnstudy.training.data.arrays import Array, Arrays
from bnstudy.training.data.imported import imported_arrays
from bnstudy.training.data.registry import DATASETS
from bnstudy.training.data.scaling import Scaling, measured, standard
from bnstudy.training.data.shapes import describe


@dataclass(frozen=True, eq=False)
class Split:
    """Samples on a device.

    Args:
        inputs: (n, *input_shape) float32, normalised.
        targets: (n,) int64 class numbers, or (n, outputs) float32, standardised.
    """

    inputs: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.targets)


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set, ready to train on.

    Args:
        name: as in `DATASETS`, or an import's.
        task: "classification" or "regression".
        input_shape: shape of one input.
        outputs: number of classes, or of regression targets.
        train: training split, a prefix of its fixed order when `train_size` is given.
        test: test split, likewise.
        input_scaling: what the inputs were normalised with; `known` for `gaussian`, whose values stay as drawn.
        target_scaling: what regression targets were standardised with; None for classes.
    """

    name: str
    task: str
    input_shape: tuple[int, ...]
    outputs: int
    train: Split
    test: Split
    input_scaling: Scaling
    target_scaling: Scaling | None = None


def load_dataset(config: DatasetConfig, device: torch.device | str = "cpu") -> Dataset:
    """Load a data set, whole, onto a device.

    Inputs are normalised to mean 0 and variance 1: images per channel, rows per feature; regression targets too. The
    constants come from the whole training split (divisor n), whatever `train_size` is: a smaller subset is bit for bit
    a prefix of a larger one. Only `gaussian` keeps its values, since its mean 0 and variance 1 are known, and so does an
    import with `scale` false.

    `split_seed` picks the split of `digits` and `diabetes`, the draw of `gaussian` and `friedman1`, and the fixed order
    that subsets are cut from. The published sets keep their published splits, and imports those of their factory.

    Args:
        config: which data set, how much of it, and from where. `augment` is not applied here: it belongs to the batch.
        device: where the tensors live.

    Returns:
        Both splits; sizes agree with `describe(config)`.

    Raises:
        UserError: a setting is not accepted, or a file is missing or damaged.

    Source: docs/architecture.md, "How to add".
    """
    shape = describe(config)
    arrays = _read(config)
    known = config.name in DATASETS and DATASETS[config.name].standard
    kept = known or not config.scale
    input_scaling = standard(shape.input_shape[0], known) if kept else measured(arrays.train_inputs)
    target_scaling = measured(arrays.train_targets) if shape.task == "regression" else None

    def split(inputs: Array, targets: Array, size: int) -> Split:
        scaled_inputs = input_scaling.apply(inputs[:size], device)
        if target_scaling is None:
            return Split(scaled_inputs, torch.from_numpy(targets[:size].copy()).to(device))
        return Split(scaled_inputs, target_scaling.apply(targets[:size], device))

    return Dataset(
        name=config.name,
        task=shape.task,
        input_shape=shape.input_shape,
        outputs=shape.outputs,
        train=split(arrays.train_inputs, arrays.train_targets, shape.train_samples),
        test=split(arrays.test_inputs, arrays.test_targets, shape.test_samples),
        input_scaling=input_scaling,
        target_scaling=target_scaling,
    )


def _read(config: DatasetConfig) -> Arrays:
    """Both splits as their reader gives them, `train_size` and `test_size` not applied."""
    if config.name in DATASETS:
        # Imported here: scikit-learn and torchvision take seconds each, and no data set needs both.
        arrays: Arrays = resolve_name(DATASETS[config.name].reader)(config)
        return arrays
    return imported_arrays(config).shuffled(config.split_seed)
