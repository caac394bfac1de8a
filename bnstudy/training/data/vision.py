"""The published image sets, read by torchvision, with every failure turned into one line that says what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from bnstudy.errors import UserError, first_line
from bnstudy.training.config import DatasetConfig
from bnstudy.training.data.files import damaged, data_files, missing, require_files
from bnstudy.training.data.shapes import FIXED
from bnstudy.training.data.sources import Array, Source

CLASSES = {
    "fashion_mnist": "FashionMNIST",
    "mnist": "MNIST",
    "kmnist": "KMNIST",
    "cifar10": "CIFAR10",
    "cifar100": "CIFAR100",
    "svhn": "SVHN",
}


def read_images(config: DatasetConfig) -> Source:
    """Read both published splits of an image set, in the order of their files.

    What is checked: for the MNIST family magic number, sizes and file length (torchvision holds no sums of the unpacked
    files); for CIFAR and SVHN torchvision's MD5 sums; for all, the published number of images and the range of the
    labels.

    torchvision unpickles CIFAR's files, the format that set is published in, after their MD5 sums have matched its own;
    this project's own files are never pickles.

    Args:
        config: `name`, `root`, and `download`, which lets torchvision fetch what is missing.

    Returns:
        uint8 images (n, channels, height, width) and int64 labels (n,).

    Raises:
        UserError: a file is missing, damaged or could not be fetched.

    Source: torchvision.datasets.
    """
    require_files(config)
    try:
        train_inputs, train_targets = _read(config, train=True)
        test_inputs, test_targets = _read(config, train=False)
    except (MemoryError, UserError):
        raise
    except Exception as error:  # a reader of foreign files can fail in any way
        raise _explain(config, error) from error
    return Source(train_inputs, train_targets, test_inputs, test_targets)


def _torchvision_class(name: str) -> Any:
    import torchvision.datasets

    return getattr(torchvision.datasets, CLASSES[name])


def _read(config: DatasetConfig, train: bool) -> tuple[Array, Array]:
    which = {"split": "train" if train else "test"} if config.name == "svhn" else {"train": train}
    data = _torchvision_class(config.name)(root=Path(config.root).expanduser(), download=config.download, **which)
    images = np.asarray(data.data)
    if images.ndim == 3:  # MNIST family: (n, height, width)
        images = images[:, None]
    elif config.name != "svhn":  # CIFAR: torchvision turned (n, channels, height, width) round
        images = images.transpose(0, 3, 1, 2)
    labels = np.asarray(data.labels if config.name == "svhn" else data.targets, dtype=np.int64)

    shape = FIXED[config.name]
    expected = (shape.train_samples if train else shape.test_samples, *shape.input_shape)
    if images.shape != expected or images.dtype != np.uint8 or labels.shape != expected[:1]:
        raise ValueError(f"images {images.dtype} {images.shape}, labels {labels.shape}; published: uint8 {expected}")
    if not 0 <= labels.min() <= labels.max() < shape.outputs:
        raise ValueError(f"labels from {labels.min()} to {labels.max()}, of {shape.outputs} classes")
    return images, labels


def _explain(config: DatasetConfig, error: Exception) -> UserError:
    """Find the file that made the reader fail."""
    from torchvision.datasets.utils import check_integrity

    reason = first_line(error)
    sums = _md5_sums(config.name)
    files = data_files(config)
    for file in files:
        there = file.exists()
        broken = file.damage() if there else "is not there"
        if not broken and file.path.name in sums and not check_integrity(file.path, sums[file.path.name]):
            broken = "its MD5 sum is not the published one"
        if broken and config.download:
            return UserError(
                f"dataset.download: true could not bring {file.path.name} of '{config.name}' to {file.path.parent} "
                f"({reason}); try again, or put it there by hand"
            )
        if broken:
            return damaged(config, file.path, broken) if there else missing(config, file.path)
    # Whole by every sum there is: name what the files have in common.
    return damaged(config, files[0].path.parent, reason)


def _md5_sums(name: str) -> dict[str, str]:
    """MD5 sums by file name, as torchvision publishes them; none for the MNIST family."""
    published = _torchvision_class(name)
    if name == "svhn":
        return {file: md5 for _, file, md5 in published.split_list.values()}
    if name in ("cifar10", "cifar100"):
        meta = [[published.meta["filename"], published.meta["md5"]]]
        return dict(published.train_list + published.test_list + meta)
    return {}
