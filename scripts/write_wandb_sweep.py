"""Write conf/wandb_sweep.yaml, the W&B sweep over an experiment's axes: scripts/write_wandb_sweep.py [EXPERIMENT]."""

from __future__ import annotations

import sys
from pathlib import Path

from bnstudy.errors import UserError
from bnstudy.tracking import sweep_yaml


def main() -> None:
    """Write the file for the experiment that is named, else for `quick`."""
    path = Path(__file__).resolve().parent.parent / "conf" / "wandb_sweep.yaml"
    try:
        path.write_text(sweep_yaml(sys.argv[1] if len(sys.argv) > 1 else "quick"))
    except UserError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
