"""The translate command on real files: what it writes, and that mistakes leave nothing behind."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from bnstudy.errors import UserError
from bnstudy.frameworks.translate.command import translate
from bnstudy.frameworks.translate.options import Options
from bnstudy.frameworks.translate.settings import Settings, dump, settings_of


def network() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    for _ in range(6):
        model(torch.randn(8, 3))
    return model


MODEL = network()
TRAINED = Options("torch", "flax", as_trained=True, batch_size=8)


@pytest.fixture
def weights(tmp_path) -> Path:
    path = tmp_path / "model.safetensors"
    save_file(MODEL.state_dict(), path, {"made by": "a test"})
    return path


@pytest.fixture
def torch_weights(tmp_path) -> Path:
    path = tmp_path / "model.pt"
    torch.save(MODEL.state_dict(), path)
    return path


def test_safetensors_keep_names_types_metadata_and_untouched_tensors(weights, tmp_path):
    out = tmp_path / "out.safetensors"
    translate(weights, out, TRAINED)
    before, after = MODEL.state_dict(), load_file(out)
    assert before.keys() == after.keys()
    for key, value in before.items():
        assert after[key].dtype == value.dtype
        assert torch.equal(after[key], value) == (not key.endswith("running_var"))
    w = 0.9**6
    expected = (before["1.running_var"].double() - w) * 7 / 8 + w
    torch.testing.assert_close(after["1.running_var"].double(), expected, rtol=1e-7, atol=0)
    with safe_open(out, framework="pt") as file:
        assert file.metadata() == {"made by": "a test"}


def test_settings_are_written_beside_the_weights_and_read_on_the_way_back(weights, tmp_path):
    out, back = tmp_path / "out.safetensors", tmp_path / "back.safetensors"
    said = translate(weights, out, TRAINED)
    settings = yaml.safe_load((tmp_path / "out.batchnorm.yaml").read_text())
    assert settings == {
        "convention": "flax",
        "eps": 1e-5,
        "momentum": 0.1,
        "batch_size": 8,
        "values": {"1": 8, "4": 8},
    }
    assert any("torch's default" in line for line in said)  # an assumed ε is said aloud
    translate(out, back, Options("flax", "torch", as_trained=True))  # m, momentum and ε come from the settings
    for key, value in load_file(back).items():
        torch.testing.assert_close(value, MODEL.state_dict()[key], rtol=3e-7, atol=0)


def test_settings_beside_the_input_are_used_and_carried_on(weights, tmp_path):
    settings = replace(settings_of(MODEL), eps={"1": 1e-3, "4": 1e-5})
    (tmp_path / "model.batchnorm.yaml").write_text(dump(settings, weights.name))
    translate(weights, tmp_path / "out.pt", Options("torch", "keras", keep="inference"))
    written = yaml.safe_load((tmp_path / "out.batchnorm.yaml").read_text())
    assert written["eps"] == {"1": 1e-3, "4": 1e-5}
    assert written["momentum"] == 0.1


def test_what_the_target_must_be_built_with_is_said(weights, tmp_path):
    said = translate(weights, tmp_path / "out.pt", Options("torch", "keras", as_trained=True, batch_size=8))
    assert "build the target's layers with ε 1e-05: keras's default is 0.001" in said
    assert any("with momentum 0.9, the weight of the old value in keras" in line for line in said)
    said = translate(weights, tmp_path / "same.pt", Options("torch", "tinygrad", keep="inference"))
    assert not any(line.startswith("build") for line in said)


def test_an_eps_that_the_target_cannot_have_goes_into_the_gain(weights, tmp_path):
    out = tmp_path / "out.safetensors"
    translate(weights, out, Options("torch", "keras", keep="inference", target_eps=1e-3))
    other = network().eval()
    other.load_state_dict(load_file(out))
    other[1].eps = other[4].eps = 1e-3
    x = torch.randn(5, 3)
    torch.testing.assert_close(other(x), network().eval()(x), rtol=1e-5, atol=1e-6)


def test_a_torch_checkpoint_keeps_what_else_it_holds_and_its_optimizer_is_translated(tmp_path):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.randn(8, 3)).sum().backward()
    optimizer.step()
    file, out = tmp_path / "run.ckpt", tmp_path / "out.ckpt"
    state = model.state_dict()
    torch.save({"model": state, "optimizer": optimizer.state_dict(), "epoch": 3}, file)
    translate(file, out, Options("flax", "karpathy", keep="training", batch_size=8, eps=1e-5))
    after = torch.load(out, weights_only=True)
    assert after["epoch"] == 3
    torch.testing.assert_close(after["model"]["1.weight"], state["1.weight"] * (8 / 7) ** 0.5)
    assert [group["lr"] for group in after["optimizer"]["param_groups"]] == pytest.approx([0.1, 0.1 * 8 / 7])
    assert after["optimizer"]["param_groups"][1]["param_names"] == ["1.weight", "4.weight"]
    moment = after["optimizer"]["state"][2]["momentum_buffer"]
    torch.testing.assert_close(moment, optimizer.state_dict()["state"][2]["momentum_buffer"] / (8 / 7) ** 0.5)
    assert yaml.safe_load((tmp_path / "out.batchnorm.yaml").read_text())["eps"] == pytest.approx(1e-5 * 8 / 7)


def test_an_optimizer_in_a_file_of_its_own_is_translated(weights, tmp_path):
    named = tmp_path / "adam.pt"
    model = network()
    optimizer = torch.optim.AdamW(model.named_parameters(), lr=0.1)
    model(torch.randn(8, 3)).sum().backward()
    optimizer.step()
    torch.save(optimizer.state_dict(), named)
    options = Options("flax", "karpathy", keep="training", batch_size=8, optimizer=named, optimizer_out=tmp_path / "new.pt")
    translate(weights, tmp_path / "out.safetensors", options)
    after = torch.load(tmp_path / "new.pt", weights_only=True)
    assert after["param_groups"][1]["lr"] == pytest.approx(0.1 * (8 / 7) ** 0.5)


def test_spatial_sizes_and_a_file_of_layers_say_m(weights, tmp_path):
    per_layer = tmp_path / "m.yaml"
    per_layer.write_text("'1': 24\n'4': [3, 1]\n")
    translate(weights, tmp_path / "a.pt", replace(TRAINED, per_layer=per_layer))
    translate(weights, tmp_path / "b.pt", replace(TRAINED, spatial=(3, 1)))
    a, b = (torch.load(tmp_path / name, weights_only=True) for name in ("a.pt", "b.pt"))
    assert all(torch.equal(a[key], b[key]) for key in a)


def garbage(path: Path) -> None:
    path.write_bytes(b"this is no checkpoint")


def pickled_model(path: Path) -> None:
    torch.save(MODEL, path)


def without_batchnorm(path: Path) -> None:
    torch.save(nn.Linear(2, 2).state_dict(), path)


def convolutional(path: Path) -> None:
    torch.save(nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)).state_dict(), path)


def uneven(path: Path) -> None:
    torch.save(MODEL.state_dict() | {"1.running_mean": torch.zeros(5)}, path)


def two_states(path: Path) -> None:
    torch.save({"model": MODEL.state_dict(), "ema": MODEL.state_dict()}, path)


def a_list(path: Path) -> None:
    torch.save([1, 2], path)


def uncounted(path: Path) -> None:
    torch.save({key: value for key, value in MODEL.state_dict().items() if not key.endswith("tracked")}, path)


FILES = {
    "garbage": (garbage, "cannot be read as a torch file of tensors"),
    "a pickled model": (pickled_model, "cannot be read as a torch file of tensors"),
    "no BatchNorm": (without_batchnorm, "no BatchNorm buffers in it"),
    "convolutions": (convolutional, "give --spatial H W or --per-layer FILE"),
    "shapes": (uneven, "'1.running_mean' has shape (5,), '1.running_var' has (4,)"),
    "two states": (two_states, "entry: "),
    "a list": (a_list, "holds a list"),
    "no counter": (uncounted, "steps: layer '1' does not count its batches"),
}


@pytest.mark.parametrize("case", FILES)
def test_a_file_that_cannot_be_translated_gets_one_line_and_no_output(case, tmp_path):
    make, message = FILES[case]
    path = tmp_path / "in.pt"
    make(path)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UserError) as error:
        translate(path, tmp_path / "out.pt", TRAINED)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert sorted(tmp_path.iterdir()) == before


OPTIONS = {
    "unknown source": (replace(TRAINED, source="theano"), "source: 'theano' is no framework or convention"),
    "no goal": (Options("torch", "flax"), "goal: give exactly one of"),
    "two goals": (replace(TRAINED, keep="training"), "goal: give exactly one of"),
    "unknown goal": (Options("torch", "flax", keep="calm"), "keep: 'calm' is unknown"),
    "no m": (replace(TRAINED, batch_size=None), "batch_size: m, the values per channel in training, is unknown"),
    "m varied": (replace(TRAINED, batch_size="varying"), "batch_size: it was not constant in training"),
    "m is text": (replace(TRAINED, batch_size="eight"), "batch_size: 'eight' is no number of samples"),
    "m is one": (replace(TRAINED, batch_size=1), "batch_size: 1 values per channel"),
    "m is none": (replace(TRAINED, batch_size=0), "batch_size: 0 is no number of samples"),
    "momentum out of range": (replace(TRAINED, momentum=1.5), "momentum: momentum 1.5 is no weight of the new batch"),
    "momentum the other way round": (
        Options("flax", "torch", as_trained=True, batch_size=8, momentum=0.99),
        "flax's own momentum 0.99 is 0.01 here",
    ),
    "wrong momentum": (replace(TRAINED, momentum=1e-6), "check momentum and steps"),
    "wrong steps": (replace(TRAINED, steps=7), "steps: 7 was given but layer '1' counted 6"),
    "negative steps": (replace(TRAINED, steps=-1), "steps: -1 is no number of batches"),
    "no eps": (Options("paper", "flax", keep="inference"), "eps: 'paper' has no default ε"),
    "bad eps": (replace(TRAINED, eps=-1.0), "eps: -1.0 is no ε"),
    "folding where it cannot be": (replace(TRAINED, target_eps=1e-3), "for --keep inference only"),
    "spatial": (replace(TRAINED, spatial=(0, 3)), "spatial: (0, 3) must be positive"),
    "half an optimizer": (replace(TRAINED, optimizer=Path("adam.pt")), "give both --optimizer and --optimizer-out"),
    "an entry of a flat file": (replace(TRAINED, entry="model"), "entry: 'model' was given"),
    "no such per-layer file": (replace(TRAINED, per_layer=Path("nowhere.yaml")), "nowhere.yaml: there is no such file"),
}


@pytest.mark.parametrize("case", OPTIONS)
def test_options_that_make_no_sense_get_one_line_and_no_output(case, weights, tmp_path):
    options, message = OPTIONS[case]
    with pytest.raises(UserError) as error:
        translate(weights, tmp_path / "out.safetensors", options)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == [weights]


PER_LAYER = {
    "a stranger": ("'1': 8\n'4': 8\nfc: 8\n", "'fc' is no layer of the file"),
    "one missing": ("'1': 8\n", "layer '4' is missing"),
    "no number": ("'1': many\n'4': 8\n", "layer '1' has 'many'; use a whole number m, or [H, W]"),
    "a yes": ("'1': true\n'4': 8\n", "layer '1' has True"),
    "a list": ("- 8\n- 8\n", "holds no mapping"),
    "no YAML": ("'1: [\n", "cannot be read as YAML"),
    "too small": ("'1': 1\n'4': 8\n", "1 values per channel have no unbiased variance"),
}


@pytest.mark.parametrize("case", PER_LAYER)
def test_a_per_layer_file_that_does_not_fit_gets_one_line_and_no_output(case, weights, tmp_path):
    text, message = PER_LAYER[case]
    path = tmp_path / "m.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as error:
        translate(weights, tmp_path / "out.safetensors", replace(TRAINED, per_layer=path))
    assert message in str(error.value)
    assert sorted(tmp_path.iterdir()) == sorted([weights, path])


SETTINGS = {
    "unknown key": ("epsilon: 1.0e-5\n", "key 'epsilon' is unknown; use convention, eps"),
    "no ε": ("eps: tiny\n", "eps 'tiny' is no ε"),
    "no weight": ("momentum: 2\n", "momentum 2 is no weight of the new batch"),
    "another convention": ("convention: keras\n", "source: 'torch' contradicts"),
    "varying batches": ("batch_size: varying\n", "batch_size: it was not constant in training"),
    "no steps": ("steps: many\n", "steps 'many' is no number of batches"),
}


@pytest.mark.parametrize("case", SETTINGS)
def test_settings_beside_the_input_that_are_wrong_get_one_line_and_no_output(case, weights, tmp_path):
    text, message = SETTINGS[case]
    path = tmp_path / "model.batchnorm.yaml"
    path.write_text(text)
    options = replace(TRAINED, batch_size=None if case == "varying batches" else 8)
    with pytest.raises(UserError) as error:
        translate(weights, tmp_path / "out.safetensors", options)
    assert message in str(error.value)
    assert sorted(tmp_path.iterdir()) == sorted([weights, path])


def test_outputs_never_replace_an_input_or_an_existing_file_unasked(weights, tmp_path):
    out = tmp_path / "out.pt"
    with pytest.raises(UserError, match="is one of the inputs"):
        translate(weights, weights, replace(TRAINED, overwrite=True))
    with pytest.raises(UserError, match=r"has no known suffix; use \.safetensors, \.pt"):
        translate(weights, tmp_path / "out.h5", TRAINED)
    with pytest.raises(UserError, match="does not exist"):
        translate(weights, tmp_path / "nowhere" / "out.pt", TRAINED)
    with pytest.raises(UserError, match="is no file; name a checkpoint"):
        translate(tmp_path / "absent.pt", out, TRAINED)
    out.write_text("precious")
    with pytest.raises(UserError, match="exists; name another file"):
        translate(weights, out, TRAINED)
    assert out.read_text() == "precious"
    translate(weights, out, replace(TRAINED, overwrite=True))
    assert "1.running_var" in torch.load(out, weights_only=True)


def test_a_nested_checkpoint_does_not_fit_into_safetensors(tmp_path):
    file = tmp_path / "in.pt"
    torch.save({"model": MODEL.state_dict(), "epoch": 3}, file)
    with pytest.raises(UserError, match="safetensors holds one flat state"):
        translate(file, tmp_path / "out.safetensors", TRAINED)
    assert list(tmp_path.iterdir()) == [file]


def test_one_of_several_states_can_be_chosen(tmp_path):
    file, out = tmp_path / "in.pt", tmp_path / "out.pt"
    two_states(file)
    translate(file, out, replace(TRAINED, entry="ema"))
    after = torch.load(out, weights_only=True)
    assert torch.equal(after["model"]["1.running_var"], MODEL.state_dict()["1.running_var"])
    assert not torch.equal(after["ema"]["1.running_var"], MODEL.state_dict()["1.running_var"])


OPTIMIZERS = {
    "another kind": (lambda: torch.optim.RMSprop(MODEL.named_parameters()), "only torch's SGD, Adam and AdamW"),
    "no names": (lambda: torch.optim.SGD(MODEL.parameters()), "its parameters have no names"),
    "a stranger": (lambda: torch.optim.SGD([("9.weight", MODEL[1].weight)]), "parameter '9.weight' is not in the weights"),
}


@pytest.mark.parametrize("case", OPTIMIZERS)
def test_an_optimizer_that_cannot_be_translated_gets_one_line_and_no_output(case, weights, tmp_path):
    make, message = OPTIMIZERS[case]
    file = tmp_path / "optimizer.pt"
    torch.save(make().state_dict(), file)
    options = Options("flax", "karpathy", keep="training", batch_size=8, optimizer=file, optimizer_out=tmp_path / "new.pt")
    with pytest.raises(UserError) as error:
        translate(weights, tmp_path / "out.safetensors", options)
    assert message in str(error.value)
    assert sorted(tmp_path.iterdir()) == sorted([weights, file])


def test_an_optimizer_of_other_shapes_is_refused(weights, tmp_path):
    other = nn.Sequential(nn.Linear(3, 7), nn.BatchNorm1d(7))
    optimizer = torch.optim.Adam(other.named_parameters())
    other(torch.randn(4, 3)).sum().backward()
    optimizer.step()
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
    options = Options("flax", "karpathy", keep="training", batch_size=8)
    options = replace(options, optimizer=tmp_path / "optimizer.pt", optimizer_out=tmp_path / "new.pt")
    with pytest.raises(UserError, match=r"has shape .* they must be equal"):
        translate(weights, tmp_path / "out.safetensors", options)
    assert not (tmp_path / "out.safetensors").exists()


def test_settings_without_anything_known_are_an_empty_page():
    assert yaml.safe_load(dump(Settings(), "model.pt")) in ({}, None)
