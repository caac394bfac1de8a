"""Measure what the layer, the loop, stacked seeds and whole sweeps cost, and write results/benchmark.

    python scripts/benchmark.py all                    everything, about 12 min on a quiet machine
    python scripts/benchmark.py layer                  the layer against torch's own and against plain tensor operations
    python scripts/benchmark.py loop                   the training loop against a bare one, alone and with replicas
    python scripts/benchmark.py grouping               what stacking gains, by model, batch and input size
    python scripts/benchmark.py sweep                  a sweep against Lightning and a DataLoader loop (extra `bench`), 7 min
    python scripts/benchmark.py sweep --device cuda    the same with 1 to 512 replicas on a GPU
    python scripts/benchmark.py layer --rounds 10      a quick look

One thread, CPU time of the process: other programs disturb it through the caches only, but the quieter the better. On a GPU,
and for a job's overhead and planning, it is wall time.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shlex
import sys
from functools import partial
from pathlib import Path

# Before torch is loaded: its thread pools read them once.
os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

import torch

from bnstudy.sweeps.provenance import machine, source_state, versions
from bnstudy.sweeps.worker import prepare_process
from scripts.benchmark.grouping import benchmark_grouping
from scripts.benchmark.layer import benchmark_layer
from scripts.benchmark.loop import benchmark_loop
from scripts.benchmark.report import write
from scripts.benchmark.sweep import benchmark_replicas, benchmark_sweep

# In this order: the layer is measured under the C library's own allocator, as in anybody's program, the others under a study
# worker's, and there is no way back.
BENCHMARKS = {
    "layer": (benchmark_layer, 100),
    "loop": (benchmark_loop, 15),
    "grouping": (benchmark_grouping, 5),
    "sweep": (benchmark_sweep, 12),
}


def main() -> int:
    """Run what was asked for, print each page and say which files hold it; exit code 2 when they cannot be written."""
    parser = argparse.ArgumentParser(description="Measure what the layer, the loop, stacked seeds and whole sweeps cost.")
    parser.add_argument("what", choices=[*BENCHMARKS, "all"])
    parser.add_argument("--rounds", type=int, help="interleaved rounds (default: 100, 15, 5 and 12)")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="cuda: only for `sweep`, with replicas")
    parser.add_argument("--most", type=int, default=512, help="replicas on a GPU at most (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("results/benchmark"), help="folder (default: %(default)s)")
    arguments = parser.parse_args()
    if arguments.rounds is not None and arguments.rounds < 1:
        parser.error(f"--rounds: {arguments.rounds} measures nothing; use 1 or more")
    if arguments.most < 1:
        parser.error(f"--most: {arguments.most} trains nothing; use 1 or more")
    if arguments.device == "cuda" and arguments.what != "sweep":
        parser.error(f"--device: cuda is for `sweep`, not for `{arguments.what}`; use cpu")
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device: cuda is not there; use cpu")
    if arguments.what in ("sweep", "all") and importlib.util.find_spec("lightning") is None:
        parser.error("sweep needs the package lightning; install bnstudy[bench]")
    try:
        arguments.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"--out: {arguments.out} cannot be made ({error.strerror}); use a folder that can be written")
    torch.set_num_threads(1)
    load = os.getloadavg()[0]
    for name in BENCHMARKS if arguments.what == "all" else (arguments.what,):
        measure, rounds = BENCHMARKS[name]
        if arguments.device == "cuda":
            measure = partial(benchmark_replicas, device="cuda", most=arguments.most)
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
