"""A job in the store is complete or absent, whatever interrupts its writing; damage is told in one line."""

from __future__ import annotations

import contextlib
import os
import random
from pathlib import Path

import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

from bnstudy.atomic import atomic_file
from bnstudy.errors import UserError
from bnstudy.sweeps.store import LAYOUT, Store, is_done, read_json, write_json

TABLE = pd.DataFrame({"job": ["a", "a"], "seed": [0, 1], "loss": [0.5, float("nan")]})


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_job_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    store = Store(tmp_path / "out")
    store.save("a-s0-1", {"metrics": TABLE}, {"status": "done", "note": "µ ± 1"})
    assert_frame_equal(store.table("a-s0-1", "metrics"), TABLE)
    record = store.record("a-s0-1")
    assert record == {"layout": LAYOUT, "job": "a-s0-1", "status": "done", "note": "µ ± 1"}
    assert is_done(record)
    assert store.job_names() == ["a-s0-1"]
    assert files(store.root) == ["jobs/a-s0-1/job.json", "jobs/a-s0-1/metrics.parquet"]


def test_an_empty_store_has_nothing_and_makes_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path / "out")
    assert store.job_names() == []
    assert store.record("a") is None
    assert store.study("quick") is None
    assert list(tmp_path.iterdir()) == []


class Killed(BaseException):
    """Stands for whatever may end a process between two writes."""


def write_half(path: Path) -> None:
    with atomic_file(path) as file:
        file.write(b"half")
        raise Killed


def test_a_file_whose_writing_is_interrupted_is_absent_and_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        write_half(tmp_path / "x.json")
    assert list(tmp_path.iterdir()) == []


def test_an_older_file_survives_the_interruption_of_its_successor(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_json(path, {"old": 1})
    with pytest.raises(Killed):
        write_half(path)
    assert read_json(path) == {"old": 1}
    assert files(tmp_path) == ["x.json"]


def test_a_reader_never_sees_half_a_file(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    with atomic_file(path) as file:
        file.write(b"{}")
        file.flush()
        assert not path.exists()
    assert path.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_job_interrupted_between_two_of_its_files_is_not_there(
    tmp_path: Path, after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    replace, calls = os.replace, []

    def dying(source: str, target: str | Path) -> None:
        calls.append(target)
        if len(calls) > after:
            raise Killed
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", dying)
        with pytest.raises(Killed):
            store.save("a", {"metrics": TABLE, "distances": TABLE}, {"status": "done"})
    assert store.record("a") is None
    assert not any(".tmp" in name for name in files(tmp_path))
    store.save("a", {"metrics": TABLE, "distances": TABLE}, {"status": "done"})
    assert is_done(store.record("a"))


def test_the_record_is_written_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace, order = os.replace, []
    monkeypatch.setattr(os, "replace", lambda a, b: (order.append(Path(b).name), replace(a, b))[1])
    Store(tmp_path).save("a", {"metrics": TABLE, "distances": TABLE}, {"status": "done"})
    assert order == ["metrics.parquet", "distances.parquet", "job.json"]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"status": "done"', b"3"])
def test_a_damaged_record_is_no_record(tmp_path: Path, content: bytes) -> None:
    store = Store(tmp_path)
    store.save("a", {}, {"status": "done"})
    (store.jobs / "a" / "job.json").write_bytes(content)
    assert store.record("a") is None
    store.save_study("quick", {"cells": []})
    (store.studies / "quick.json").write_bytes(content)
    assert store.study("quick") is None


@pytest.mark.parametrize(
    "record", [None, {}, {"status": "done"}, {"status": "failed", "layout": LAYOUT}, {"layout": LAYOUT}]
)
def test_only_a_done_record_of_this_layout_is_done(record: dict[str, object] | None) -> None:
    assert not is_done(record)
    assert is_done({"status": "done", "layout": LAYOUT})
    assert not is_done({"status": "done", "layout": LAYOUT + 1})


def refusal(store: Store, name: str = "metrics") -> str:
    with pytest.raises(UserError) as caught:
        store.table("a", name)
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize("content", [b"", b"PAR1", b"no parquet at all" * 20])
def test_a_damaged_table_is_told_in_one_line_with_its_file_and_what_to_do(tmp_path: Path, content: bytes) -> None:
    store = Store(tmp_path)
    store.save("a", {"metrics": TABLE}, {"status": "done"})
    path = store.jobs / "a" / "metrics.parquet"
    path.write_bytes(content)
    text = refusal(store)
    assert str(path) in text
    assert text.endswith(f"remove the folder {path.parent} and run the study again")
    path.unlink()
    assert str(path) in refusal(store)


def test_no_damage_to_a_table_is_more_than_a_user_error(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.save("a", {"metrics": pd.concat([TABLE] * 30)}, {"status": "done"})
    path = store.jobs / "a" / "metrics.parquet"
    whole = path.read_bytes()
    chance = random.Random(0)
    for _ in range(300):
        broken = bytearray(whole)
        if chance.random() < 0.3:
            del broken[chance.randrange(len(broken)) :]
        for _ in range(chance.randrange(1, 20)):
            if broken:
                broken[chance.randrange(len(broken))] = chance.randrange(256)
        path.write_bytes(broken)
        with contextlib.suppress(UserError):  # damage to a value is not seen here: the schemas look at values
            store.table("a", "metrics")


def test_a_folder_that_cannot_be_written_is_refused_with_the_systems_reason(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"^output_dir: '.*file/out' cannot be written \(Not a directory\); use a folder"):
        Store(tmp_path / "file" / "out").require_writable()
    Store(tmp_path / "new" / "folder").require_writable()
    assert files(tmp_path / "new") == []


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write anywhere")
def test_a_read_only_folder_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    try:
        with pytest.raises(UserError, match="Permission denied"):
            Store(tmp_path).require_writable()
    finally:
        tmp_path.chmod(0o755)


def test_a_system_folder_that_takes_no_files_is_refused() -> None:
    if not Path("/proc").is_dir():
        pytest.skip("no /proc")
    with pytest.raises(UserError, match=r"^output_dir: '/proc/bnstudy' cannot be written"):
        Store("/proc/bnstudy").require_writable()
