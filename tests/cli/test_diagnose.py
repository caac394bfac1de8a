"""`bnstudy diagnose` as users run it: their own module, their own weights, what is said and what is written."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn

from bnstudy import cli
from bnstudy.diagnosis.bar import announcement
from tests.cli.conftest import Command, files_under

MODULE = """
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(),
                         nn.Linear(32, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 10))

def dataset():
    inputs, targets = load_digits(return_X_y=True)
    x = (inputs - inputs.mean(0)) / (inputs.std(0) + 1e-3)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(1))
    return torch.tensor(x, dtype=torch.float32)[order], torch.tensor(targets)[order]

def batches():
    x, y = dataset()
    for part in torch.arange(len(x)).split(8):
        if len(part) == 8:
            yield x[part], y[part]

def loader():
    return DataLoader(TensorDataset(*dataset()), 8, shuffle=True, drop_last=True)

def shifted():
    return [(x * 3 + 2, y) for x, y in batches()]

def margin(outputs, targets):
    best = outputs.topk(2).values
    return best[:, 0] - best[:, 1]

def plain(): return nn.Linear(64, 10)
def number(): return 3
def failing(): raise RuntimeError("no such bucket\\nsecond line")
def empty(): return []
def ones():
    x, y = dataset()
    return [(x[:1], y[:1])]
def infinite():
    x, y = dataset()
    return [(x[:8] * float("inf"), y[:8])]
def breaking():
    yield from [(x, y) for x, y in batches()][:3]
    raise OSError("disk on fire")
def broken():
    network = model()
    network[0].weight.data[0] = float("nan")
    return network
def wrong_shape(): return [(torch.ones(8, 3), torch.zeros(8, dtype=torch.long))]
def bad_metric(outputs, targets): raise ValueError("what is this?")
def interrupted():
    yield from [(x, y) for x, y in batches()][:3]
    raise KeyboardInterrupt
class NotOne: pass
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a module, and weights trained by it: in good order, with lost statistics, and ported from Flax."""
    folder = tmp_path_factory.mktemp("mine")
    (folder / "mine.py").write_text(MODULE)
    space: dict[str, Callable[..., object]] = {}
    exec(MODULE, space)
    mine = SimpleNamespace(**space)
    for convention, name in (("paper", "good"), ("flax", "ported")):
        model: nn.Sequential = mine.model()
        if convention != "paper":
            import bnstudy

            model[1], model[4] = (bnstudy.BatchNorm1d(32, convention=convention) for _ in range(2))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
        for _ in range(3):
            for inputs, targets in mine.batches():
                optimizer.zero_grad()
                F.cross_entropy(model(inputs), targets).backward()
                optimizer.step()
                for group in optimizer.param_groups:
                    group["lr"] *= 0.995
        state = model.state_dict()
        torch.save({"epoch": 3, "model": state}, folder / f"{name}.pt")
        if name == "good":
            save_file(state, folder / "good.safetensors")
            lost = {key: value for key, value in state.items() if "running" not in key and "tracked" not in key}
            torch.save({"model": lost}, folder / "lost.pt")
            spoilt = {key: value + 2 if key.endswith("running_mean") else value for key, value in state.items()}
            torch.save({"epoch": 3, "model": spoilt}, folder / "spoilt.pt")
    return folder


@pytest.fixture
def here(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A fresh folder with the same content, which is the current one."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    sys.modules.pop("mine", None)
    yield tmp_path
    sys.modules.pop("mine", None)


@pytest.fixture
def call(here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., SimpleNamespace]:
    """Run `bnstudy diagnose ARGUMENTS` in this process: its exit code and what it says."""

    def run(*arguments: str) -> SimpleNamespace:
        monkeypatch.setattr(sys, "argv", ["bnstudy", "diagnose", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        captured = capsys.readouterr()
        return SimpleNamespace(code=ended.value.code or 0, out=captured.out, err=captured.err)

    return run


Call = Callable[..., SimpleNamespace]
GOOD = ("--model", "mine:model", "--data", "mine:batches", "--weights", "good.pt")
QUICK = (*GOOD[:-1], "spoilt.pt", "--batches", "40", "--swap-batches", "0", "--device", "cpu")


def test_a_healthy_model_is_told_so_by_a_process_of_its_own(here: Path, bnstudy: Command) -> None:
    before = files_under(here)
    done = bnstudy("diagnose", *GOOD, "--fail")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "Healthy" in done.stdout
    assert [name for name in files_under(here) if "__pycache__" not in name] == before


def test_lost_buffers_are_found_and_with_recalibrated_ones_evaluation_is_as_good_as_training(call: Call, here: Path) -> None:
    shown = ("--model", "mine:model", "--data", "mine:loader")
    first = call(*shown, "--weights", "lost.pt", "--entry", "model", "--recalibrate", "new.pt", "--fail")
    assert first.code == 1, first.err
    assert "note: lost.pt lacks 4 BatchNorm buffers" in first.err
    assert "Statistics never updated" in first.out
    assert "--recalibrate: 2 layers recalibrated; in evaluation mode, on 112 held-out batches:" in first.out
    assert "written: new.pt" in first.out
    again = call(*shown, "--weights", "new.pt", "--json", "--fail")
    assert again.code == 0, again.err
    assert "note:" not in again.err
    levels = {(row["metric"], row["condition"]): row["value"] for row in json.loads(again.out)["levels"]}
    assert levels["accuracy", "own"] > levels["accuracy", "batch"] - 0.01


def test_a_ported_checkpoint_is_translated_and_all_else_in_the_file_kept(call: Call, here: Path) -> None:
    done = call(
        "--model", "mine:model", "--data", "mine:batches", "--weights", "ported.pt", "--translate", "new.pt", "--anyway"
    )
    assert done.code == 0, done.err
    assert "Wrong variance convention" in done.out
    assert "--translate: 2 layers translated from 'consistent_biased'" in done.out
    old, new = (torch.load(here / name, weights_only=True) for name in ("ported.pt", "new.pt"))
    assert new["epoch"] == 3
    for key, value in new["model"].items():
        factor = 8 / 7 if key.endswith("running_var") else 1
        torch.testing.assert_close(value, old["model"][key] * factor)


def test_remedies_differ_by_layer(call: Call, here: Path) -> None:
    done = call(
        *QUICK, "--recalibrate", "new.pt", "--remedy", "*=keep", "--remedy", "4=recalibrate", "--held-out", "mine:loader",
        "--anyway",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "1 layer recalibrated and 1 layer kept; in evaluation mode, on 224 held-out batches" in done.out
    old, new = (torch.load(here / name, weights_only=True)["model"] for name in ("spoilt.pt", "new.pt"))
    changed = {key for key in new if not torch.equal(old[key], new[key])}
    assert changed == {"4.running_mean", "4.running_var"}


def test_safetensors_and_models_without_a_file_are_written_too(call: Call, here: Path) -> None:
    done = call(*GOOD[:-1], "good.safetensors", *QUICK[6:], "--recalibrate", "new.safetensors", "--anyway")
    assert done.code == 0, done.err
    assert load_file(here / "new.safetensors").keys() == load_file(here / "good.safetensors").keys()
    done = call(*GOOD[:4], *QUICK[6:], "--recalibrate", "fresh.pt", "--anyway")
    assert done.code == 0, done.err
    assert torch.load(here / "fresh.pt", weights_only=True).keys() == load_file(here / "good.safetensors").keys()


def test_a_harmful_remedy_is_not_written_unless_anyway(call: Call, here: Path) -> None:
    harmful = (*GOOD[:3], "mine:shifted", *GOOD[4:], *QUICK[6:], "--held-out", "mine:batches", "--recalibrate", "new.pt")
    done = call(*harmful)
    assert done.code == 1
    assert done.out.strip().splitlines()[-1].startswith("--recalibrate: new.pt is not written, since ")
    assert not (here / "new.pt").exists()
    done = call(*harmful, "--anyway")
    assert done.code == 0, done.err
    assert (here / "new.pt").exists()


def test_an_existing_file_is_replaced_only_on_request(call: Call, here: Path) -> None:
    (here / "new.pt").write_text("mine")
    done = call(*QUICK, "--recalibrate", "new.pt")
    assert (done.code, done.out) == (2, "")
    assert done.err == "--recalibrate: new.pt exists; name another file, or give --overwrite\n"
    assert (here / "new.pt").read_text() == "mine"
    assert call(*QUICK, "--recalibrate", "new.pt", "--overwrite").code == 0
    assert torch.load(here / "new.pt", weights_only=True)["epoch"] == 3


def test_json_goes_to_standard_output_alone_and_a_folder_takes_a_page(call: Call, here: Path) -> None:
    done = call(*QUICK, "--json", "--out", "told", "--recalibrate", "new.pt", "--evaluation-data", "mine:loader")
    assert done.code == 0, done.err
    told = json.loads(done.out)
    assert told["setting"]["batches"] == 40
    assert told["setting"]["command"].startswith("bnstudy diagnose --model mine:model")
    (remedied,) = told["setting"]["remedies"]
    assert remedied["file"] == "new.pt"
    assert remedied["written"] is True
    assert {row["metric"] for row in remedied["gains"]} == {"accuracy", "loss"}
    assert files_under(here / "told") == ["diagnosis.html", "diagnosis.json"]
    assert json.loads((here / "told" / "diagnosis.json").read_text()) == told
    assert "written: new.pt" in done.err


def test_a_metric_and_its_direction_are_the_users_own(call: Call) -> None:
    done = call(*QUICK, "--metric", "mine:margin", "--higher-is-better", "--json")
    assert done.code == 0, done.err
    told = json.loads(done.out)["setting"]
    assert (told["metric"], told["direction"]) == ("margin", "higher")


def test_swaps_are_limited_by_patterns_and_batches(call: Call) -> None:
    done = call(*GOOD, "--batches", "40", "--swap-batches", "3", "--swap-layer", "4", "--seed", "1", "--json")
    assert done.code == 0, done.err
    told = json.loads(done.out)["setting"]
    assert (told["swap_passes"], told["seed"]) == (6, 1)


def test_an_interruption_is_one_line_and_leaves_nothing(call: Call, here: Path) -> None:
    before = files_under(here)
    done = call(*GOOD[:3], "mine:interrupted", *GOOD[4:], "--out", "told", "--recalibrate", "new.pt")
    assert (done.code, done.err) == (130, "interrupted; nothing was written\n")
    assert files_under(here) == before


def test_the_cost_of_swaps_is_announced_in_passes_and_time() -> None:
    assert announcement("swapping 53 layers on 2 batches", 108, 0.324) == (
        "swapping 53 layers on 2 batches: 108 forward passes, about 35 s"
    )
    assert announcement("swapping 53 layers on 2 batches", 1080, 0.324).endswith("1,080 forward passes, about 6 min")
    assert announcement("swapping 1 layer on 1 batch", 2, None) == "swapping 1 layer on 1 batch: 2 forward passes"


MISTAKES = {
    "no BatchNorm": (["--model", "mine:plain"], "--model: Linear has no BatchNorm layer"),
    "no module": (
        ["--model", "mine:number"],
        "--model: 'mine:number' returns something of type int; a torch.nn.Module expected",
    ),
    "a failing factory": (
        ["--model", "mine:failing"],
        "--model: 'mine:failing' raises RuntimeError: no such bucket (mine.py, line",
    ),
    "an unknown module": (["--model", "yours:model"], "--model: there is no module 'yours'"),
    "an unknown function": (
        ["--model", "mine:modell"],
        "--model: 'mine:modell' is not there; mine has no 'modell'; did you mean model?",
    ),
    "no function": (["--model", "mine"], "--model: 'mine' has not the form pkg.module:function"),
    "an empty loader": (["--data", "mine:empty"], "--data: there is no batch in it"),
    "batches of one": (["--data", "mine:ones"], "--data: a batch of 1 leaves a layer one value per channel"),
    "inputs that are not finite": (["--data", "mine:infinite"], "--data: batch 1 has inputs that are not finite"),
    "inputs of another shape": (["--data", "mine:wrong_shape"], "--data: the model fails on inputs of shape (8, 3)"),
    "no batches": (
        ["--data", "mine:number"],
        "--data: 'mine:number' returns something of type int; an iterable of batches expected",
    ),
    "a failing loader": (
        ["--data", "mine:breaking"],
        "--data: reading a batch fails (OSError: disk on fire (mine.py, line ",
    ),
    "outputs that are not finite": (["--model", "mine:broken"], "--model: its outputs for batch 1"),
    "a metric that raises": (
        ["--metric", "mine:bad_metric"],
        "--metric: 'bad_metric' fails on outputs of shape (8, 10) (ValueError",
    ),
    "an unknown metric": (
        ["--metric", "f1"],
        "--metric: 'f1' is unknown; use accuracy, loss, bce, mse, output_rms, or pkg.module",
    ),
    "missing weights": (["--weights", "nothing.pt"], "--weights: nothing.pt is no file"),
    "an unknown suffix": (["--weights", "mine.py"], "--weights: 'mine.py' has no known suffix"),
    "unreadable weights": (["--weights", "damaged.pt"], "--weights: damaged.pt cannot be read as a torch file"),
    "an unknown entry": (["--weights", "good.pt", "--entry", "ema"], "--entry: 'ema' is no mapping in good.pt"),
    "an entry of nothing": (["--entry", "ema"], "--entry: it is the key of a state in --weights, which is not given"),
    "no such device": (["--device", "tpu"], "--device: 'tpu' is unknown; use auto, cpu, cuda"),
    "no batch": (["--batches", "0"], "--batches: 0 leaves no batch"),
    "no number of swaps": (["--swap-batches", "-1"], "--swap-batches: -1 is no number of batches"),
    "no layer to swap": (["--swap-layer", "head.*"], "--swap-layer: head.* fits no layer"),
    "held-out batches for nothing": (["--held-out", "mine:batches"], "--held-out: it measures what a remedy gains"),
    "a choice of nothing": (["--remedy", "4=keep"], "--remedy: it changes what is done to some layers"),
    "an unknown choice": (["--remedy", "4=mend", "--recalibrate", "new.pt"], "--remedy: '4=mend' is no PATTERN=CHOICE"),
    "an unknown layer": (["--remedy", "9=keep", "--recalibrate", "new.pt"], "--remedy: '9' fits no layer with stored"),
    "everything kept": (["--remedy", "*=keep", "--recalibrate", "new.pt"], "--remedy: every layer is kept"),
    "nothing to translate": (
        ["--translate", "new.pt", "--weights", "good.pt"],
        "--translate: what the layers store speaks for no",
    ),
    "an unknown source": (
        ["--translate", "new.pt", "--source", "fortran"],
        "--source: 'fortran' is no framework or convention",
    ),
    "one file twice": (
        ["--translate", "new.pt", "--recalibrate", "new.pt"],
        "--translate: new.pt is the file of --recalibrate too",
    ),
    "no such folder": (["--recalibrate", "a/new.pt"], "--recalibrate: folder a does not exist"),
    "a file as folder": (["--out", "mine.py"], "--out: mine.py cannot be made or written to"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_and_writes_nothing(name: str, call: Call, here: Path) -> None:
    given, said = MISTAKES[name]
    (here / "damaged.pt").write_bytes(b"PK not a checkpoint")
    before = files_under(here)
    arguments = {"--model": "mine:model", "--data": "mine:batches", "--batches": "40", "--swap-batches": "1"}
    pairs = list(zip(given[::2], given[1::2], strict=True))
    rest = [part for key, value in arguments.items() if key not in dict(pairs) for part in (key, value)]
    done = call(*rest, *given)
    assert done.code == 2, done.out + done.err
    lines = done.err.strip().splitlines()
    assert len(lines) == 1, done.err
    assert lines[0].startswith(said), done.err
    assert files_under(here) == before


def test_a_missing_option_is_told_by_its_name(call: Call) -> None:
    done = call("--model", "mine:model")
    assert done.code == 2
    assert "--data" in done.err
