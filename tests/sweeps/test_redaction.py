"""Secrets stay out of what is recorded, and nothing else does."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import pytest

from bnstudy.sweeps.job import run_job
from bnstudy.sweeps.provenance import command_line
from bnstudy.sweeps.redaction import redacted, redacted_fields
from bnstudy.sweeps.store import Store
from tests.records import SOURCE
from tests.sweeps.test_job import job_of

KEY = "0123456789abcdef" * 2 + "01234567"


@pytest.mark.parametrize(
    "text",
    [
        f"export WANDB_API_KEY={KEY}",
        f'export WANDB_API_KEY="{KEY}"; module load cuda',
        f"engine.options={{export:WANDB_API_KEY={KEY}}}",
        f"engine.options={{api_key: {KEY}}}",
        f"engine.setup=[export HF_TOKEN={KEY}, module load x]",
        f"MY_PASSWORD='{KEY}' command --db-password={KEY}",
        f"wandb login --relogin {KEY}",
        f"export WANDB_BASE_URL=https://user:{KEY}@wandb.example.org/",
        f"http://{KEY}@host:8080/x",
    ],
)
def test_a_secret_goes_wherever_it_is_written(text: str) -> None:
    assert KEY not in redacted(text)
    assert redacted(redacted(text)) == redacted(text)


def test_what_stands_around_a_secret_stays() -> None:
    assert redacted(f"export WANDB_API_KEY={KEY}; module load cuda") == "export WANDB_API_KEY=…; module load cuda"
    assert redacted(f"https://me:{KEY}@wandb.example.org/x") == "https://…@wandb.example.org/x"


@pytest.mark.parametrize(
    "text",
    [
        "bnstudy run -m +experiments=quick batch_size=2,4,8 model.norm=batch optimizer.betas=[0.9,0.999]",
        "engine.options={account:lab,qos:high} engine.setup=[module load cuda/12.1]",
        "engine.address=10.0.0.7:6379 dataset.root=/data/user@lab",
        "f6a5b4c3d2e1-s0-7",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redacted(text) == text


def test_the_key_of_the_environment_goes_wherever_it_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    assert redacted(f"name={KEY} x") == "name=… x"
    monkeypatch.setenv("WANDB_API_KEY", "")
    assert redacted("name=run") == "name=run"


def test_fields_of_a_secrets_name_go_whole_and_numbers_stay() -> None:
    fields = {"options": {"api-token": "x y", "nodes": 2, "export": f"A_TOKEN={KEY}"}, "setup": [f"SECRET={KEY}", "true"]}
    expected = {"options": {"api-token": "…", "nodes": 2, "export": "A_TOKEN=…"}, "setup": ["SECRET=…", "true"]}
    assert redacted_fields(fields) == expected


def test_the_recorded_command_has_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["bnstudy", "run", f"engine.setup=[export WANDB_API_KEY={KEY}]", "seeds=2"])
    assert command_line() == "bnstudy run 'engine.setup=[export WANDB_API_KEY=…]' seeds=2"


def test_a_jobs_record_has_no_key_and_the_job_itself_has(tmp_path: Path) -> None:
    job = job_of(engine__setup=[f"export WANDB_API_KEY={KEY}"], engine__options={"export": f"WANDB_API_KEY={KEY}"})
    assert run_job(job, str(tmp_path), SOURCE).status == "done"
    record = Store(tmp_path).record(job.id)
    assert record is not None
    assert KEY not in json.dumps(record)
    assert record["config"]["engine"]["setup"] == ["export WANDB_API_KEY=…"]
    assert KEY in str(dataclasses.asdict(job.config))
