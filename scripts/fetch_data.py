"""Put a published data set where torchvision looks for it, from a Debian mirror.

    python scripts/fetch_data.py fashion_mnist            into data/, 31 MB to download, 55 MB on disk
    python scripts/fetch_data.py fashion_mnist --root DIR

Debian packages Fashion-MNIST only; the other sets, and other machines, use dataset.download=true.
"""

from __future__ import annotations

import argparse
import gzip
import os
import shutil
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path

from bnstudy.errors import UserError
from bnstudy.training.config import DatasetConfig
from bnstudy.training.data import DATASETS, DataFile, data_files

PACKAGE = DATASETS["fashion_mnist"].debian
PACKAGE_FOLDER = Path("usr/share/datasets/fashion-mnist")


def fetch_fashion_mnist(root: str) -> list[Path]:
    """Put Fashion-MNIST where torchvision looks for it: `root`/FashionMNIST/raw, unpacked.

    The package is downloaded and unpacked in a temporary folder, not installed; apt checks it against the archive's
    signed index, gzip's CRC-32 checks each file. Files that are there and whole are left alone; others get their final
    name only when complete.

    Args:
        root: the folder that `dataset.root` names.

    Returns:
        The files written; none when all were there.

    Raises:
        UserError: not a Debian-like machine, the package could not be had, or its content is not the published set.

    Source: Debian package dataset-fashion-mnist; Xiao, Rasul & Vollgraf 2017, "Fashion-MNIST", for the set.
    """
    wanted = [
        file for file in data_files(DatasetConfig(name="fashion_mnist", root=root)) if not file.exists() or file.damage()
    ]
    if not wanted:
        return []
    if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
        raise UserError("fashion_mnist: this machine has no apt-get and dpkg to get it with; use dataset.download=true")
    with tempfile.TemporaryDirectory() as folder:
        _run(["apt-get", "download", PACKAGE], folder)
        archives = [str(path) for path in Path(folder).glob("*.deb")]
        _run(["dpkg", "-x", *archives, "package"], folder)
        unpack(Path(folder) / "package" / PACKAGE_FOLDER, wanted)
    return [file.path for file in wanted]


def unpack(source: Path, wanted: list[DataFile]) -> None:
    """Unpack NAME.gz of `source` into each wanted file, checking it before it gets its name.

    Raises:
        UserError: a file is missing, cut short, or not what the idx format says it should be.
    """
    for file in wanted:
        packed = source / f"{file.path.name}.gz"
        partial = file.path.with_name(f".{file.path.name}.{os.getpid()}")
        try:
            file.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"root: cannot make {file.path.parent} ({error.strerror}); use a folder to write in") from error
        try:
            with gzip.open(packed) as compressed, partial.open("wb") as plain:
                shutil.copyfileobj(compressed, plain)
            if reason := DataFile(partial, file.header, file.size).damage():
                raise UserError(f"fashion_mnist: {packed.name} of {PACKAGE} {reason}; use dataset.download=true")
            partial.replace(file.path)
        except (OSError, EOFError, zlib.error) as error:
            raise UserError(f"fashion_mnist: cannot unpack {packed.name} to {file.path} ({error})") from error
        finally:
            partial.unlink(missing_ok=True)


def main() -> int:
    """Fetch what is missing and say what was done; exit code 2 when it cannot be had."""
    parser = argparse.ArgumentParser(description="Fetch a data set that Debian packages, into torchvision's layout.")
    parser.add_argument("name", help="the data set: fashion_mnist")
    parser.add_argument("--root", default=DatasetConfig.root, help="folder for data sets (default: %(default)s)")
    arguments = parser.parse_args()
    try:
        if arguments.name != "fashion_mnist":
            raise UserError(f"name: '{arguments.name}' is not in Debian; use fashion_mnist, or dataset.download=true")
        written = fetch_fashion_mnist(arguments.root)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    for path in written:
        print(f"wrote {path}")
    if not written:
        print(f"fashion_mnist is complete in {arguments.root}")
    return 0


def _run(command: list[str], folder: str) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        reason = next((line for line in done.stderr.splitlines() if line.startswith("E:")), done.stderr.strip()[-160:])
        raise UserError(
            f"fashion_mnist: `{' '.join(command[:2])}` of {PACKAGE} failed ({reason}); "
            "run `apt-get update` as root and try again, or use dataset.download=true"
        )


if __name__ == "__main__":
    sys.exit(main())
