"""`bnstudy translate` and `bnstudy audit` as they are typed: a mistake gets one line and exit code 2 and writes nothing."""

from __future__ import annotations

import sys

import pytest
import torch
import yaml
from torch import nn

from bnstudy.batchnorm.conventions import CONVENTIONS
from bnstudy.cli import main

AS_TRAINED = ("--source", "torch", "--target", "flax", "--as-trained")
INFERENCE = ("--source", "torch", "--target", "flax", "--keep", "inference")


@pytest.fixture
def bnstudy(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["bnstudy", *arguments])
        with pytest.raises(SystemExit) as done:
            main()
        return (done.value.code or 0, *capsys.readouterr())

    return call


def weights(**changes: torch.Tensor) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 4), nn.BatchNorm1d(4))
    for _ in range(6):
        model(torch.randn(8, 3))
    torch.save(model.state_dict() | {key.replace("_", ".", 1): value for key, value in changes.items()}, "in.pt")


def test_numbers_and_keys_of_yaml_1_2_are_taken_as_they_are_meant(bnstudy, tmp_path):
    weights()
    (tmp_path / "in.batchnorm.yaml").write_text("eps: 1e-3\nmomentum: 1E-1\n")
    (tmp_path / "m.yaml").write_text("1: 64\n4: 8\n")
    code, out, err = bnstudy("translate", "in.pt", "out.pt", *AS_TRAINED, "--per-layer", "m.yaml")
    assert (code, err) == (0, "")
    assert "2 BatchNorm layers" in out
    written = yaml.safe_load((tmp_path / "out.batchnorm.yaml").read_text())
    assert (written["eps"], written["values"]) == (1e-3, {"1": 64, "4": 8})


MISTAKES = {
    "a folder as IN": ((".", "out.pt"), "IN: '' has no known suffix"),
    "a folder as OUT": (("in.pt", ".."), "OUT: '..' has no known suffix"),
    "a folder with a suffix": (("in.pt", "folder.pt"), "OUT: folder.pt is a folder"),
    "momentum that is no number": (("in.pt", "out.pt", "--momentum", "nan"), "momentum nan is no weight"),
    "momentum of nothing": (("in.pt", "out.pt", "--momentum", "0"), "momentum 0.0 is no weight"),
    "ε that is no number": (("in.pt", "out.pt", "--eps", "nan"), "eps: nan is no ε"),
    "an infinite ε": (("in.pt", "out.pt", "--eps", "inf"), "eps: inf is no ε"),
    "a superscript": (("in.pt", "out.pt", "--batch-size", "²"), "batch_size: '²' is no number of samples"),
    "a long source": (("in.pt", "out.pt", "--source", "x" * 10_000), "is no framework or convention"),
    "an unreadable file": (("in.pt", "out.pt", "--per-layer", "folder.pt"), "folder.pt: cannot be read as a text"),
    "nested aliases": (("in.pt", "out.pt", "--per-layer", "laughs.yaml"), "laughs.yaml: its aliases stand for"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_gets_one_line_exit_code_2_and_writes_nothing(case, bnstudy, tmp_path):
    arguments, message = MISTAKES[case]
    weights()
    (tmp_path / "folder.pt").mkdir()
    lines = ["l0: &l0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 9)}]" for i in range(1, 12)]
    (tmp_path / "laughs.yaml").write_text("\n".join(lines))
    before = sorted(tmp_path.iterdir())
    check(bnstudy("translate", *AS_TRAINED, "--batch-size", "8", *arguments), message)
    assert sorted(tmp_path.iterdir()) == before


SETTINGS = {
    "eps: [1, 2]": "eps [1, 2] is no ε",
    "eps: {'1': tiny}": "eps {'1': 'tiny'} is no ε",
    "eps: .nan": "eps nan is no ε",
    "momentum: .nan": "momentum nan is no weight",
    "momentum: [0.1]": "momentum [0.1] is no weight",
    "batch_size: {a: 1}": "batch_size {'a': 1} is no number of samples",
    "batch_size: -8": "batch_size -8 is no number of samples",
    "steps: true": "steps True is no number of batches",
    "steps: 1e3": "steps 1000.0 is no number of batches",
    "convention: [torch]": "convention ['torch'] is no name",
    "values: 8": "values 8 is no mapping",
    "values: {'1': [8, [9]], '4': 8}": "layer '1' has [8, [9]]",
    "values: {'1': [0, 4], '4': 8}": "layer '1' has [0, 4]",
    f"values: {{'1': {'9' * 40}, '4': 8}}": "use a whole number m, or [H, W]",
    "eps: &a [*a]": "an alias stands for itself",
}


@pytest.mark.parametrize("text", SETTINGS)
def test_settings_of_a_wrong_kind_get_one_line(text, bnstudy, tmp_path):
    weights()
    (tmp_path / "in.batchnorm.yaml").write_text(text)
    check(bnstudy("translate", "in.pt", "out.pt", *AS_TRAINED), SETTINGS[text])
    assert not (tmp_path / "out.pt").exists()


NAN, WIDE = float("nan"), {"1_running_var": torch.full((4,), 6e4, dtype=torch.float16)}
STATISTICS = {
    "NaN variances": ({"1_running_var": torch.tensor([1, NAN, 1, 1])}, INFERENCE, "holds nan in 1 of 4 channels"),
    "negative variances": ({"4_running_var": torch.tensor([1, -0.5, -2, 1])}, INFERENCE, "holds -0.5 in 2 of 4 channels"),
    "infinite variances": ({"4_running_var": torch.full((4,), torch.inf)}, AS_TRAINED, "finite and not negative"),
    "NaN means": ({"1_running_mean": torch.full((4,), NAN)}, INFERENCE, "'1.running_mean' holds nan in 4 of 4"),
    "a negative count": ({"1_num_batches_tracked": torch.tensor(-1)}, INFERENCE, "holds -1; one count of batches"),
    "counts by channel": ({"1_num_batches_tracked": torch.ones(4)}, INFERENCE, "one count of batches expected"),
    "variances that overflow": (
        WIDE | {f"1_{word}": torch.ones(4, dtype=torch.float16) for word in ("running_mean", "weight", "bias")},
        ("--source", "flax", "--target", "torch", "--as-trained", "--steps", "6"),
        "'1.running_var' rescaled does not fit into float16",
    ),
}


@pytest.mark.parametrize("case", STATISTICS)
def test_statistics_that_no_training_leaves_are_refused(case, bnstudy, tmp_path):
    changes, options, message = STATISTICS[case]
    weights(**changes)
    counted = () if "--steps" not in options else ("--momentum", "0.1")
    options = tuple(word for word in options if word not in ("--steps", "6"))
    check(bnstudy("translate", "in.pt", "out.pt", *options, "--batch-size", "8", *counted), message)
    assert not (tmp_path / "out.pt").exists()


@pytest.mark.skipif("total" not in CONVENTIONS, reason="the convention is not there yet")
@pytest.mark.parametrize("goal", [("--as-trained",), ("--keep", "training")])
@pytest.mark.parametrize("pair", [("total", "flax"), ("torch", "total"), ("paper", "total")])
def test_the_total_variance_comes_from_data_and_from_no_factor(pair, goal, bnstudy):
    weights()
    options = ("--source", pair[0], "--target", pair[1], "--batch-size", "8", "--eps", "1e-5", "--momentum", "0.1")
    message = "'total' stores E[s²] + Var(mean of a batch), and no factor leads to it"
    check(bnstudy("translate", "in.pt", "out.pt", *options, *goal), message)
    code, _, _ = bnstudy("translate", "in.pt", "out.pt", *options[:4], "--eps", "1e-5", "--keep", "inference")
    assert code == 0
    before, after = (torch.load(name, weights_only=True) for name in ("in.pt", "out.pt"))
    assert all(torch.equal(after[key], value) for key, value in before.items())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("torch", "--results-dir", "/dev/null"), "results_dir: /dev/null is a file; name a folder"),
        (("torch", "--results-dir", "file/deeper"), "/file is a file; name a folder"),
        (("torch", "--results-dir", "x" * 300), "cannot be used (File name too long)"),
        (("--results-dir", "file", "--timeout", "nan"), "timeout: nan s is no time limit"),
        (("[/x]",), "names: '[/x]' is no audited layer or framework"),
    ],
)
def test_an_audit_that_cannot_be_written_is_refused_before_it_measures(arguments, message, bnstudy, tmp_path):
    (tmp_path / "file").write_text("")
    check(bnstudy("audit", *arguments), message)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def check(done: tuple[int, str, str], message: str) -> None:
    code, out, err = done
    assert message in err
    assert (code, out) == (2, "")
    assert len(err.strip().splitlines()) == 1
    assert len(err) < 400
