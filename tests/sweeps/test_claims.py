"""One job, one holder: races between processes, deaths, silence of other hosts, heartbeats."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bnstudy.sweeps import claims
from bnstudy.sweeps.claims import EXPIRY, acquire, living
from bnstudy.sweeps.store import hostname, read_json

RACE = """
import json, multiprocessing, sys
from pathlib import Path
from bnstudy.sweeps.claims import acquire

def race(barrier, folder, rounds, queue):
    held, won = [], []
    for number in range(rounds):
        barrier.wait()
        claim = acquire(folder, f"job-{number}")
        if claim is not None:
            held.append(claim)
            won.append(number)
            assert claim.held
    queue.put(won)
    barrier.wait()

context = multiprocessing.get_context("fork")
barrier, queue = context.Barrier(2), context.Queue()
folder, rounds = Path(sys.argv[1]), int(sys.argv[2])
racers = [context.Process(target=race, args=(barrier, folder, rounds, queue)) for _ in range(2)]
for racer in racers:
    racer.start()
print(json.dumps([queue.get(timeout=60) for _ in racers]))
for racer in racers:
    racer.join()
"""
HOLD = """
import sys
from pathlib import Path
from bnstudy.sweeps.claims import acquire
claim = acquire(Path(sys.argv[1]), "job")
print("held" if claim else "refused", flush=True)
if claim:
    claim.__enter__()
sys.stdin.read()
"""


def leave_dead_claims(folder: Path, rounds: int) -> None:
    folder.mkdir(exist_ok=True)
    gone = {"host": hostname(), "pid": 2**22 + 1, "born": "1", "since": 0.0}
    for number in range(rounds):
        (folder / f"job-{number}.json").write_text(json.dumps(gone))


@pytest.mark.parametrize("dead_first", [False, True])
def test_of_two_processes_exactly_one_wins_each_of_200_races(tmp_path: Path, dead_first: bool) -> None:
    if dead_first:
        leave_dead_claims(tmp_path, 200)
    done = subprocess.run([sys.executable, "-c", RACE, str(tmp_path), "200"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    first, second = json.loads(done.stdout)
    assert sorted(first + second) == list(range(200))


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the claim on "job"."""
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline().strip() == "held"
    yield process
    process.kill()
    process.communicate()


def test_a_live_process_keeps_its_claim(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    old = time.time() - 100 * EXPIRY
    os.utime(tmp_path / "job.json", (old, old))  # a hung disk is no death
    assert acquire(tmp_path, "job") is None
    assert living(tmp_path)["job"]["pid"] == holder.pid


@pytest.mark.parametrize("reaped", [True, False])
def test_the_claim_of_a_dead_process_is_taken_over_at_once(
    tmp_path: Path, holder: subprocess.Popen[str], reaped: bool
) -> None:
    holder.send_signal(signal.SIGKILL)
    if reaped:
        holder.wait()
    else:  # a zombie: dead, its number still taken
        os.waitid(os.P_PID, holder.pid, os.WEXITED | os.WNOWAIT)
    assert living(tmp_path) == {}
    claim = acquire(tmp_path, "job")
    assert claim is not None
    with claim:
        assert claim.held
        assert living(tmp_path)["job"]["pid"] == os.getpid()


def test_a_reused_process_number_is_not_its_former_owner(tmp_path: Path) -> None:
    mine = {"host": hostname(), "pid": os.getpid(), "born": "1", "since": 0.0}
    (tmp_path / "job.json").write_text(json.dumps(mine))
    assert acquire(tmp_path, "job") is not None


def foreign(tmp_path: Path, silent: float, content: str | None = None) -> Path:
    path = tmp_path / "job.json"
    record = {"host": "elsewhere", "pid": os.getpid(), "born": "1", "since": 0.0}
    path.write_text(json.dumps(record) if content is None else content)
    then = time.time() - silent
    os.utime(path, (then, then))
    return path


@pytest.mark.parametrize("content", [None, "", "{", "[]", "\0" * 512])
def test_another_hosts_claim_and_one_that_cannot_be_read_expire_by_silence(tmp_path: Path, content: str | None) -> None:
    foreign(tmp_path, EXPIRY - 10, content)
    assert acquire(tmp_path, "job") is None
    foreign(tmp_path, EXPIRY + 10, content)
    assert living(tmp_path) == {}
    claim = acquire(tmp_path, "job")
    assert claim is not None
    assert claim.held


def test_a_container_of_the_same_host_name_is_another_machine(tmp_path: Path) -> None:
    path = foreign(tmp_path, EXPIRY - 10)
    record = json.loads(path.read_text()) | {"host": hostname(), "machine": "another pid:[1]", "pid": 2**22 + 1}
    path.write_text(json.dumps(record))  # no such process here, but there may be one there
    assert acquire(tmp_path, "job") is None
    foreign(tmp_path, EXPIRY + 10, json.dumps(record))
    assert acquire(tmp_path, "job") is not None


def test_whoever_only_looks_at_claims_need_not_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> Path:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(claims, "temporary_name", refuse)
    foreign(tmp_path, EXPIRY - 10)
    assert set(living(tmp_path)) == {"job"}
    foreign(tmp_path, EXPIRY + 10)
    assert living(tmp_path) == {}
    with pytest.raises(OSError, match="Read-only"):  # to take a claim away, the server's own clock is needed
        acquire(tmp_path, "job")


def test_age_is_told_by_the_file_servers_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    foreign(tmp_path, 0)
    monkeypatch.setattr(time, "time", lambda: 1e12)  # this host's own clock is far ahead
    assert acquire(tmp_path, "job") is None


def test_a_claim_is_released_on_leaving_even_by_an_exception(tmp_path: Path) -> None:
    claim = acquire(tmp_path, "job")
    assert claim is not None

    def interrupted() -> None:
        with claim:
            assert acquire(tmp_path, "job") is None
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []
    again = acquire(tmp_path, "job")
    assert again is not None
    with again:
        pass


def test_claims_on_different_jobs_do_not_meet(tmp_path: Path) -> None:
    first, second = acquire(tmp_path, "a"), acquire(tmp_path, "b")
    assert first is not None
    assert second is not None
    with first, second:
        assert set(living(tmp_path)) == {"a", "b"}


def until(condition: Any) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_heartbeat_shows_the_status_and_renews_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "HEARTBEAT", 0.02)
    status = {"step": 1, "steps": 900}
    claim = acquire(tmp_path, "job", lambda: dict(status))
    assert claim is not None
    path = tmp_path / "job.json"
    with claim:
        assert read_json(path)["step"] == 1  # type: ignore[index]
        old = time.time() - 1000
        os.utime(path, (old, old))
        for step in (123456, 7):  # a shorter record after a longer one
            status["step"] = step
            until(lambda step=step: (read_json(path) or {}).get("step") == step)
        until(lambda: path.stat().st_mtime > old + 500)
        record = living(tmp_path)["job"]
        assert (record["steps"], record["pid"]) == (900, os.getpid())


def test_a_claim_taken_away_is_no_longer_held_and_its_heartbeat_reaches_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "HEARTBEAT", 0.02)
    claim = acquire(tmp_path, "job", lambda: {"step": "old"})
    assert claim is not None
    with claim:
        assert claim.held
        (tmp_path / "job.json").unlink()
        assert not claim.held
        (tmp_path / "job.json").write_text('{"pid": "other"}')
        assert not claim.held
        time.sleep(0.2)
        assert read_json(tmp_path / "job.json") == {"pid": "other"}
    assert read_json(tmp_path / "job.json") == {"pid": "other"}, "the new holder's claim is not the old one's to release"


def test_a_fresh_claim_is_not_taken_for_the_dead_one_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody takes a dead claim over between another's look at it and his removing it."""
    path = tmp_path / "job.json"
    leave_dead_claims(tmp_path, 1)
    (tmp_path / "job-0.json").rename(path)
    is_dead, taken = claims._is_dead, []

    def slow(where: Path, record: dict[str, Any]) -> bool:
        verdict = is_dead(where, record)
        if not taken:
            taken.append(None)
            taken[0] = acquire(tmp_path, "job")
        return verdict

    monkeypatch.setattr(claims, "_is_dead", slow)
    assert acquire(tmp_path, "job") is None
    assert taken[0].held
    assert [path.name for path in tmp_path.iterdir()] == ["job.json"]


def test_a_folder_that_is_not_there_has_no_claims(tmp_path: Path) -> None:
    assert living(tmp_path / "none") == {}
