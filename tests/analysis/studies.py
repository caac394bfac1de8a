"""Real tiny studies for the tables' tests: planned, run in this process, and written down."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path

from bnstudy.batchnorm.conventions import CONVENTIONS
from bnstudy.sweeps.config import Config
from bnstudy.sweeps.identity import training_id
from bnstudy.sweeps.job import run_job
from bnstudy.sweeps.plan import Effort, cell_fields, make_plan
from bnstudy.sweeps.store import Store
from tests.tiny import tiny

SOURCE = {"bnstudy": "0.1.0", "commit": "a" * 40, "dirty": True}


def run_study(root: Path, configs: Sequence[Config], name: str = "tiny", size: int = 2) -> Store:
    """Run every job of some cells and record the study."""
    store = Store(root)
    names = {training_id(config) for config in configs}
    plan = make_plan(configs, store, dict.fromkeys(names, Effort(size, 1, 1.0)))
    for job in plan.missing:
        assert run_job(job, str(root), SOURCE).status == "done"
    cells = [{"training": cell.training, "jobs": cell.jobs, "fields": cell_fields(cell)} for cell in plan.cells]
    study = dataclasses.asdict(configs[0].study) | {"question": "Which one?"}
    store.save_study(name, {"command": "bnstudy run +experiments=tiny", "study_fields": study, "cells": cells})
    return store


def tiny_study(root: Path) -> Store:
    """Digits MLP, four conventions, batch sizes 2 and 8, three seeds in blocks of two, two epochs."""
    cells = itertools.product((2, 8), CONVENTIONS)
    return run_study(root, [tiny(name, batch_size=size, model__depth=1) for size, name in cells])
