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
from bnstudy.training.data.registry import DATASETS, DatasetEntry


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
    entry = DATASETS.get(config.name)
    if entry is None:
        return ()
    root = Path(config.root).expanduser().resolve()
    return tuple(DataFile(root / name, *_idx_facts(name, entry)) for name in entry.files)


def _idx_facts(name: str, entry: DatasetEntry) -> tuple[bytes, int | None]:
    """Header and size of an idx file, which its name and the published sizes fix; nothing is known of other files."""
    if not name.endswith("-ubyte") or entry.samples is None:
        return b"", None
    samples = entry.samples[0 if Path(name).name.startswith("train") else 1]
    if name.endswith("idx1-ubyte"):  # a byte a label
        header = struct.pack(">2I", 0x0801, samples)
        return header, len(header) + samples
    _, height, width = (int(size) for size in entry.input_shape)
    header = struct.pack(">4I", 0x0803, samples, height, width)
    return header, len(header) + samples * height * width


def require_files(config: DatasetConfig) -> None:
    """Refuse a configuration whose files are missing or cut short; embedded and synthetic sets pass.

    With `download` set, what loading will fetch passes: missing files, and damaged ones where torchvision replaces them.
    A damaged idx file does not pass, since torchvision leaves an idx file that is there as it is.

    Args:
        config: the data set.

    Raises:
        UserError: names the file, the folder it was looked for in, and how to get it.

    Source: docs/architecture.md, "The way of a batch size".
    """
    for file in data_files(config):
        if not file.exists():
            if not config.download:
                raise missing(config, file.path)
        elif (reason := file.damage()) and (file.size is not None or not config.download):
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
    if config.name in DATASETS and DATASETS[config.name].debian:
        advice += f" or `python scripts/fetch_data.py {config.name}"
        advice += "`" if config.root == DatasetConfig.root else f" --root {config.root}`"
    return advice
