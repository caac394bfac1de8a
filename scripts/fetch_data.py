"""Put a published data set where torchvision looks for it, from a Debian mirror.

    python scripts/fetch_data.py fashion_mnist            into data/, 31 MB to download, 55 MB on disk
    python scripts/fetch_data.py fashion_mnist --root DIR

Debian packages Fashion-MNIST only; the other sets, and other machines, use dataset.download=true.
"""

from __future__ import annotations

import argparse
import sys

from bnstudy.errors import UserError
from bnstudy.training.config import DatasetConfig
from bnstudy.training.debian import fetch_fashion_mnist


def main() -> int:
    """Fetch what is missing and say what was done; exit code 2 when it cannot be had."""
    parser = argparse.ArgumentParser(description="Fetch a data set that Debian packages, into torchvision's layout.")
    parser.add_argument("name", help="the data set: fashion_mnist")
    parser.add_argument("--root", default=DatasetConfig.root, help="folder for data sets (default: %(default)s)")
    arguments = parser.parse_args()
    try:
        if arguments.name != "fashion_mnist":
            raise UserError(f"name: '{arguments.name}' is not in Debian; use fashion_mnist, or dataset.download=true")
        written = fetch_fashion_mnist(arguments.root)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    for path in written:
        print(f"wrote {path}")
    if not written:
        print(f"fashion_mnist is complete in {arguments.root}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
