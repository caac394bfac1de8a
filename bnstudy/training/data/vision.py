"""The published image sets, read by torchvision, with every failure turned into one line that says what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from bnstudy.errors import UserError, first_line
from bnstudy.training.config import DatasetConfig
from bnstudy.training.data.arrays import Array, Arrays
from bnstudy.training.data.files import damaged, data_files, missing, require_files
from bnstudy.training.data.registry import DATASETS


def read_images(config: DatasetConfig) -> Arrays:
    """Read both published splits of an image set, each in a fixed random order.

    What is checked: for the MNIST family magic number, sizes and file length (torchvision holds no sums of the unpacked
    files); for CIFAR and SVHN torchvision's MD5 sums; for all, the published number of images and the range of the
    labels.

    torchvision unpickles CIFAR's files, the format that set is published in, after their MD5 sums have matched its own;
    this project's own files are never pickles.

    Args:
        config: `name`, `root`, `split_seed`, and `download`, which lets torchvision fetch what is missing.

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
    return Arrays(train_inputs, train_targets, test_inputs, test_targets).shuffled(config.split_seed)


def _torchvision_class(name: str) -> Any:
    import torchvision.datasets

    return getattr(torchvision.datasets, DATASETS[name].torchvision)


def _read(config: DatasetConfig, train: bool) -> tuple[Array, Array]:
    entry = DATASETS[config.name]
    svhn = config.name == "svhn"  # published for MATLAB, unlike the others
    which = {"split": "train" if train else "test"} if svhn else {"train": train}
    data = _torchvision_class(config.name)(root=Path(config.root).expanduser(), download=config.download, **which)
    images = np.asarray(data.data)
    if images.ndim == 3:  # MNIST family: (n, height, width)
        images = images[:, None]
    elif not svhn:  # CIFAR: torchvision turned (n, channels, height, width) round
        images = images.transpose(0, 3, 1, 2)
    labels = np.asarray(data.labels if svhn else data.targets, dtype=np.int64)

    assert entry.samples is not None
    expected = (entry.samples[0 if train else 1], *entry.input_shape)
    if images.shape != expected or images.dtype != np.uint8 or labels.shape != expected[:1]:
        raise ValueError(f"images {images.dtype} {images.shape}, labels {labels.shape}; published: uint8 {expected}")
    if not 0 <= labels.min() <= labels.max() < entry.outputs:
        raise ValueError(f"labels from {labels.min()} to {labels.max()}, of {entry.outputs} classes")
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
    if hasattr(published, "split_list"):  # SVHN
        return {file: md5 for _, file, md5 in published.split_list.values()}
    if hasattr(published, "train_list"):  # CIFAR
        meta = [[published.meta["filename"], published.meta["md5"]]]
        return dict(published.train_list + published.test_list + meta)
    return {}
