"""Plant every fault in trained networks, ask `bnstudy.diagnose` what it is, and write the page docs/gallery.md.

    python scripts/diagnosis_gallery.py                      10 draws of each fault in each network
    python scripts/diagnosis_gallery.py --workers 2          the same in two processes of one thread each
    python scripts/diagnosis_gallery.py --draws 3 --models mlp --only frozen,reset --out FOLDER

A draw of all faults takes 10 s for the MLP and 90 s for the ResNet on one core.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

# Before torch is loaded: its thread pools read them once.
os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

import torch

from bnstudy.errors import UserError
from bnstudy.sweeps.provenance import machine, source_state, versions
from scripts.gallery.networks import KINDS_OF_MODEL
from scripts.gallery.page import write
from scripts.gallery.run import EVERYTHING, run_gallery


def main() -> int:
    """Run what was asked for and say which files hold it; exit code 2 for what cannot be run."""
    parser = argparse.ArgumentParser(description="Plant faults in trained networks and diagnose them.")
    parser.add_argument("--draws", type=int, default=10, help="of each fault and network (default: %(default)s)")
    parser.add_argument("--models", default=",".join(KINDS_OF_MODEL), help="networks (default: %(default)s)")
    parser.add_argument("--only", default=",".join(EVERYTHING), help="faults, separated by commas (default: all)")
    parser.add_argument("--workers", type=int, default=1, help="processes (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the first draw (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("docs"), help="folder (default: %(default)s)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    begun = time.monotonic()
    try:
        gallery = run_gallery(
            arguments.draws,
            arguments.models.split(","),
            arguments.only.split(","),
            workers=arguments.workers,
            seed=arguments.seed,
            progress=lambda done, total: print(f"\r{done} of {total} diagnoses", end="", file=sys.stderr),
        )
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    print(file=sys.stderr)
    asked = [f"--{key} {vars(arguments)[key]}" for key in ("draws", "models", "workers", "seed")]
    if arguments.only != parser.get_default("only"):
        asked.append(f"--only {arguments.only}")
    conditions = {
        "command": f"python scripts/diagnosis_gallery.py {' '.join(asked)}",
        "seeds": f"{arguments.seed} to {arguments.seed + arguments.draws - 1}, one a draw",
        "duration": f"{(time.monotonic() - begun) / 60:.0f} min, {arguments.workers} processes of one thread",
        "machine": ", ".join(f"{key} {value}" for key, value in machine().items()),
        "versions": ", ".join(f"{package} {version}" for package, version in versions().items()),
        "source": ", ".join(f"{key} {value}" for key, value in source_state().items()),
    }
    for file in write(gallery, conditions, arguments.out):
        print(f"wrote {file}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
