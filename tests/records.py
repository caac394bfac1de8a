"""Records of jobs as the store keeps them, without training anything."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import pandas as pd

from bnstudy.sweeps.store import Store
from tests.tiny import tiny

SOURCE = {"bnstudy": "0", "commit": None, "dirty": None}


def done_record(training: str, seeds: Sequence[int], **changes: Any) -> dict[str, Any]:
    """What a done job says of itself; `changes` by key."""
    return {
        "training": training,
        "seeds": list(seeds),
        "status": "done",
        "steps": 26,
        "seconds": 1.0,
        "threads": 1,
        "diverged": {},
        "unstable": [],
        "config": dataclasses.asdict(tiny()),
        "source": SOURCE,
        "versions": {"python": "3"},
        "machine": {"processor": "?", "cores": 2, "system": "Linux"},
    } | changes


def save_done(store: Store, job: str, seeds: Sequence[int], **changes: Any) -> None:
    """Put a done job into a store whose tables hold a row a seed."""
    rows = pd.DataFrame({"job": job, "seed": list(seeds), "value": 0.5})
    tables = {"metrics": rows, "folds": rows, "layers": rows}
    store.save(job, tables, done_record(job.split("-")[0], seeds, **changes))
