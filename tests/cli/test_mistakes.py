"""Every mistake a user can make in `bnstudy run`: one or two clear lines, exit code 2, no traceback, nothing written."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Command, files_under

MISTAKES = {
    "unknown key": (["batchsize=3"], ["batchsize", "batch_size"]),
    "unknown nested key": (["optimizer.lrr=3"], ["optimizer.lrr", "optimizer.lr"]),
    "unknown key in a sweep": (["-m", "modl=mlp,resnet8"], ["modl", "model"]),
    "wrong type": (["batch_size=abc"], ["batch_size", "abc", "whole number"]),
    "wrong type in a sweep": (["-m", "batch_size=2,x"], ["batch_size", "x", "whole number"]),
    "unknown model": (["model=foo"], ["model", "foo", "resnet8"]),
    "unknown model in a sweep": (["-m", "model=mlp,resnet9"], ["model", "resnet9", "resnet8"]),
    "unknown data set": (["dataset=foo"], ["dataset", "foo", "digits"]),
    "unknown convention": (["variance=foo"], ["variance", "foo", "consistent_biased", "karpathy"]),
    "unknown pair": (["variance.normalize=foo"], ["variance", "foo", "biased"]),
    "unknown experiment": (["+experiments=nope"], ["experiments", "nope", "quick"]),
    "one value per channel": (["batch_size=1"], ["batch_size", "1", "mlp", "2 or more"]),
    "a last batch of one": (
        ["drop_last=false", "batch_size=359", "dataset.train_size=360"],
        ["drop_last", "last batch of 1", "359", "drop_last=true"],
    ),
    "batch larger than the training set": (["batch_size=5000"], ["batch_size", "5000", "1437"]),
    "negative number of seeds": (["seeds=-1"], ["seeds", "-1"]),
    "negative seed": (["seeds=[1,-2]"], ["seeds", "-2"]),
    "a seed twice": (["seeds=[1,1]"], ["seeds", "different"]),
    "missing data": (["dataset=mnist"], ["dataset.root", "train-images-idx3-ubyte", "MNIST", "dataset.download=true"]),
    "impossible ResNet depth": (["model=resnet8", "model.depth=9"], ["model.depth", "9", "6n+2"]),
    "subset larger than the data": (["dataset.train_size=9999"], ["dataset.train_size", "9999", "1437"]),
    "no epochs": (["epochs=0"], ["epochs", "0"]),
    "momentum above 1": (["momentum=2"], ["momentum", "2", "≤ 1"]),
    "a key twice": (["model=mlp", "model=resnet8"], ["model", "twice"]),
    "no override": (["foo"], ["foo", "key=value"]),
    "unknown device": (["device=tpu"], ["device", "tpu", "cuda"]),
    "unwritable output folder": (["output_dir=/proc/nothing"], ["output_dir", "/proc/nothing"]),
    "output folder is a file": (["output_dir=/dev/null"], ["output_dir", "/dev/null"]),
    "unwritable results folder": (["results_dir=/proc/nothing"], ["results_dir", "/proc/nothing"]),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_told_in_a_line_or_two_and_writes_nothing(name: str, bnstudy: Command, tmp_path: Path) -> None:
    arguments, expected = MISTAKES[name]
    done = bnstudy("run", *arguments)
    said = done.stderr.strip()
    assert done.returncode == 2, done.stderr
    assert 1 <= len(said.splitlines()) <= 2, said
    assert "Traceback" not in done.stdout + done.stderr
    for word in expected:
        assert word in said
    assert done.stdout == ""
    assert files_under(tmp_path) == []


def test_predict_refuses_a_batch_of_one(bnstudy: Command) -> None:
    done = bnstudy("predict", "--batch-size", "1")
    assert done.returncode == 2
    assert done.stderr.strip() == "m: 1 value has no unbiased variance; use 2 or more"


def test_report_of_an_unknown_study_says_so(bnstudy: Command, tmp_path: Path) -> None:
    done = bnstudy("report", "nothing")
    assert done.returncode == 2
    assert "nothing: no study of that name" in done.stderr
    assert files_under(tmp_path) == []
