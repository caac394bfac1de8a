"""What a user supplies by name: called as often as needed, and told apart from what cannot be used."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from bnstudy.diagnosis.batches import Source
from bnstudy.diagnosis.supplied import batches_named, device_named, metric_named
from bnstudy.errors import UserError

CPU = torch.device("cpu")
MODULE = """
import torch
calls = []
def listed():
    calls.append("listed")
    return [torch.ones(2, 3)] * 4
def streamed():
    calls.append("streamed")
    return iter([torch.ones(2, 3)] * 5)
def breaking():
    yield torch.ones(2, 3)
    raise OSError("disk on fire")
"""


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    (tmp_path / "given_here.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    import importlib

    sys.path.insert(0, str(tmp_path))
    yield importlib.import_module("given_here").calls
    del sys.modules["given_here"]


def test_a_list_is_asked_for_once_and_counted_beforehand(calls: list[str]) -> None:
    source = Source(batches_named("--data", "given_here:listed"), "batches", CPU)
    assert source.expected == 4
    assert [len(list(source)) for _ in range(3)] == [4, 4, 4]
    assert calls == ["listed"]


def test_an_iterator_is_asked_for_in_every_pass_and_counted_by_the_first(calls: list[str]) -> None:
    source = Source(batches_named("--data", "given_here:streamed"), "batches", CPU)
    assert source.expected is None
    assert [len(list(source)) for _ in range(3)] == [5, 5, 5]
    assert source.expected == 5
    assert len(calls) == 4


def test_an_exception_between_batches_names_the_option_and_the_line(calls: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        list(Source(batches_named("--held-out", "given_here:breaking"), "held_out", CPU))
    said = "held_out: reading a batch fails (OSError: disk on fire (given_here.py, line 12)); readable batches expected"
    assert str(caught.value) == said


def test_metrics_and_devices_go_by_name(calls: list[str]) -> None:
    assert metric_named(None) is None
    assert metric_named("loss") == "loss"
    named = metric_named("given_here:listed")
    assert isinstance(named, dict)
    assert list(named) == ["listed"]
    assert device_named("cpu") == CPU
    assert device_named("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_told() -> None:
    with pytest.raises(UserError, match=r"^--device: 'cuda' is not there; use cpu or auto$"):
        device_named("cuda")
