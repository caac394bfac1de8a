"""Where the files of a published data set lie, and whether they are there and whole, without reading them.

A planner asks here before anything starts, so nothing here imports torch or torchvision. The layout is torchvision's.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path

from bnstudy.errors import UserError
from bnstudy.training.config import DatasetConfig
from bnstudy.training.data.shapes import FIXED

MNIST_FOLDERS = {"fashion_mnist": "FashionMNIST/raw", "mnist": "MNIST/raw", "kmnist": "KMNIST/raw"}
OTHER_FILES = {
    "cifar10": tuple(
        f"cifar-10-batches-py/{name}"
        for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta")
    ),
    "cifar100": ("cifar-100-python/train", "cifar-100-python/test", "cifar-100-python/meta"),
    "svhn": ("train_32x32.mat", "test_32x32.mat"),
}


@dataclass(frozen=True)
class DataFile:
    """One file that a data set needs.

    Args:
        path: absolute path.
        header: its first bytes; empty where the format does not fix them.
        size: bytes of the whole file; None where the format does not fix it.
    """

    path: Path
    header: bytes = b""
    size: int | None = None

    def exists(self) -> bool:
        """Whether there is a file; False, not an error, inside a folder that may not be entered."""
        return os.path.isfile(self.path)

    def damage(self) -> str:
        """What can be seen to be wrong with a file that exists, from its size and first bytes; "" if nothing."""
        try:
            with self.path.open("rb") as stream:
                start = stream.read(len(self.header))
                size = stream.seek(0, os.SEEK_END)
        except OSError as error:
            return f"cannot be read: {error.strerror}"
        if size == 0 or (self.size is not None and size != self.size):
            return f"has {size} bytes" + (f" instead of {self.size}" if self.size is not None else "")
        return "" if start == self.header else "does not start as an idx file of this data set does"


def data_files(config: DatasetConfig) -> tuple[DataFile, ...]:
    """The files that a data set is read from, in torchvision's layout under `root`; none for other sets.

    The idx files of the MNIST family have a fixed size and header (magic number 0x0803 or 0x0801, then the sizes, big
    endian), which are given; torchvision holds MD5 sums of the others' contents, which are checked on reading.

    Source: idx format, yann.lecun.com/exdb/mnist; torchvision.datasets.
    """
    root = Path(config.root).expanduser().resolve()
    if config.name in MNIST_FOLDERS:
        shape = FIXED[config.name]
        _, height, width = shape.input_shape
        folder = root / MNIST_FOLDERS[config.name]
        files = []
        for part, samples in (("train", shape.train_samples), ("t10k", shape.test_samples)):
            images = struct.pack(">4I", 0x0803, samples, height, width)
            labels = struct.pack(">2I", 0x0801, samples)
            files.append(DataFile(folder / f"{part}-images-idx3-ubyte", images, len(images) + samples * height * width))
            files.append(DataFile(folder / f"{part}-labels-idx1-ubyte", labels, len(labels) + samples))
        return tuple(files)
    return tuple(DataFile(root / path) for path in OTHER_FILES.get(config.name, ()))


def require_files(config: DatasetConfig) -> None:
    """Refuse a configuration whose files are missing or cut short; embedded and synthetic sets pass.

    With `download` set, what loading will fetch passes: missing files, and damaged ones where torchvision replaces them.
    A damaged file of the MNIST family does not pass, since torchvision leaves a file that is there as it is.

    Args:
        config: the data set.

    Raises:
        UserError: names the file, the folder it was looked for in, and how to get it.

    Source: bnstudy issue 2, part 4.
    """
    for file in data_files(config):
        if not file.exists():
            if not config.download:
                raise missing(config, file.path)
        elif (reason := file.damage()) and (not config.download or config.name in MNIST_FOLDERS):
            raise damaged(config, file.path, reason)


def missing(config: DatasetConfig, path: Path) -> UserError:
    """The error for a file that is not there."""
    where = f"'{config.root}' lacks {path.name} of '{config.name}' in {path.parent}"
    return UserError(f"dataset.root: {where}; {remedy(config)}")


def damaged(config: DatasetConfig, path: Path, reason: str) -> UserError:
    """The error for a file, or a folder of files, that is there but not sound."""
    return UserError(f"dataset.root: {path} of '{config.name}' is damaged ({reason}); delete it, then {remedy(config)}")


def remedy(config: DatasetConfig) -> str:
    """How to get the files of a data set, as the end of an error message."""
    advice = "get it with dataset.download=true"
    if config.name == "fashion_mnist":
        advice += " or `python scripts/fetch_data.py fashion_mnist"
        advice += "`" if config.root == DatasetConfig.root else f" --root {config.root}`"
    return advice
