"""The child process of the audit: `python -m bnstudy.frameworks.audit.child NAME FILE` measures one layer into a .npz file.

A framework gets a process of its own: some choose their backend once, some log at start-up, some cannot live beside others.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from bnstudy.frameworks.audit.experiment import observe
from bnstudy.frameworks.audit.registry import entries


def main(name: str, path: Path) -> None:
    """Measure the layer `name` and write its observations to `path`."""
    (entry,) = entries([name])
    adapter = importlib.import_module(f"bnstudy.frameworks.audit.adapters.{entry.module}")
    observe(adapter.subject(entry.name)).save(path)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
