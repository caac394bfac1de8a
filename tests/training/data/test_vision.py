"""torchvision's sets, read from small files in their exact published formats, whole and damaged.

torchvision's own table of MD5 sums, and ours of published sizes, are set to the small files; no check is switched off.
"""

from __future__ import annotations

import gzip
import hashlib
import pickle
import struct
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import scipy.io
import torch
import torchvision.datasets as published

from bnstudy.errors import UserError
from bnstudy.training.config import DatasetConfig
from bnstudy.training.data import DATASETS, data_files, describe, load_dataset, require_files

TRAIN, TEST = 25, 8
MNIST_FAMILY = ["fashion_mnist", "mnist", "kmnist"]
CLASSES = {name: entry.torchvision for name, entry in DATASETS.items() if entry.torchvision}
SETS = list(CLASSES)


class Python2Pickler(pickle._Pickler):
    """Writes what Python 2 wrote: every string as bytes, a dtype's flags as 0 and 1, NumPy under its old name."""

    dispatch: ClassVar[dict[type, Any]] = dict(pickle._Pickler.dispatch)

    def save_bytes(self, value: Any) -> None:
        value = value if isinstance(value, bytes) else value.encode("latin1")
        self.write(pickle.BINSTRING + struct.pack("<i", len(value)) + value)
        self.memoize(value)

    def save_global(self, value: Any, name: str | None = None) -> None:
        module = value.__module__.replace("numpy._core", "numpy.core")
        self.write(pickle.GLOBAL + f"{module}\n{name or value.__name__}\n".encode())
        self.memoize(value)

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, np.dtype):
            return np.dtype, (value.str[1:], 0, 1), value.__reduce__()[2]
        return NotImplemented

    dispatch[bytes] = dispatch[str] = save_bytes


def write_cifar(folder: Path, parts: dict[str, slice], images: np.ndarray, labels: np.ndarray, fine: bool) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in parts.items():
        entry = {
            "batch_label": name,
            "fine_labels" if fine else "labels": labels[part].tolist(),
            "data": np.ascontiguousarray(images[part].reshape(len(images[part]), -1)),
            "filenames": [f"{number}.png" for number in range(len(labels[part]))],
        }
        with (folder / name).open("wb") as stream:
            Python2Pickler(stream, protocol=2).dump(entry)


def write_files(name: str, root: Path, images: np.ndarray, labels: np.ndarray) -> None:
    """The first TRAIN images to the training files, the rest to the test files."""
    if name in MNIST_FAMILY:
        folder = root / CLASSES[name] / "raw"
        folder.mkdir(parents=True)
        for prefix, part in (("train", slice(0, TRAIN)), ("t10k", slice(TRAIN, None))):
            header = struct.pack(">4I", 2051, len(images[part]), 28, 28)
            (folder / f"{prefix}-images-idx3-ubyte").write_bytes(header + images[part].tobytes())
            header = struct.pack(">2I", 2049, len(labels[part]))
            (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(header + labels[part].astype(np.uint8).tobytes())
    elif name == "svhn":
        for file, part in (("train_32x32.mat", slice(0, TRAIN)), ("test_32x32.mat", slice(TRAIN, None))):
            y = np.where(labels[part] == 0, 10, labels[part]).astype(np.uint8)[:, None]
            scipy.io.savemat(root / file, {"X": images[part].transpose(2, 3, 1, 0), "y": y})
    elif name == "cifar10":
        parts = {f"data_batch_{n + 1}": slice(5 * n, 5 * n + 5) for n in range(5)} | {"test_batch": slice(TRAIN, None)}
        write_cifar(root / "cifar-10-batches-py", parts, images, labels, fine=False)
        with (root / "cifar-10-batches-py" / "batches.meta").open("wb") as stream:
            Python2Pickler(stream, protocol=2).dump({"label_names": [str(n) for n in range(10)], "num_vis": 3072})
    else:
        parts = {"train": slice(0, TRAIN), "test": slice(TRAIN, None)}
        write_cifar(root / "cifar-100-python", parts, images, labels, fine=True)
        with (root / "cifar-100-python" / "meta").open("wb") as stream:
            Python2Pickler(stream, protocol=2).dump({"fine_label_names": [str(n) for n in range(100)]})


def md5_sum(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def publish(name: str, root: Path, patch: pytest.MonkeyPatch) -> None:
    """Make the files under `root` the published ones: torchvision's sums and our sizes become theirs."""
    patch.setitem(DATASETS, name, replace(DATASETS[name], samples=(TRAIN, TEST)))
    reader = getattr(published, CLASSES[name])

    if name == "svhn":
        patch.setattr(
            reader,
            "split_list",
            {s: [u, f, md5_sum(root / f)] for s, (u, f, _) in reader.split_list.items() if s != "extra"},
        )
    elif name in ("cifar10", "cifar100"):
        folder = root / reader.base_folder
        for table in ("train_list", "test_list"):
            patch.setattr(reader, table, [[f, md5_sum(folder / f)] for f, _ in getattr(reader, table)])
        patch.setattr(reader, "meta", reader.meta | {"md5": md5_sum(folder / reader.meta["filename"])})


def make(name: str, root: Path, patch: pytest.MonkeyPatch) -> tuple[np.ndarray, np.ndarray]:
    entry = DATASETS[name]
    random = np.random.RandomState(3)
    images = random.randint(0, 256, (TRAIN + TEST, *entry.input_shape)).astype(np.uint8)
    labels = random.permutation(TRAIN + TEST) % entry.outputs
    write_files(name, root, images, labels)
    publish(name, root, patch)
    return images, labels


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, str]]:
    """A folder, and the address that a web server on this machine serves it at."""
    folder = tmp_path / "mirror"
    folder.mkdir()
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(SimpleHTTPRequestHandler, "log_message", lambda *_: None)
    # torchvision opens an address once to see where it leads and hangs up.
    monkeypatch.setattr(ThreadingHTTPServer, "handle_error", lambda *_: None)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield folder, f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.mark.parametrize("name", SETS)
def test_a_published_set_loads_with_every_pixel_and_label_in_place(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, labels = make(name, tmp_path, monkeypatch)
    config = DatasetConfig(name=name, root=str(tmp_path))
    data, shape = load_dataset(config), describe(config)
    assert (data.task, data.input_shape, data.outputs) == (shape.task, shape.input_shape, shape.outputs)
    assert (len(data.train), len(data.test)) == (shape.train_samples, shape.test_samples) == (TRAIN, TEST)

    mean = images[:TRAIN].mean(axis=(0, 2, 3), keepdims=True)
    std = images[:TRAIN].std(axis=(0, 2, 3), keepdims=True)
    np.testing.assert_allclose(data.input_scaling.mean, mean.ravel(), rtol=1e-12)
    np.testing.assert_allclose(data.input_scaling.std, std.ravel(), rtol=1e-12)
    for split, part in ((data.train, slice(0, TRAIN)), (data.test, slice(TRAIN, None))):
        expected = {image.tobytes(): label for image, label in zip(images[part], labels[part], strict=True)}
        pixels = np.rint(split.inputs.double().numpy() * std + mean).astype(np.uint8)
        assert {i.tobytes(): int(t) for i, t in zip(pixels, split.targets, strict=True)} == expected
        exact = (np.array([np.frombuffer(i.tobytes(), np.uint8) for i in pixels]).reshape(pixels.shape) - mean) / std
        np.testing.assert_allclose(split.inputs.numpy(), exact, atol=2e-6)


@pytest.mark.parametrize("name", ["mnist", "svhn"])
def test_subsets_of_a_published_set_are_nested_and_shuffled_by_the_split_seed(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(name, tmp_path, monkeypatch)
    config = DatasetConfig(name=name, root=str(tmp_path), train_size=20)
    large, small = load_dataset(config), load_dataset(replace(config, train_size=7, test_size=3))
    assert torch.equal(small.train.inputs, large.train.inputs[:7])
    assert torch.equal(small.train.targets, large.train.targets[:7])
    assert torch.equal(small.test.inputs, large.test.inputs[:3])
    other = load_dataset(replace(config, train_size=7, split_seed=1))
    assert not torch.equal(other.train.inputs, small.train.inputs)


@pytest.mark.parametrize("name", SETS)
def test_each_missing_file_is_named_with_its_folder_and_how_to_get_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(name, tmp_path, monkeypatch)
    config = DatasetConfig(name=name, root=str(tmp_path))
    for file in data_files(config):
        aside = file.path.rename(tmp_path / "aside")
        for function in (require_files, load_dataset):
            with pytest.raises(UserError) as caught:
                function(config)
            assert str(caught.value).startswith(f"dataset.root: '{tmp_path}' lacks {file.path.name} of '{name}' in ")
            assert f" in {file.path.parent}; get it with dataset.download=true" in str(caught.value)
            assert "\n" not in str(caught.value)
        aside.rename(file.path)


@pytest.mark.parametrize("harm", ["cut", "empty", "first bytes", "last byte"])
@pytest.mark.parametrize("name", SETS)
def test_each_damaged_file_is_named(name: str, harm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(name, tmp_path, monkeypatch)
    config = DatasetConfig(name=name, root=str(tmp_path))
    for file in data_files(config):
        content = file.path.read_bytes()
        damaged = {
            "cut": content[: len(content) // 2],
            "empty": b"",
            "first bytes": b"\xff\xff" + content[2:],
            "last byte": content[:-1] + bytes([content[-1] ^ 0xFF]),
        }[harm]
        file.path.write_bytes(damaged)
        # Nobody publishes a sum for the unpacked MNIST files: a changed pixel passes, a label out of range does not.
        if harm != "last byte" or name not in MNIST_FAMILY:
            with pytest.raises(UserError) as caught:
                load_dataset(config)
            assert str(caught.value).startswith(f"dataset.root: {file.path} of '{name}' is damaged (")
            assert "); delete it, then get it with dataset.download=true" in str(caught.value)
            assert "\n" not in str(caught.value)
        elif "labels" in file.path.name:
            with pytest.raises(UserError, match=r"damaged \(labels from \d+ to \d+, of 10 classes\)"):
                load_dataset(config)
        file.path.write_bytes(content)
    load_dataset(config)


def test_a_file_that_fails_behind_a_matching_sum_is_still_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make("cifar10", tmp_path, monkeypatch)
    (tmp_path / "cifar-10-batches-py" / "data_batch_3").write_bytes(b"no pickle\nat all")
    publish("cifar10", tmp_path, monkeypatch)
    with pytest.raises(UserError, match="cifar-10-batches-py of 'cifar10' is damaged") as caught:
        load_dataset(DatasetConfig(name="cifar10", root=str(tmp_path)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["mnist", "cifar10", "svhn"])
def test_a_failed_download_says_which_file_and_where(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = getattr(published, CLASSES[name])
    nowhere = (tmp_path / "nowhere").as_uri()
    monkeypatch.setattr(reader, "mirrors", [nowhere + "/"], raising=False)
    monkeypatch.setattr(reader, "url", nowhere, raising=False)
    if name == "svhn":
        monkeypatch.setattr(reader, "split_list", {s: [nowhere, f, m] for s, (_, f, m) in reader.split_list.items()})
    config = DatasetConfig(name=name, root=str(tmp_path / "root"), download=True)
    require_files(config)
    first = data_files(config)[0].path
    with pytest.raises(UserError) as caught:
        load_dataset(config)
    text = f"dataset.download: true could not bring {first.name} of '{name}' to {first.parent} ("
    assert str(caught.value).startswith(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("before", ["nothing", "an interrupted download"])
@pytest.mark.parametrize("name", ["mnist", "cifar10", "svhn"])
def test_a_download_fetches_what_is_missing_and_torchvision_can_replace(
    name: str, before: str, mirror: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served, url = mirror
    make(name, served, monkeypatch)
    reader = getattr(published, CLASSES[name])
    if name == "mnist":
        raw = served / "MNIST" / "raw"
        resources = []
        for file in sorted(raw.iterdir()):
            packed = served / f"{file.name}.gz"
            packed.write_bytes(gzip.compress(file.read_bytes()))
            resources.append((packed.name, md5_sum(packed)))
        monkeypatch.setattr(reader, "resources", resources)
        monkeypatch.setattr(reader, "mirrors", [url])
    elif name == "cifar10":
        with tarfile.open(served / reader.filename, "w:gz") as archive:
            archive.add(served / reader.base_folder, reader.base_folder)
        monkeypatch.setattr(reader, "url", url + reader.filename)
        monkeypatch.setattr(reader, "tgz_md5", md5_sum(served / reader.filename))
    else:
        monkeypatch.setattr(reader, "split_list", {s: [url + f, f, m] for s, (_, f, m) in reader.split_list.items()})

    config = DatasetConfig(name=name, root=str(tmp_path / "root"), download=True)
    if before != "nothing":
        for file in data_files(config):
            file.path.parent.mkdir(parents=True, exist_ok=True)
            file.path.touch()
        if name == "mnist":
            with pytest.raises(UserError, match=r"train-images-idx3-ubyte of 'mnist' is damaged .*; delete it, then"):
                load_dataset(config)
            return
    require_files(config)
    data = load_dataset(config)
    assert (len(data.train), len(data.test)) == (TRAIN, TEST)
