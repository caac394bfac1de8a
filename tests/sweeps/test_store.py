"""A job in the store is complete or absent, whatever interrupts its writing; damage is told in one line."""

from __future__ import annotations

import errno
import hashlib
import itertools
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

from bnstudy.atomic import atomic_file, sweep, temporary_name
from bnstudy.errors import UserError
from bnstudy.sweeps.store import LAYOUT, Store, is_damaged, is_done, read_json, write_json
from tests.records import done_record

JOB = "a-s0-1"
TABLE = pd.DataFrame({"job": [JOB, JOB], "seed": [0, 1], "loss": [0.5, float("nan")]})
NAMES = ("metrics", "folds", "layers")
FILES = ("folds.parquet", "job.json", "layers.parquet", "metrics.parquet")


def save(store: Store, **changes: Any) -> dict[str, Any]:
    """Save a done job; what it was saved with."""
    record = done_record("a", [0, 1], **changes)
    store.save(JOB, dict.fromkeys(NAMES, TABLE), record)
    return record


def without_digests(store: Store) -> None:
    """What an older version of the store has."""
    path = store.jobs / JOB / "job.json"
    write_json(path, {key: value for key, value in (read_json(path) or {}).items() if key != "files"})


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_job_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    store = Store(tmp_path / "out")
    record = save(store, note="µ ± 1")
    assert_frame_equal(store.table(JOB, "metrics"), TABLE)
    assert store.record(JOB) == {"layout": LAYOUT, "job": JOB, **record, "files": store.record(JOB)["files"]}  # type: ignore[index]
    assert is_done(store.record(JOB))
    assert store.job_names() == [JOB]
    assert files(store.root) == [f"jobs/{JOB}/{name}" for name in FILES]


def test_a_record_says_what_its_tables_are(tmp_path: Path) -> None:
    store = Store(tmp_path)
    save(store)
    facts = store.record(JOB)["files"]  # type: ignore[index]
    for name in NAMES:
        data = (store.jobs / JOB / f"{name}.parquet").read_bytes()
        expected = {"bytes": len(data), "rows": 2, "sha256": hashlib.sha256(data).hexdigest()}
        assert facts[f"{name}.parquet"] == expected


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


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664), (0, 0o666)])
def test_a_file_has_the_permissions_that_the_umask_leaves(tmp_path: Path, mask: int, mode: int) -> None:
    before = os.umask(mask)
    try:
        write_json(tmp_path / "x.json", {})
    finally:
        os.umask(before)
    assert (tmp_path / "x.json").stat().st_mode & 0o777 == mode


def test_what_a_killed_process_began_is_swept_and_what_a_living_one_writes_is_not(tmp_path: Path) -> None:
    program = "import os, sys; from pathlib import Path; from bnstudy.atomic import temporary_name; "
    program += f"temporary_name(Path({str(tmp_path / 'x.json')!r})).write_text('half'); os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", program], check=False, timeout=60)
    (orphan,) = tmp_path.iterdir()
    mine, other, old, foreign = (tmp_path / name for name in (
        temporary_name(tmp_path / "y.json").name, ".hidden.tmp",
        ".z.json.00000000-1-00000000.tmp", ".z.json.00000000-1-00000001.tmp",
    ))  # fmt: skip
    for path in (mine, other, old, foreign):
        path.write_text("half")
    os.utime(old, (0, 0))
    sweep(tmp_path, tmp_path / "nowhere")
    assert not orphan.exists()
    assert {path.name for path in tmp_path.iterdir()} == {mine.name, other.name, foreign.name}


def test_names_of_any_length_and_script_can_be_written(tmp_path: Path) -> None:
    for name in ("x" * 255, "ü" * 127, "𝔵" * 63):
        write_json(tmp_path / name, {"name": name})
        assert read_json(tmp_path / name) == {"name": name}


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
            save(store)
    assert store.record(JOB) is None
    assert not any(".tmp" in name for name in files(tmp_path))
    save(store)
    assert is_done(store.record(JOB))


def test_the_record_is_written_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace, order = os.replace, []
    monkeypatch.setattr(os, "replace", lambda a, b: (order.append(Path(b).name), replace(a, b))[1])
    save(Store(tmp_path))
    assert order == ["metrics.parquet", "folds.parquet", "layers.parquet", "job.json"]


DEEP = b'{"a": ' * 100_000 + b"1" + b"}" * 100_000


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        *((content, "is no JSON") for content in (b"", b"{", b"\xff\xfe", b'{"status": "done"', b"\0" * 500, DEEP)),
        *((content, "is no record") for content in (b"[]", b"null", b"3", b'"done"')),
        (b"{}", "lacks 'layout'"),
        (b'{"layout": "one"}', "has no sound 'layout'"),
        (b'{"layout": 2}', "lacks 'job'"),
        (b'{"layout": 2, "job": "b-s0-1", "status": "done"}', "is of 'b-s0-1'"),
        (b'{"layout": 2, "job": "a-s0-1", "status": "well"}', "has the status 'well'"),
        (b'{"layout": 2, "job": "a-s0-1", "status": "done"}', "lacks 'training'"),
        (b'{"layout": 2, "job": "a-s0-1", "status": "failed"}', "lacks 'message'"),
    ],
)
def test_a_damaged_record_is_neither_a_job_nor_the_lack_of_one(tmp_path: Path, content: bytes, reason: str) -> None:
    store = Store(tmp_path)
    save(store)
    (store.jobs / JOB / "job.json").write_bytes(content)
    record = store.record(JOB)
    assert record is not None
    assert (record["status"], record["message"]) == ("damaged", f"job.json {reason}")
    assert is_damaged(record)
    assert not is_done(record)


@pytest.mark.parametrize("key", [key for key in done_record("a", [0, 1]) if key != "status"])
def test_a_done_record_without_one_of_its_fields_is_damaged(tmp_path: Path, key: str) -> None:
    store = Store(tmp_path)
    save(store)
    path = store.jobs / JOB / "job.json"
    whole = read_json(path) or {}
    for record in ({name: value for name, value in whole.items() if name != key}, whole | {key: None}, whole | {key: {}}):
        write_json(path, record)
        assert is_damaged(store.record(JOB)) or record[key] == whole[key] or key == "versions"


@pytest.mark.parametrize(
    "changes",
    [
        {"seeds": [0]}, {"seeds": [0, 1, 2]}, {"seeds": ["0", "1"]}, {"training": "b"}, {"seconds": float("nan")},
        {"diverged": {"0": "soon"}}, {"files": {}}, {"files": {"metrics.parquet": {}}}, {"files": []},
        {"config": {"dataset": {}, "model": {}}}, {"source": {}}, {"machine": {"processor": 3}},
    ],
)  # fmt: skip
def test_a_record_that_contradicts_itself_is_damaged(tmp_path: Path, changes: dict[str, Any]) -> None:
    store = Store(tmp_path)
    save(store)
    path = store.jobs / JOB / "job.json"
    write_json(path, (read_json(path) or {}) | changes)
    assert is_damaged(store.record(JOB))


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", DEEP, b"{}", b'{"layout": 3, "cells": []}',
    b'{"layout": 2, "cells": [{}]}', b'{"layout": 2, "cells": [{"training": "a", "jobs": ["../../x"], "fields": {}}]}',
    b'{"layout": 2, "cells": [{"training": "a", "jobs": ["b-s0-1"], "fields": {}}]}'])  # fmt: skip
def test_a_damaged_study_is_told_in_one_line(tmp_path: Path, content: bytes) -> None:
    store = Store(tmp_path)
    store.save_study("quick", {"cells": []})
    path = store.studies / "quick.json"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        store.study("quick")
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    assert text.endswith("; the study's own `bnstudy run` writes it again")
    assert "\n" not in text


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("code", [errno.EACCES, errno.EMFILE, errno.EIO])
def test_what_cannot_be_read_now_is_not_missing(
    tmp_path: Path, name: str, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    save(store)
    system = os.open

    def refusing(path: Any, *arguments: Any, **named: Any) -> int:
        if Path(path).name == name:
            raise OSError(code, os.strerror(code), str(path))
        return system(path, *arguments, **named)

    monkeypatch.setattr(os, "open", refusing)
    with pytest.raises(UserError, match=rf"^.*{name}: cannot be read \({os.strerror(code)}\); make it readable"):
        store.record(JOB)


def as_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "something").write_text("of the user's")


def as_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def as_loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def as_device(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("place", [as_folder, as_pipe, as_loop, as_device])
def test_something_else_in_place_of_a_file_is_damage_and_makes_room_for_another_try(
    tmp_path: Path, name: str, place: Callable[[Path], None]
) -> None:
    store = Store(tmp_path)
    save(store)
    place(store.jobs / JOB / name)
    record = store.record(JOB)
    assert is_damaged(record)
    store.make_room(JOB, record)
    assert store.record(JOB) is None
    save(store)
    assert is_done(store.record(JOB))
    assert len(list((store.root / "damaged" / f"{JOB}.1").iterdir())) == 4, "nothing of it is lost"


def test_a_file_or_a_link_in_place_of_a_jobs_folder_makes_room_too(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.jobs.mkdir()
    for number, place in enumerate((lambda path: path.write_text("x"), lambda path: path.symlink_to("nowhere")), 1):
        place(store.jobs / JOB)
        store.make_room(JOB, store.record(JOB))
        assert os.path.lexists(store.root / "damaged" / f"{JOB}.{number}")
    save(store)
    assert is_done(store.record(JOB))


@pytest.mark.parametrize(
    "record", [None, {}, {"status": "done"}, {"status": "failed", "layout": LAYOUT}, {"layout": LAYOUT}]
)
def test_only_a_done_record_of_this_layout_is_done(record: dict[str, object] | None) -> None:
    assert not is_done(record)
    assert is_done({"status": "done", "layout": LAYOUT})
    assert not is_done({"status": "done", "layout": LAYOUT + 1})


def damages(whole: bytes, other: bytes) -> Iterator[bytes | None]:
    """What a table's file may hold instead, and None for no file; the last ones at random."""
    yield from (None, b"", b"PAR1", b"no parquet at all" * 20, whole[:99], whole[: len(whole) // 2], whole + b"\0", other)
    yield whole[:-4] + b"1RAP"
    chance = random.Random(0)
    for _ in range(100):
        broken = bytearray(whole)
        if chance.random() < 0.3:
            del broken[chance.randrange(1, len(broken)) :]
        for _ in range(chance.randrange(1, 20)):
            broken[chance.randrange(len(broken))] ^= chance.randrange(1, 256)
        yield bytes(broken)


@pytest.mark.parametrize("name", NAMES)
def test_no_damage_to_a_table_goes_unnoticed(tmp_path: Path, name: str) -> None:
    store, elsewhere = Store(tmp_path / "store"), tmp_path / "other.parquet"
    save(store)
    TABLE.assign(job="b-s0-1").to_parquet(elsewhere, index=False)
    path = store.jobs / JOB / f"{name}.parquet"
    whole = path.read_bytes()
    for content in damages(whole, elsewhere.read_bytes()):
        path.unlink() if content is None else path.write_bytes(content)
        if content == whole:
            continue
        record = store.record(JOB)
        assert is_damaged(record)
        assert str((record or {})["message"]).startswith(f"{path.name} ")
        with pytest.raises(UserError) as caught:
            store.table(JOB, name, read_json(store.jobs / JOB / "job.json"))
        text = str(caught.value)
        assert text.startswith(f"{path}: ")
        assert text.endswith(f"; remove the folder {path.parent} and run the study again")
        assert "\n" not in text
        path.write_bytes(whole)


@pytest.mark.parametrize("name", NAMES)
def test_of_a_store_without_digests_gross_damage_is_noticed_and_a_sound_job_is_done(tmp_path: Path, name: str) -> None:
    store, elsewhere = Store(tmp_path / "store"), tmp_path / "other.parquet"
    save(store)
    without_digests(store)
    assert is_done(store.record(JOB))
    assert_frame_equal(store.table(JOB, name), TABLE)
    TABLE.assign(job="b-s0-1").to_parquet(elsewhere, index=False)
    path = store.jobs / JOB / f"{name}.parquet"
    whole = path.read_bytes()
    for content in itertools.islice(damages(whole, elsewhere.read_bytes()), 9):
        path.unlink() if content is None else path.write_bytes(content)
        if content != whole + b"\0":
            assert is_damaged(store.record(JOB)), content
        path.write_bytes(whole)


def test_a_store_from_before_the_probes_needs_no_table_of_them(tmp_path: Path) -> None:
    store = Store(tmp_path)
    config = {key: value for key, value in done_record("a", [0])["config"].items() if key != "probe_batches"}
    save(store, config=config)
    without_digests(store)
    (store.jobs / JOB / "layers.parquet").unlink()
    assert is_done(store.record(JOB))


@pytest.mark.parametrize(
    "rows", [TABLE.assign(job="b-s0-1"), TABLE.drop(columns="job"), TABLE.assign(seed=[0, 7]), TABLE[:1], TABLE[:0]]
)
def test_metrics_of_other_jobs_or_seeds_are_refused_whatever_the_digest_says(tmp_path: Path, rows: pd.DataFrame) -> None:
    store = Store(tmp_path)
    store.save(JOB, {"metrics": rows, "folds": TABLE, "layers": TABLE}, done_record("a", [0, 1]))
    with pytest.raises(UserError, match="; remove the folder"):
        store.table(JOB, "metrics")


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
