"""Measure what the layer, the loop and stacked seeds cost, and write results/benchmark.

    python scripts/benchmark.py all                    everything, about 5 min on a quiet machine
    python scripts/benchmark.py layer                  the layer against torch's own and against plain tensor operations
    python scripts/benchmark.py loop                   the training loop against a bare one, alone and with replicas
    python scripts/benchmark.py grouping               what stacking gains, by model, batch and input size
    python scripts/benchmark.py layer --rounds 10      a quick look

One thread, CPU time of the process: other programs disturb it through the caches only, but the quieter the better.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from pathlib import Path

# Before torch is loaded: its thread pools read them once.
os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

import torch

from bnstudy.benchmarks.grouping import benchmark_grouping
from bnstudy.benchmarks.layer import benchmark_layer
from bnstudy.benchmarks.loop import benchmark_loop
from bnstudy.benchmarks.report import write
from bnstudy.sweeps.provenance import machine, source_state, versions
from bnstudy.sweeps.worker import prepare_process

# In this order: the layer is measured under the C library's own allocator, as in anybody's program, the others under a study
# worker's, and there is no way back.
BENCHMARKS = {"layer": (benchmark_layer, 100), "loop": (benchmark_loop, 15), "grouping": (benchmark_grouping, 5)}


def main() -> int:
    """Run what was asked for, print each page and say which files hold it; exit code 2 when they cannot be written."""
    parser = argparse.ArgumentParser(description="Measure what the layer, the loop and stacked seeds cost.")
    parser.add_argument("what", choices=[*BENCHMARKS, "all"])
    parser.add_argument("--rounds", type=int, help="interleaved rounds (default: 100, 15 and 5)")
    parser.add_argument("--out", type=Path, default=Path("results/benchmark"), help="folder (default: %(default)s)")
    arguments = parser.parse_args()
    if arguments.rounds is not None and arguments.rounds < 1:
        parser.error(f"--rounds: {arguments.rounds} measures nothing; use 1 or more")
    try:
        arguments.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"--out: {arguments.out} cannot be made ({error.strerror}); use a folder that can be written")
    torch.set_num_threads(1)
    load = os.getloadavg()[0]
    for name in BENCHMARKS if arguments.what == "all" else (arguments.what,):
        measure, rounds = BENCHMARKS[name]
        if name != "layer":
            prepare_process(threads=1)
        found = measure(arguments.rounds or rounds)
        conditions = {
            "command": shlex.join(["python", *sys.argv]),
            "machine": ", ".join(f"{key} {value}" for key, value in machine().items()),
            "load before": f"{load:.1f} processes ready to run",
            "versions": ", ".join(f"{package} {version}" for package, version in versions().items()),
            "source": ", ".join(f"{key} {value}" for key, value in source_state().items()),
            "allocator": "the C library's"
            if name == "layer"
            else "the C library's, told to keep freed memory (a study's worker)",
        }
        for file in write(found, conditions, arguments.out):
            print(f"wrote {file}")
            if file.suffix == ".md":
                print(file.read_text(encoding="utf-8"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
