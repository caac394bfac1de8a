"""Where conf/ and experiments/ are: beside the package in a checkout, inside it in an installed wheel."""

from __future__ import annotations

from pathlib import Path


def config_folder() -> Path:
    """The folder `conf`, with the experiments as its group `experiments`.

    Raises:
        FileNotFoundError: the installation is damaged.
    """
    package = Path(__file__).resolve().parent
    for folder in (package.parent / "conf", package / "_assets" / "conf"):
        if (folder / "config.yaml").is_file():
            return folder
    raise FileNotFoundError(f"no conf/config.yaml beside {package} or in it: install bnstudy again")
