"""What an experiment saw of one BatchNorm layer: plain arrays, and how they travel between processes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True)
class Run:
    """A fresh layer fed T batches of one shape in training mode, evaluated after each.

    Args:
        argument: what the layer was built with as momentum; None where it was left at its default.
        inputs, outputs: training batches and what came back, shape (T, N, C, H, W).
        means, variances: what the layer stores before the first batch and after each, shape (T+1, C).
        probes, evaluations: input and output in evaluation mode after each batch, shape (T, N, C, H, W).
        gain, shift: γ and β, shape (C,).
    """

    argument: float | None
    inputs: Array
    outputs: Array
    means: Array
    variances: Array
    probes: Array
    evaluations: Array
    gain: Array
    shift: Array


@dataclass(frozen=True)
class Written:
    """A layer whose stored statistics were overwritten and which was then called in either mode.

    Args:
        mean, variance: what was written, shape (C,).
        probe, evaluation: input and output in evaluation mode, shape (N, C, H, W).
        training: output for the same input in training mode afterwards.
    """

    mean: Array
    variance: Array
    probe: Array
    evaluation: Array
    training: Array


@dataclass(frozen=True)
class Single:
    """A fresh layer fed one value per channel (m = 1) in training mode.

    Args:
        error: "Type: first line" of what it raised, or None.
        input, output: shape (1, C, 1, 1); the output is NaN where it raised.
        before, after: stored variances, shape (C,); NaN where it raised.
    """

    error: str | None
    input: Array
    output: Array
    before: Array
    after: Array


@dataclass(frozen=True)
class Observations:
    """Everything `identify` may look at.

    Args:
        main: five batches at the default momentum.
        other: two batches of another shape, so that m and N are told apart.
        momenta: three batches each, at given momentum arguments; empty for a layer without such an argument.
        default: the momentum argument's own default; None where it has none.
        written: see `Written`; None for a layer whose statistics cannot be written.
        single: see `Single`.
    """

    main: Run
    other: Run
    momenta: tuple[Run, ...]
    default: float | None
    written: Written | None
    single: Single

    def save(self, path: Path) -> None:
        """Write to a .npz file that holds arrays and one JSON text, no pickles."""
        runs = {"main": self.main, "other": self.other, **{f"momenta{i}": run for i, run in enumerate(self.momenta)}}
        parts: dict[str, Any] = {**runs, "written": self.written, "single": self.single}
        arrays: dict[str, Array] = {}
        texts: dict[str, Any] = {"default": self.default, "momenta": len(self.momenta)}
        for part, record in parts.items():
            for field, value in vars(record).items() if record is not None else ():
                if isinstance(value, np.ndarray):
                    arrays[f"{part}.{field}"] = value
                else:
                    texts[f"{part}.{field}"] = value
        arrays["texts"] = np.array(json.dumps(texts))
        with path.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)

    @classmethod
    def load(cls, path: Path) -> Observations:
        """Read what `save` wrote.

        Raises:
            ValueError, KeyError: the file is not of that form.
        """
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        texts = json.loads(str(arrays.pop("texts")))

        def fields(part: str) -> dict[str, Any]:
            return {
                name.removeprefix(f"{part}."): value
                for source in (arrays, texts)
                for name, value in source.items()
                if name.startswith(f"{part}.")
            }

        return cls(
            main=Run(**fields("main")),
            other=Run(**fields("other")),
            momenta=tuple(Run(**fields(f"momenta{i}")) for i in range(texts["momenta"])),
            default=texts["default"],
            written=Written(**written) if (written := fields("written")) else None,
            single=Single(**fields("single")),
        )
