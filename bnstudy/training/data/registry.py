"""The data sets that a study can name: an entry holds all that the project knows of one.

To add a data set, write its entry here and the function that the entry's `reader` names. Planning asks this table before
anything is loaded, so nothing here imports NumPy, torch or what data are read with.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DatasetEntry:
    """A data set.

    Args:
        reader: `module:function` that takes the `DatasetConfig` and returns `arrays.Arrays`, each split in an order that is
            random under `split_seed`.
        task: "classification" or "regression"; what is measured follows from it (`bnstudy.metric`).
        input_shape: shape of one input; a name stands for the field of `DatasetConfig` that gives the number.
        outputs: number of classes, or of regression targets.
        samples: training and test samples; None where `DatasetConfig.samples` says how many are drawn, to be cut 80/20.
        fields: fields of `DatasetConfig` that this set reads and most sets do not.
        files: what it is read from, relative to `root`.
        torchvision: the class of `torchvision.datasets` that reads the files.
        debian: the Debian package that `scripts/fetch_data.py` takes the files from.
        standard: inputs are standard normal as they are drawn, and stay as they are.
    """

    reader: str
    task: str
    input_shape: tuple[int | str, ...]
    outputs: int
    samples: tuple[int, int] | None = None
    fields: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    torchvision: str = ""
    debian: str = ""
    standard: bool = False


@dataclass(frozen=True)
class DatasetShape:
    """Sizes of a data set as it is configured.

    Args:
        task: "classification" or "regression".
        input_shape: shape of one input: (channels, height, width) of an image, (features,) of a row.
        outputs: number of classes, or of regression targets.
        train_samples: training samples in use, after `train_size`.
        test_samples: test samples in use, after `test_size`.
    """

    task: str
    input_shape: tuple[int, ...]
    outputs: int
    train_samples: int
    test_samples: int


_READERS = "bnstudy.training.data"
_IDX = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
_CIFAR10 = (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta")


def _images(
    torchvision: str,
    input_shape: tuple[int, int, int],
    samples: tuple[int, int],
    folder: str,
    names: tuple[str, ...],
    outputs: int = 10,
    debian: str = "",
) -> DatasetEntry:
    """A published set of images, as torchvision reads it."""
    return DatasetEntry(
        reader=f"{_READERS}.vision:read_images",
        task="classification",
        input_shape=input_shape,
        outputs=outputs,
        samples=samples,
        files=tuple(f"{folder}{name}" for name in names),
        torchvision=torchvision,
        debian=debian,
    )


DATASETS = {
    "digits": DatasetEntry(f"{_READERS}.builtin:digits", "classification", (1, 8, 8), 10, (1437, 360)),
    "fashion_mnist": _images(
        "FashionMNIST", (1, 28, 28), (60_000, 10_000), "FashionMNIST/raw/", _IDX, debian="dataset-fashion-mnist"
    ),
    "mnist": _images("MNIST", (1, 28, 28), (60_000, 10_000), "MNIST/raw/", _IDX),
    "kmnist": _images("KMNIST", (1, 28, 28), (60_000, 10_000), "KMNIST/raw/", _IDX),
    "cifar10": _images("CIFAR10", (3, 32, 32), (50_000, 10_000), "cifar-10-batches-py/", _CIFAR10),
    "cifar100": _images(
        "CIFAR100", (3, 32, 32), (50_000, 10_000), "cifar-100-python/", ("train", "test", "meta"), outputs=100
    ),
    "svhn": _images("SVHN", (3, 32, 32), (73_257, 26_032), "", ("train_32x32.mat", "test_32x32.mat")),
    "gaussian": DatasetEntry(
        f"{_READERS}.builtin:gaussian",
        "classification",
        ("dimension",),
        10,
        fields=("samples", "dimension", "noise"),
        standard=True,
    ),
    "diabetes": DatasetEntry(f"{_READERS}.builtin:diabetes", "regression", (10,), 1, (353, 89)),
    "friedman1": DatasetEntry(f"{_READERS}.builtin:friedman1", "regression", (10,), 1, fields=("samples", "noise")),
}
"""Every data set by its name in configurations and tables; any other name is that of data of the user's own."""


def eighty_twenty(samples: int) -> tuple[int, int]:
    """Sizes of the 80/20 split of drawn samples, the test part rounded up (scikit-learn's rule), in integers."""
    test = -(-samples // 5)
    return samples - test, test


_IMPORTED = ("factory", "args", "scale", "source")


def reads(name: str, field: str) -> bool:
    """Whether a data set reads a field of `DatasetConfig` that most sets do not; the user's own read those of an import."""
    return field in (DATASETS[name].fields if name in DATASETS else _IMPORTED)
