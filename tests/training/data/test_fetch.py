"""scripts/fetch_data.py: run as a user runs it, with small stand-in packages on PATH where a real archive would be asked."""

from __future__ import annotations

import gzip
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from bnstudy.errors import UserError
from bnstudy.training.config import DatasetConfig
from bnstudy.training.data import DataFile, data_files, require_files
from scripts.fetch_data import unpack

REPOSITORY = Path(__file__).resolve().parents[3]


def run_script(*arguments: str, path: str | None = None) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)} | ({"PATH": path} if path is not None else {})
    command = [sys.executable, str(REPOSITORY / "scripts" / "fetch_data.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def published_files(root: Path, samples: int | None = None) -> None:
    """Empty files of the published length and header, or of another number of samples."""
    for file in data_files(DatasetConfig(name="fashion_mnist", root=str(root))):
        file.path.parent.mkdir(parents=True, exist_ok=True)
        with file.path.open("wb") as stream:
            stream.write(file.header)
            stream.truncate(file.size if samples is None else len(file.header) + samples)


def test_complete_files_are_left_alone(tmp_path: Path) -> None:
    published_files(tmp_path)
    before = [file.path.stat().st_mtime_ns for file in data_files(DatasetConfig(name="fashion_mnist", root=str(tmp_path)))]
    done = run_script("fashion_mnist", "--root", str(tmp_path), path="")
    assert (done.returncode, done.stdout.strip()) == (0, f"fashion_mnist is complete in {tmp_path}")
    after = [file.path.stat().st_mtime_ns for file in data_files(DatasetConfig(name="fashion_mnist", root=str(tmp_path)))]
    assert before == after


def test_a_machine_without_apt_is_told_to_download(tmp_path: Path) -> None:
    done = run_script("fashion_mnist", "--root", str(tmp_path), path="")
    assert done.returncode == 2
    assert done.stderr.strip() == (
        "fashion_mnist: this machine has no apt-get and dpkg to get it with; use dataset.download=true"
    )


def test_other_sets_are_not_in_debian() -> None:
    done = run_script("cifar10")
    assert done.returncode == 2
    assert done.stderr.strip() == "name: 'cifar10' is not in Debian; use fashion_mnist, or dataset.download=true"


def test_a_failed_apt_is_one_line_with_its_reason(tmp_path: Path) -> None:
    for tool in ("apt-get", "dpkg"):
        (tmp_path / tool).write_text("#!/bin/sh\necho 'E: Unable to locate package' >&2\nexit 100\n")
        (tmp_path / tool).chmod(0o755)
    done = run_script("fashion_mnist", "--root", str(tmp_path), path=str(tmp_path))
    assert done.returncode == 2
    assert done.stderr.strip() == (
        "fashion_mnist: `apt-get download` of dataset-fashion-mnist failed (E: Unable to locate package); "
        "run `apt-get update` as root and try again, or use dataset.download=true"
    )


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="needs Debian's package tools")
def test_a_package_is_unpacked_into_the_layout_that_torchvision_reads(tmp_path: Path) -> None:
    # A real .deb with the real layout and published lengths, zeros for pixels; only the mirror is played by a script.
    package, tools, root = tmp_path / "package", tmp_path / "tools", tmp_path / "root"
    content = package / "usr" / "share" / "datasets" / "fashion-mnist"
    for folder in (content, package / "DEBIAN", tools):
        folder.mkdir(parents=True)
    (package / "DEBIAN" / "control").write_text(
        "Package: dataset-fashion-mnist\nVersion: 0\nArchitecture: all\nMaintainer: nobody\nDescription: zeros\n"
    )
    files = data_files(DatasetConfig(name="fashion_mnist", root=str(root)))
    for file in files:
        assert file.size is not None
        data = file.header + bytes(file.size - len(file.header))
        (content / f"{file.path.name}.gz").write_bytes(gzip.compress(data, compresslevel=1))
    archive = tmp_path / "zeros.deb"
    subprocess.run(["dpkg-deb", "--build", "-Znone", str(package), str(archive)], check=True, capture_output=True)
    (tools / "apt-get").write_text(f'#!/bin/sh\n[ "$1 $2" = "download dataset-fashion-mnist" ] && cp {archive} .\n')
    (tools / "apt-get").chmod(0o755)

    published_files(root, samples=3)  # cut short: to be replaced
    path = f"{tools}:{os.environ['PATH']}"
    done = run_script("fashion_mnist", "--root", str(root), path=path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [word for file in files for word in ("wrote", str(file.path))]
    require_files(DatasetConfig(name="fashion_mnist", root=str(root)))
    assert sorted(path.name for path in files[0].path.parent.iterdir()) == sorted(file.path.name for file in files)
    assert run_script("fashion_mnist", "--root", str(root), path="").stdout.startswith("fashion_mnist is complete")


@pytest.mark.parametrize("harm", ["missing", "cut", "no gzip", "crc", "wrong length"])
def test_a_bad_archive_leaves_no_file_behind(harm: str, tmp_path: Path) -> None:
    header = struct.pack(">2I", 2049, 5)
    wanted = DataFile(tmp_path / "raw" / "labels", header, len(header) + 5)
    packed = gzip.compress(header + b"abcde")
    content = {
        "cut": packed[:-10],
        "no gzip": b"plain",
        "crc": packed[:-8] + b"\0\0\0\0" + packed[-4:],
        "wrong length": gzip.compress(header + b"abc"),
    }
    if harm != "missing":
        (tmp_path / "labels.gz").write_bytes(content[harm])
    with pytest.raises(UserError, match=r"labels\.gz"):
        unpack(tmp_path, [wanted])
    assert not list((tmp_path / "raw").iterdir())
    (tmp_path / "labels.gz").write_bytes(packed)
    unpack(tmp_path, [wanted])
    assert wanted.path.read_bytes() == header + b"abcde"


def test_a_root_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"root: cannot make .* \(.*\); use a folder to write in"):
        unpack(tmp_path, [DataFile(tmp_path / "file" / "raw" / "labels")])
