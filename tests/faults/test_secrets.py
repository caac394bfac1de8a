"""Secrets of twenty shapes, planted wherever a study takes a text: no byte of what it writes or prints has them."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

NETWORK = """\
import math
import os

from torch import nn


class Network(nn.Module):
    def __init__(self, features, outputs, fails):
        super().__init__()
        self.fails = fails
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(features, 8), nn.BatchNorm1d(8), nn.Linear(8, outputs))

    def forward(self, x):
        if self.training and self.fails and len(x) == 16:
            raise RuntimeError("cannot reach the store: " + os.environ["SHAPES"] + " " + os.environ["MINE_TOKEN"])
        return self.layers(x)


def build(input_shape, outputs, fails=True, token="", headers=None):
    return Network(math.prod(input_shape), outputs, fails)
"""
SHAPES = (
    "Authorization: Bearer {}", "Authorization: Basic {}==", "curl --token {}", "curl --api-key={}", "password={}",
    "https://user:{}@host/path", "https://{}@host/path", "passwd: {}", '{{"secret": "{}"}}', "AWS_SECRET_ACCESS_KEY={}",
    "ghp_{}", "sk-{}", "wandb login {}", "hf_{}", "api_key = '{}'", "client_secret={}",
)  # fmt: skip


def contents(folder: Path) -> bytes:
    """Every byte of a folder, names too, and the tables as they are read."""
    found = []
    for path in sorted(folder.rglob("*")):
        found.append(str(path.relative_to(folder)).encode(errors="surrogateescape"))
        if path.is_file():
            found.append(path.read_bytes())
            if path.suffix == ".parquet":
                found.append(pd.read_parquet(path).to_csv().encode())
    return b"\n".join(found)


@pytest.mark.slow
def test_no_secret_is_written_or_printed(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(NETWORK)
    planted = {shape: secrets.token_hex(16) for shape in (*SHAPES, "environment", "factory argument", "headers", "question")}
    assert len(planted) == 20
    variables = {
        "SHAPES": "; ".join(shape.format(planted[shape]) for shape in SHAPES),
        "MINE_TOKEN": planted["environment"],
        "OMP_NUM_THREADS": "1",
    }
    program = Path(sys.executable).parent / "bnstudy"
    command = [
        *(str(program), "run", "-m", "name=small", "model=import", "model.factory=mine:build", "variance=paper,karpathy"),
        *("batch_size=8,16", "seeds=2", "epochs=1", "dataset.train_size=104", "dataset.test_size=40", "tracking=offline"),
        f"+model.args.token={planted['factory argument']}",
        f"+model.args.headers={{Authorization: 'Bearer {planted['headers']}'}}",
        f"study.question='What does password={planted['question']} change?'",
    ]
    environment = os.environ | variables
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert "cannot reach the store" in done.stderr, done.stdout + done.stderr
    status = [str(program), "status", "small"]
    again = subprocess.run(status, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    for folder in ("outputs", "results"):
        assert list((tmp_path / folder).rglob("*"))
    assert list((tmp_path / "outputs").rglob("*.wandb"))
    said = (done.stdout + done.stderr + again.stdout + again.stderr).encode()
    written = contents(tmp_path / "outputs") + contents(tmp_path / "results")
    assert b"cannot reach the store" in written
    leaks = {shape: (value.encode() in said, value.encode() in written) for shape, value in planted.items()}
    assert not [shape for shape, (printed, kept) in leaks.items() if printed or kept], leaks
