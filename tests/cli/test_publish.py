"""The mirror as a user meets it: beside a study, after it, and when W&B, its server or the machine fails."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.conftest import TINY, Command
from tests.tracking.reading import read_run, run_files

PROGRAM = str(Path(sys.executable).parent / "bnstudy")
STUDY = ("run", "-m", "name=study", "batch_size=4,8", "variance=paper,flax,karpathy", "seeds=2", *TINY)
SENTINEL = "5ecret" * 8


def ids(folder: Path) -> list[str]:
    """Ids of all runs in the mirror's folder, each as often as it is there."""
    return sorted(read_run(file).run["run_id"] for file in run_files(folder / "outputs", "study"))


def tables(folder: Path) -> dict[str, bytes]:
    """The study's tables, byte for byte."""
    return {path.name: path.read_bytes() for path in sorted((folder / "results" / "study").glob("*.parquet"))}


def test_publishing_an_unknown_study_is_a_line(bnstudy: Command) -> None:
    done = bnstudy("publish", "nothing")
    assert done.returncode == 2
    assert done.stderr.startswith("nothing: no study of that name in 'outputs'")
    assert len(done.stderr.splitlines()) == 1


def test_another_tracking_is_refused_with_what_would_do(bnstudy: Command) -> None:
    done = bnstudy("run", "tracking=mlflow", *TINY)
    assert done.returncode == 2
    assert "tracking: 'mlflow' is unknown; use 'offline' or 'online' or 'disabled'" in done.stderr


@pytest.mark.slow
def test_a_study_is_mirrored_as_it_runs_and_published_twice_is_there_once(
    tmp_path: Path, bnstudy: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", SENTINEL)
    run = bnstudy(*STUDY, "tracking=offline")
    assert run.returncode == 0, run.stderr
    assert "W&B" not in run.stderr
    mirrored = ids(tmp_path)
    assert len(mirrored) == len(set(mirrored)) == 12  # 2 batch sizes, 3 conventions, 2 seeds
    again = bnstudy("publish", "study", "--offline", "--dashboard")
    assert again.returncode == 0, again.stderr
    assert "12 runs in outputs/wandb/study/wandb: 0 written, 12 there already" in again.stdout
    assert ids(tmp_path) == mirrored
    assert (tmp_path / "outputs" / "wandb" / "study" / "dashboards" / "workspace.json").is_file()

    some = bnstudy("publish", "study", "--offline", "--only", "convention=paper", "--only", "batch_size=4,16")
    assert "2 runs in" in some.stdout
    aliased = bnstudy("publish", "study", "--offline", "--only", "convention=pytorch,karpathy", "--only", "batch_size=4")
    assert "4 runs in" in aliased.stdout
    complaints = {"colour=red": "no key of these runs", "seed=9": "no run of 'study' meets", "x": "no condition"}
    for condition, complaint in complaints.items():
        refused = bnstudy("publish", "study", "--offline", "--only", condition)
        assert refused.returncode == 2
        assert complaint in refused.stderr

    said = run.stdout + run.stderr + again.stdout + again.stderr
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert SENTINEL not in said
    assert not [path for path in files if SENTINEL.encode() in path.read_bytes()]


@pytest.mark.slow
def test_an_older_study_is_mirrored_by_publish_or_by_the_next_run(tmp_path: Path, bnstudy: Command) -> None:
    assert bnstudy(*STUDY, "tracking=disabled").returncode == 0
    assert not (tmp_path / "outputs" / "wandb").exists()
    before = tables(tmp_path)
    assert bnstudy(*STUDY, "tracking=offline").returncode == 0  # nothing left to train
    assert len(ids(tmp_path)) == 12
    assert tables(tmp_path) == before


@pytest.mark.slow
def test_killed_in_the_middle_a_study_is_completed_and_each_run_is_there_once(tmp_path: Path, bnstudy: Command) -> None:
    study = (*STUDY[:3], "batch_size=2,4,8,16", *STUDY[4:], "engine.workers=1", "tracking=offline")
    running = subprocess.Popen(
        [PROGRAM, *study], cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    ledger = tmp_path / "outputs" / "wandb" / "study" / "jobs"
    deadline = time.monotonic() + 120
    while not list(ledger.glob("*.json")) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(running.pid, signal.SIGKILL)  # the mirror is a session of its own: it ends when its input does
    running.wait()
    assert list(ledger.glob("*.json"))
    done = bnstudy(*study)
    assert done.returncode == 0, done.stderr
    published = bnstudy("publish", "study", "--offline")
    assert published.returncode == 0, published.stderr
    mirrored = ids(tmp_path)
    assert len(mirrored) == len(set(mirrored)) == 24
    assert all(read_run(file).finished for file in run_files(tmp_path / "outputs", "study"))


@pytest.mark.slow
@pytest.mark.parametrize("accident", ["closed", "hanging", "keyless"])
def test_whatever_the_server_does_the_study_ends_as_without_it(
    tmp_path: Path, bnstudy: Command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], accident: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    if accident != "keyless":
        monkeypatch.setenv("WANDB_API_KEY", SENTINEL)
    study = ("run", "-m", "name=study", "batch_size=4,8", "variance=paper", "seeds=2", *TINY)
    assert bnstudy(*study, "output_dir=alone", "results_dir=alone").returncode == 0
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        if accident == "closed":
            listener.close()
        monkeypatch.setenv("WANDB_BASE_URL", url)
        begun = time.monotonic()
        done = bnstudy(*study, "tracking=online", timeout=300)
        seconds = time.monotonic() - begun
    warnings = [line for line in done.stderr.splitlines() if line.startswith("W&B: ")]
    with capsys.disabled():
        print(f"\n{accident}: whole command {seconds:.1f} s; {warnings}")
    assert done.returncode == 0, done.stderr
    assert len(warnings) == 1
    assert warnings[0].endswith("no result is lost: `bnstudy publish study --online` makes up for it")
    expected = {"closed": "cannot be reached", "hanging": "no answer for 15 s", "keyless": "No API key configured"}
    assert expected[accident] in warnings[0]
    assert "Traceback" not in done.stderr
    alone = tmp_path / "alone" / "study"
    for name, content in tables(tmp_path).items():
        if name not in ("jobs.parquet",):  # wall times
            assert (alone / name).read_bytes() == content, name
    assert len(ids(tmp_path)) == 4  # they wait for `publish`
    assert SENTINEL not in done.stdout + done.stderr
    files = [path for path in (tmp_path / "outputs").rglob("*") if path.is_file()]
    assert not [path for path in files if SENTINEL.encode() in path.read_bytes()]


@pytest.mark.slow
def test_a_killed_mirror_does_not_hurt_the_study(tmp_path: Path, bnstudy: Command) -> None:
    study = (*STUDY, "tracking=offline")
    running = subprocess.Popen(
        [PROGRAM, *study], cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    killed = False
    while running.poll() is None and not killed:
        for process in Path("/proc").glob("[0-9]*"):
            try:
                parent = (process / "stat").read_text().rpartition(")")[2].split()[1]
                if int(parent) == running.pid and b"bnstudy.tracking.following" in (process / "cmdline").read_bytes():
                    os.kill(int(process.name), signal.SIGKILL)
                    killed = True
            except (OSError, IndexError):
                continue
        time.sleep(0.02)
    said = running.communicate(timeout=200)[1]
    assert killed
    assert running.returncode == 0, said
    assert "W&B: the mirror ended with exit code -9; no result is lost" in said
    assert "12 written" in bnstudy("publish", "study", "--offline").stdout


@pytest.mark.slow
def test_a_full_disk_under_the_mirror_is_told_in_a_line(tmp_path: Path) -> None:
    if os.geteuid() != 0 or subprocess.run(["unshare", "-m", "true"], check=False).returncode != 0:
        pytest.skip("needs the right to mount a small file system")
    folder = tmp_path / "outputs" / "wandb"
    folder.mkdir(parents=True)
    command = " ".join((PROGRAM, *STUDY))
    script = f"mount -t tmpfs -o size=64k tmpfs {folder} && cd {tmp_path} && {command}"
    done = subprocess.run(["unshare", "-m", "sh", "-c", script], capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    warnings = [line for line in done.stderr.splitlines() if line.startswith("W&B: ")]
    assert len(warnings) == 1, done.stderr
    assert "makes up for it" in warnings[0]
    records = [json.loads(path.read_text()) for path in (tmp_path / "outputs" / "jobs").glob("*/job.json")]
    assert [record["status"] for record in records] == ["done"] * 4
