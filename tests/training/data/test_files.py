"""Where the published sets' files are looked for, and what is said about them before anything is loaded."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
import torchvision.datasets as published

from bnstudy.errors import UserError
from bnstudy.training.config import DatasetConfig
from bnstudy.training.data import DATASETS, data_files, describe, load_dataset, require_files

MNIST_FAMILY = ("fashion_mnist", "mnist", "kmnist")
CLASSES = {name: entry.torchvision for name, entry in DATASETS.items() if entry.torchvision}


@pytest.mark.parametrize("name", MNIST_FAMILY)
def test_a_file_of_the_full_published_size_is_accepted_and_described(name: str, tmp_path: Path) -> None:
    for prefix, samples in (("train", 60_000), ("t10k", 10_000)):
        folder = tmp_path / CLASSES[name] / "raw"
        folder.mkdir(parents=True, exist_ok=True)
        for kind, header in (
            ("images-idx3", struct.pack(">4I", 2051, samples, 28, 28)),
            ("labels-idx1", struct.pack(">2I", 2049, samples)),
        ):
            with (folder / f"{prefix}-{kind}-ubyte").open("wb") as stream:
                stream.write(header)
                stream.truncate(len(header) + samples * (784 if "images" in kind else 1))
    config = DatasetConfig(name=name, root=str(tmp_path))
    require_files(config)
    assert (describe(config).train_samples, describe(config).test_samples) == (60_000, 10_000)


@pytest.mark.parametrize("name", CLASSES)
def test_our_list_of_files_is_torchvisions(name: str) -> None:
    reader = getattr(published, CLASSES[name])
    root = Path("somewhere").resolve()
    if name in MNIST_FAMILY:
        expected = {root / CLASSES[name] / "raw" / Path(file).stem for file, _ in reader.resources}
    elif name == "svhn":
        expected = {root / reader.split_list[split][1] for split in ("train", "test")}
    else:
        listed = reader.train_list + reader.test_list + [[reader.meta["filename"], ""]]
        expected = {root / reader.base_folder / file for file, _ in listed}
    assert {file.path for file in data_files(DatasetConfig(name=name, root="somewhere"))} == expected


def test_only_fashion_mnist_is_offered_by_the_script(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"`python scripts/fetch_data\.py fashion_mnist --root {tmp_path}`$"):
        require_files(DatasetConfig(name="fashion_mnist", root=str(tmp_path)))
    with pytest.raises(UserError, match=r"dataset\.download=true$"):
        require_files(DatasetConfig(name="mnist", root=str(tmp_path)))


@pytest.mark.skipif(
    not (Path("data") / "FashionMNIST" / "raw" / "train-images-idx3-ubyte").is_file(),
    reason="python scripts/fetch_data.py fashion_mnist has not been run",
)
def test_fashion_mnist_has_the_constants_that_everybody_uses() -> None:
    data = load_dataset(DatasetConfig(name="fashion_mnist", train_size=1000, test_size=1000))
    assert round(data.input_scaling.mean[0] / 255, 4) == 0.2860
    assert round(data.input_scaling.std[0] / 255, 4) == 0.3530


def test_a_root_that_is_no_folder_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"lacks train_32x32\.mat of 'svhn' in "):
        require_files(DatasetConfig(name="svhn", root=str(tmp_path / "file")))
