"""Sending runs to servers that work, refuse, hang or die: real `wandb sync` over loopback, every wait bounded."""

from __future__ import annotations

import contextlib
import http.server
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bnstudy.tracking import sending
from bnstudy.tracking.ledger import Ledger
from bnstudy.tracking.mirror import StudyMirror
from bnstudy.tracking.sending import Sent, destination, send_runs, server
from bnstudy.tracking.writing import write_runs
from tests.analysis.studies import run_study
from tests.tiny import tiny

KEY = "local" + "0" * 40


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store whose two runs are mirrored offline."""
    root = tmp_path_factory.mktemp("store")
    study = StudyMirror(run_study(root, [tiny(model__depth=1, seeds=2, probe_batches=4)]), "tiny")
    for job in study.jobs():
        write_runs(Ledger(root, "tiny"), job, study.runs(job))
    return root


@pytest.fixture
def root(written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, a key, and less patience."""
    shutil.copytree(written, tmp_path / "store", symlinks=True)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setattr(sending, "SILENCE", 6.0)
    return tmp_path / "store"


def send(root: Path, capsys: pytest.CaptureFixture[str]) -> tuple[Sent, float]:
    """Send all runs; what came of it, and how long it took."""
    ledger = Ledger(root, "tiny")
    jobs = {job: list(ledger.entries(job)) for job in ledger.jobs()}
    begun = time.monotonic()
    sent = send_runs(ledger, jobs)
    seconds = time.monotonic() - begun
    with capsys.disabled():
        print(f"\n{server()}: {sent.count} sent in {seconds:.1f} s; {sent.problem}")
    assert sent.problem is None or "\n" not in sent.problem
    assert KEY not in str(sent.problem)
    return sent, seconds


@contextlib.contextmanager
def listening(answer: type[http.server.BaseHTTPRequestHandler] | None) -> Iterator[str]:
    """A server's address: one that answers as told, or accepts connections and says nothing."""
    if answer is None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        return
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), answer) as serving:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{serving.server_port}"
        serving.shutdown()


class Refusing(http.server.BaseHTTPRequestHandler):
    """A server that knows no such key."""

    def do_POST(self) -> None:
        """Refuse."""
        self.send_response(401)
        self.end_headers()

    do_GET = do_POST  # noqa: N815

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class Dying(Refusing):
    """A server that answers every request with a cut connection: it has just died."""

    def do_POST(self) -> None:
        """Hang up."""
        self.connection.shutdown(socket.SHUT_RDWR)

    do_GET = do_POST  # noqa: N815


def test_a_closed_port_is_found_by_a_probe(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with listening(None) as url:
        pass  # closed again
    monkeypatch.setenv("WANDB_BASE_URL", url)
    sent, seconds = send(root, capsys)
    assert sent == Sent(0, f"{url} cannot be reached (Connection refused)")
    assert seconds < sending.PROBE + 1


@pytest.mark.parametrize("url", ["nonsense", "http://", "ftp://host", "http://127.0.0.1:99999"])
def test_an_address_that_is_none_is_named(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], url: str
) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", url)
    sent, _ = send(root, capsys)
    assert sent.count == 0
    assert sent.problem is not None
    assert url.rstrip("/") in sent.problem


def test_a_run_sent_to_one_entity_or_project_is_not_sent_to_another(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", "http://me:my-password@127.0.0.1:8080/")
    for name in ("WANDB_ENTITY", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    ledger = Ledger(root, "tiny")
    (job,) = ledger.jobs()
    assert destination() == "http://…@127.0.0.1:8080"
    ledger.sent(job, ledger.entries(job), destination())
    assert ledger.has(job, 2, destination())
    monkeypatch.setenv("WANDB_PROJECT", "bnstudy")
    assert ledger.has(job, 2, destination()), "the usual one"
    for name in ("WANDB_PROJECT", "WANDB_ENTITY"):
        monkeypatch.setenv(name, "another")
        assert not ledger.has(job, 2, destination())
    assert "my-password" not in str(ledger.entries(job))


def test_the_name_and_password_in_an_address_are_not_told(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with listening(None) as url:
        pass  # closed again
    monkeypatch.setenv("WANDB_BASE_URL", url.replace("://", "://me:my-password@"))
    sent, _ = send(root, capsys)
    assert sent.problem == f"{url.replace('://', '://…@')} cannot be reached (Connection refused)"


def test_the_server_is_the_environments_or_that_of_wandb_login(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path))
    monkeypatch.delenv("WANDB_BASE_URL", raising=False)
    assert server() == "https://api.wandb.ai"
    (tmp_path / "settings").write_text("[default]\nbase_url = https://wandb.example.org/\n")
    assert server() == "https://wandb.example.org"
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:8080/")
    assert server() == "http://127.0.0.1:8080"


@pytest.mark.slow
@pytest.mark.parametrize("answer", [None, Dying, Refusing])
def test_a_server_that_hangs_dies_or_refuses_costs_a_bounded_wait(
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    answer: type[http.server.BaseHTTPRequestHandler] | None,
) -> None:
    with listening(answer) as url:
        monkeypatch.setenv("WANDB_BASE_URL", url)
        sent, seconds = send(root, capsys)
    assert sent.count == 0
    assert sent.problem is not None
    assert sent.problem.startswith(f"2 of 2 runs were not sent to {url} (")
    assert seconds < 6 * sending.SILENCE, "a deadlock, not a timing"
    ledger = Ledger(root, "tiny")
    assert all(not entry["servers"] for job in ledger.jobs() for entry in ledger.entries(job).values())


@pytest.mark.slow
@pytest.mark.parametrize(("key", "reason"), [("short", "API key must have 40"), (None, "No API key configured")])
def test_a_malformed_or_missing_key_is_told(
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    key: str | None,
    reason: str,
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))  # no netrc
    if key is None:
        monkeypatch.delenv("WANDB_API_KEY")
    else:
        monkeypatch.setenv("WANDB_API_KEY", key)
    with listening(None) as url:
        monkeypatch.setenv("WANDB_BASE_URL", url)
        sent, _ = send(root, capsys)
    assert sent.problem is not None
    assert reason in sent.problem


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("openwandb") is None, reason="needs openwandb, a server of W&B's protocol, in PATH")
def test_a_working_server_gets_each_run_once(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = ["openwandb", "serve", "--host", "127.0.0.1", "--port", str(port), "--data-dir", str(tmp_path / "server")]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    with open(tmp_path / "server.log", "w") as log:
        serving = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        url = f"http://127.0.0.1:{port}"
        monkeypatch.setenv("WANDB_BASE_URL", url)
        monkeypatch.setenv("WANDB_API_KEY", "local" + "0" * 40)
        monkeypatch.setattr(sending, "SILENCE", 30.0)
        for _ in range(100):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            time.sleep(0.2)
        assert send(root, capsys)[0] == Sent(2, None)
        assert send(root, capsys)[0] == Sent(0, None)
        ledger = Ledger(root, "tiny")
        assert all(entry["servers"] == [url] for job in ledger.jobs() for entry in ledger.entries(job).values())
        said = (tmp_path / "server.log").read_text()
        assert said.count("marked as finished") == 2
    finally:
        serving.terminate()
        serving.wait()
