"""Studies that meet accidents: jobs that raise, workers that are killed, interruptions, two runs at once, full disks."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from tests.cli.conftest import TINY, Command, files_under, untracked

PROGRAM = str(Path(sys.executable).parent / "bnstudy")
TABLES = ("metrics", "gaps", "generalisation", "summary")
STUDY = ("run", "-m", "name=study", "batch_size=2,4,8,16", "variance=paper,karpathy", "seeds=2", *TINY[:2], "epochs=2")

# A user for whom a folder can be read-only: root may write everywhere.
NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"] if os.geteuid() == 0 else []


@pytest.fixture
def public_path() -> Iterator[Path]:
    """A folder that any user can reach, as pytest's cannot be; skips where `NOBODY` may not run the program."""
    if NOBODY and shutil.which(NOBODY[0]) is None:
        pytest.skip("setpriv is not installed (apt-get install util-linux), and root can write everywhere")
    if subprocess.run([*NOBODY, PROGRAM, "--help"], cwd="/", capture_output=True, check=False).returncode:
        pytest.skip("the user nobody may not run this installation, and root can write everywhere")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """Run the command in a process group of its own."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [PROGRAM, *untracked(arguments)], cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, start_new_session=True,
    )  # fmt: skip


def records(folder: Path) -> dict[str, dict[str, object]]:
    """Records of the jobs in the store."""
    found = {}
    for path in sorted((folder / "outputs" / "jobs").glob("*/job.json")):
        found[path.parent.name] = json.loads(path.read_text())
    return found


def wait_for_claim(folder: Path, seconds: float = 60) -> dict[str, object]:
    """The first claim on a job that makes steps."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for path in (folder / "outputs" / "claims").glob("*.json"):
            try:
                return dict(json.loads(path.read_text()))
            except (OSError, ValueError):
                continue
        time.sleep(0.02)
    raise TimeoutError("no job was claimed")


def wait_for_claim_of(folder: Path, running: subprocess.Popen[str]) -> bool:
    """Wait until a run's own worker has claimed a job; False if it ends before."""
    while running.poll() is None:
        for path in (folder / "outputs" / "claims").glob("*.json"):
            with contextlib.suppress(OSError, ValueError, KeyError):
                if os.getpgid(json.loads(path.read_text())["pid"]) == running.pid:
                    return True
        time.sleep(0.005)
    return False


def command_lines(parent: int) -> list[str]:
    """Command lines of a process's children."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError):
            if int((process / "stat").read_text().rpartition(")")[2].split()[1]) == parent:
                found.append((process / "cmdline").read_bytes().decode(errors="replace"))
    return found


def read(folder: Path) -> dict[str, pd.DataFrame]:
    return {name: pd.read_parquet(folder / "results" / "study" / f"{name}.parquet") for name in TABLES}


def assert_same_tables(first: Path, second: Path) -> None:
    one, other = read(first), read(second)
    for name in TABLES:
        pd.testing.assert_frame_equal(one[name], other[name], check_exact=True, obj=name)


@pytest.mark.slow
def test_one_job_raises_and_one_is_killed_and_the_others_are_done(tmp_path: Path, bnstudy: Command) -> None:
    # A layer of 77 GB cannot be allocated: that job raises. The job at batch size 2 is long, and killed whenever it starts.
    arguments = (
        "run", "-m", "name=study", "model.width=8,300000000", "batch_size=2,64", "seeds=1", "model.depth=1", "epochs=20",
        "engine.workers=2",
    )  # fmt: skip
    running = start(tmp_path, *arguments)
    killed: set[int] = set()
    victim = ""
    while running.poll() is None:
        for path in (tmp_path / "outputs" / "claims").glob("*.json"):
            try:
                claim = json.loads(path.read_text())
            except (OSError, ValueError):
                continue
            if claim["steps"] == 20 * 718 and claim["step"] > 0 and claim["pid"] not in killed:
                os.kill(claim["pid"], signal.SIGKILL)
                killed.add(claim["pid"])
                victim = claim["job"]
        time.sleep(0.05)
    _, said = running.communicate()
    assert running.returncode == 1, said
    assert len(killed) == 2, "the job is started once more after its process died"
    assert re.search(rf"{victim} \(.*\): lost: its process died 2 times", said)
    raised = [job for job, record in records(tmp_path).items() if record["status"] == "failed"]
    assert len(raised) == 2
    assert "can't allocate memory" in str(records(tmp_path)[raised[0]]["traceback"])
    assert all(re.search(rf"{job} \(.*\): failed: RuntimeError", said) for job in raised)
    assert [record["status"] for record in records(tmp_path).values()].count("done") == 1

    status = bnstudy("status", "study")
    assert status.returncode == 1
    assert "4 jobs: 1 done, 0 running, 1 missing, 2 failed" in status.stdout
    again = bnstudy(*arguments, timeout=300)
    assert "1 done, 2 failed before, 1 to run" in again.stderr
    assert again.returncode == 1  # the two that raised are still failed
    assert records(tmp_path)[victim]["status"] == "done"


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_study_stops_within_five_seconds_and_goes_on(
    number: signal.Signals, tmp_path: Path, bnstudy: Command
) -> None:
    running = start(tmp_path, *STUDY)
    wait_for_claim(tmp_path)
    os.killpg(running.pid, signal.SIGINT) if number is signal.SIGINT else running.send_signal(number)
    _, said = running.communicate(timeout=5)
    assert running.returncode == 130
    assert "the same command goes on from here" in said
    assert "Traceback" not in said
    done = set(records(tmp_path))
    again = bnstudy(*STUDY)
    assert again.returncode == 0, again.stderr
    assert f"{len(done)} done" in again.stderr
    assert len(records(tmp_path)) == 8


@pytest.mark.slow
def test_an_early_ctrl_c_ends_in_a_line(tmp_path: Path) -> None:
    """It reaches every process of the terminal, among them the server of workers in the midst of its imports."""
    running = start(tmp_path, *STUDY)
    deadline = time.monotonic() + 60
    while not any("multiprocessing.forkserver" in line for line in command_lines(running.pid)):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(0.2)
    assert not list((tmp_path / "outputs" / "claims").glob("*.json")), "too late: a worker has begun"
    os.killpg(running.pid, signal.SIGINT)
    _, said = running.communicate(timeout=20)
    assert running.returncode == 130
    assert "the same command goes on from here" in said
    assert "Traceback" not in said


@pytest.mark.slow
def test_two_runs_of_one_study_share_the_work(tmp_path: Path, bnstudy: Command) -> None:
    study = (*STUDY[:-1], "epochs=6", "engine.workers=1")  # long enough that none is done before the other one has begun
    runs = [start(tmp_path, *study) for _ in range(2)]
    written: dict[Path, set[int]] = {}
    while any(run.poll() is None for run in runs):
        for path in (tmp_path / "outputs" / "jobs").glob("*/*.*"):
            with contextlib.suppress(FileNotFoundError):
                written.setdefault(path, set()).add(path.stat().st_mtime_ns)
        time.sleep(0.002)
    said = [run.communicate(timeout=200)[1] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], said
    assert len(records(tmp_path)) == 8
    finals = {path: times for path, times in written.items() if path.exists()}
    assert len(finals) == 8 * 4
    assert all(len(times) == 1 for times in finals.values()), "no file of a job was written twice"
    assert len({record["process"] for record in records(tmp_path).values()}) == 2, "both took part"
    assert bnstudy("status", "study").returncode == 0


@pytest.mark.slow
def test_a_study_whose_definition_changed_says_which_jobs_belong(tmp_path: Path, bnstudy: Command) -> None:
    base = ("run", "-m", "name=study", "variance=paper", "seeds=1", *TINY)
    assert bnstudy(*base, "batch_size=4,8").returncode == 0
    changed = bnstudy(*base, "batch_size=8,16")
    assert changed.returncode == 0
    assert "study: 1 jobs of its last run no longer belong (1 of them ran and stay in the store)" in changed.stderr
    assert "study: 1 jobs still belong, 1 are new" in changed.stderr


@pytest.mark.slow
def test_a_job_of_another_version_is_named_and_trained_again(tmp_path: Path, bnstudy: Command) -> None:
    command = ("run", "name=study", "seeds=1", *TINY)
    assert bnstudy(*command).returncode == 0
    path = next((tmp_path / "outputs" / "jobs").glob("*/job.json"))
    path.write_text(json.dumps(json.loads(path.read_text()) | {"layout": 0}))
    again = bnstudy(*command)
    assert again.returncode == 0
    assert f"{path.parent.name}: written by another version of bnstudy; it is trained again" in again.stderr


def test_a_plan_trains_nothing_and_status_names_unknown_studies(tmp_path: Path, bnstudy: Command) -> None:
    plan = bnstudy("plan", "-m", "name=study", "batch_size=4,8", "variance=paper,flax", "seeds=2", *TINY)
    assert plan.returncode == 0, plan.stderr
    assert "4 cells, 2 jobs: 0 done, 2 missing, 0 failed" in plan.stdout
    assert "2 from a probe" in plan.stdout
    assert not (tmp_path / "outputs").exists()
    unknown = bnstudy("status", "nothing")
    assert unknown.returncode == 2
    assert "nothing: no study of that name" in unknown.stderr


@pytest.mark.slow
def test_a_full_disk_is_told_in_a_line(tmp_path: Path, bnstudy: Command) -> None:
    # A file system of six pages, mounted by root in a namespace of its own that ends with the command.
    if os.geteuid() != 0 or subprocess.run(["unshare", "-m", "true"], check=False).returncode != 0:
        pytest.skip("needs the right to mount a small file system")
    (tmp_path / "outputs").mkdir()
    script = (
        f"mount -t tmpfs -o size=24k tmpfs {tmp_path / 'outputs'} && cd {tmp_path} && "
        f"{PROGRAM} run -m name=study batch_size=4,8 seeds=8 model.width=8 epochs=2 tracking=disabled"
    )
    done = subprocess.run(["unshare", "-m", "sh", "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1, done.stderr
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("key", ["output_dir", "results_dir"])
def test_a_read_only_folder_is_told_in_a_line_before_anything_is_trained(key: str, public_path: Path) -> None:
    folders = {name: public_path / name for name in ("output_dir", "results_dir")}
    for name, folder in folders.items():
        folder.mkdir()
        folder.chmod(0o555 if name == key else 0o777)
    arguments = ["run", "seeds=1", *TINY, *(f"{name}={folder}" for name, folder in folders.items())]
    done = subprocess.run(
        [*NOBODY, PROGRAM, *arguments], cwd=public_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith(f"{key}: '{folders[key]}' cannot be written")
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""
    assert files_under(public_path) == []


@pytest.mark.slow
def test_twenty_kills_at_random_moments_lose_nothing(tmp_path: Path, bnstudy: Command) -> None:
    # 48 jobs of less than a second: most kills find some of them done, some running and some not begun.
    study = (*STUDY[:5], "seeds=6", "replicas=1", *STUDY[6:])
    reference, battered = tmp_path / "reference", tmp_path / "battered"
    for folder in (reference, battered):
        folder.mkdir()
    began = time.monotonic()
    running = start(reference, *study)
    assert wait_for_claim_of(reference, running)
    beginning = time.monotonic() - began
    assert running.wait(timeout=300) == 0
    lengths = [float(str(record["seconds"])) for record in records(reference).values()]
    assert len(lengths) == 48
    moments = random.Random(0)
    finished: dict[str, dict[str, object]] = {}
    struck = 0
    for _ in range(20):
        running = start(battered, *study)
        if moments.random() < 0.2:
            time.sleep(moments.uniform(0, beginning))  # before it trains
        elif wait_for_claim_of(battered, running):
            enough = len(finished) + moments.randrange(3)
            while len(records(battered)) < enough and running.poll() is None:
                time.sleep(0.005)
            time.sleep(moments.uniform(0, 1.5) * statistics.median(lengths))
        if running.poll() is None:
            os.killpg(running.pid, signal.SIGKILL)
            struck += 1
        assert running.wait() in (0, -signal.SIGKILL)
        now = records(battered)
        for job, record in finished.items():
            assert now[job] == record, "a job that was recorded is not trained again"
        finished = now
    assert struck >= 15, "the study was over before it could be killed"
    assert 0 < len(finished) < 48, "kills fell among the jobs"
    last = start(battered, *study)
    assert last.wait(timeout=300) == 0
    assert {job: records(battered)[job] for job in finished} == finished
    assert len(records(battered)) == 48
    assert_same_tables(reference, battered)
    assert list((battered / "outputs" / "claims").glob("*.json")) == []
