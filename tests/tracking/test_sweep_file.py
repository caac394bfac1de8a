"""The W&B sweep: valid to W&B's schema, and a call of `bnstudy run` as an agent would make it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml
from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

from bnstudy.errors import UserError
from bnstudy.tracking.sweep_file import sweep_config, sweep_yaml

ROOT = Path(__file__).resolve().parents[2]
# From the package `sweeps` 0.3.0, which wandb[sweeps] installs and which needs numpy < 2 (MIT licence, beside it).
SCHEMA = json.loads((Path(__file__).parent / "schemas" / "wandb_sweep.json").read_text())
EXPERIMENTS = sorted(path.stem for path in (ROOT / "experiments").glob("*.yaml"))


def swept() -> list[str]:
    """Experiments that have axes besides the convention."""
    found = []
    for name in EXPERIMENTS:
        axes = yaml.safe_load((ROOT / "experiments" / f"{name}.yaml").read_text())["hydra"]["sweeper"]["params"]
        if set(axes) - {"variance"}:
            found.append(name)
    return found


@pytest.mark.parametrize("experiment", swept())
def test_every_experiment_gives_a_sweep_that_wandbs_schema_accepts(experiment: str) -> None:
    config = sweep_config(experiment)
    jsonschema.Draft7Validator(SCHEMA).validate(config)
    assert yaml.safe_load(sweep_yaml(experiment)) == config


def test_the_schema_does_refuse() -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft7Validator(SCHEMA).validate(sweep_config("quick") | {"method": "guess"})


def test_the_file_in_conf_is_that_of_the_quick_experiment() -> None:
    assert (ROOT / "conf" / "wandb_sweep.yaml").read_text() == sweep_yaml("quick")


def test_an_agent_calls_bnstudy_run_with_overrides_that_it_takes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from bnstudy import commands

    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("WANDB_RUN_ID", "k3v9x0ab")  # as the agent names each call
    config = sweep_config("quick")
    given = {key: {"value": axis["values"][-1]} for key, axis in config["parameters"].items()}
    overrides = create_sweep_command_args({"args": given})["args_no_hyphens"]  # as wandb's agent fills them in
    program, command, *arguments = config["command"]
    assert (program, command, arguments.pop()) == ("bnstudy", "run", "${args_no_hyphens}")
    commands.show_cell([*arguments, *overrides, "seeds=1"], resolve=True)
    shown = yaml.safe_load(capsys.readouterr().out)
    assert (shown["name"], shown["model"]["name"], shown["batch_size"]) == ("quick_sweep_k3v9x0ab", "resnet8", 64)


@pytest.mark.slow
def test_each_agents_call_has_a_record_of_its_own_and_the_experiment_finds_the_jobs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from bnstudy import commands

    monkeypatch.chdir(ROOT)
    tiny = ["seeds=2", "model.width=8", "model.depth=1", "epochs=1", "dataset.train_size=200", "dataset.test_size=100"]
    tiny += [f"output_dir={tmp_path}", f"results_dir={tmp_path / 'results'}", "tracking=disabled", "report=false"]
    _, _, *arguments, _ = sweep_config("quick")["command"]
    for run, size in (("first", 4), ("second", 16)):
        monkeypatch.setenv("WANDB_RUN_ID", run)
        assert commands.run([*arguments, "model=mlp", f"batch_size={size}", *tiny]) == 0
    studies = {path.stem: json.loads(path.read_text())["cells"] for path in (tmp_path / "studies").glob("*.json")}
    sizes = {name: {cell["fields"]["batch_size"] for cell in cells} for name, cells in studies.items()}
    assert sizes == {"quick_sweep_first": {4}, "quick_sweep_second": {16}}
    capsys.readouterr()
    assert commands.plan(["+experiments=quick", "model=mlp", "batch_size=4,16", *tiny]) == 0
    assert "10 cells, 4 jobs: 4 done, 0 missing" in capsys.readouterr().out


WITHOUT_METRIC = """\
# @package _global_
{defaults}
name: mine
hydra:
  mode: MULTIRUN
  sweeper:
    params: {axes}
"""


@pytest.mark.parametrize(
    ("defaults", "axes", "metric"),
    [
        ("defaults: [{override /dataset: diabetes}]", "{batch_size: '2,4'}", "r2"),
        ("", "{dataset: 'friedman1,diabetes', batch_size: '2,4'}", "r2"),
        ("", "{batch_size: '2,4'}", "accuracy"),
        ("", "{dataset: 'diabetes,digits'}", "accuracy"),
    ],
)
def test_without_a_declared_metric_the_sweep_optimises_the_tasks_primary_one(
    tmp_path: Path, defaults: str, axes: str, metric: str
) -> None:
    for folder in ("bnstudy", "scripts"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    conf = shutil.copytree(ROOT / "conf", tmp_path / "conf")
    (conf / "experiments" / "mine.yaml").write_text(WITHOUT_METRIC.format(defaults=defaults, axes=axes))
    command = [sys.executable, str(tmp_path / "scripts" / "write_wandb_sweep.py"), "mine"]
    subprocess.run(command, env=os.environ | {"PYTHONPATH": str(tmp_path)}, check=True)
    written = yaml.safe_load((conf / "wandb_sweep.yaml").read_text())
    assert written["metric"] == {"name": f"test/eval_mode/{metric}", "goal": "maximize"}


def test_an_unknown_experiment_is_named() -> None:
    with pytest.raises(UserError, match=r"experiments: 'nothing' is unknown; use .*quick"):
        sweep_config("nothing")
