"""What the columns of every table are; checked by pandera on the way in and on the way out."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
import pandera.pandas as pa
from pandera.errors import SchemaError, SchemaErrors

from bnstudy.batchnorm.conventions import CONVENTIONS, MATCHED_STATISTICS, STATISTICS
from bnstudy.errors import UserError

CELL = ("dataset", "model", "norm", "normalize", "batch_size")
"""Columns that name a training in every table; whatever else varies in a study follows them."""
METRICS = ("accuracy", "loss", "ece", "r2", "mse")
TERMS = ("bessel", "lag", "pooling", "noise")
_SPLITS = ["train", "test"]

_UNIT = pa.Check.in_range(0, 1)
_COLUMNS: dict[str, tuple[type, list[pa.Check], bool, str]] = {
    "job": (str, [], False, "job that measured the row"),
    "training": (str, [], False, "training that the job is a block of"),
    "dataset": (str, [], False, "data set"),
    "model": (str, [], False, "model"),
    "norm": (str, [], False, "normalisation layer: batch, or a baseline (group, layer, none)"),
    "normalize": (str, [pa.Check.isin(["biased", "unbiased"])], False, "variance that normalised the training batches"),
    "batch_size": (int, [pa.Check.ge(1)], False, "samples a step"),
    "convention": (str, [pa.Check.isin([*CONVENTIONS, "none"])], False, "variance convention; none for a baseline"),
    "seed": (int, [pa.Check.ge(0)], False, "seed of the run"),
    "epoch": (int, [pa.Check.ge(1)], False, "epochs done, from 1"),
    "split": (str, [pa.Check.isin(_SPLITS)], False, "split measured on"),
    "statistic": (
        str,
        [pa.Check.isin([*STATISTICS, *MATCHED_STATISTICS, "online", "none"])],
        False,
        "statistic that normalised: see DESIGN, section 2; matched_ is k·v; online: training batches as they went by",
    ),
    "reference": (str, [pa.Check.isin(STATISTICS)], False, "statistic compared with"),
    "n": (int, [pa.Check.ge(1)], False, "samples measured"),
    "accuracy": (float, [_UNIT], True, "share of samples classified rightly"),
    "loss": (float, [pa.Check.ge(0)], True, "mean cross-entropy, nats"),
    "ece": (float, [_UNIT], True, "calibration error, 15 bins, L1"),
    "r2": (float, [pa.Check.le(1)], True, "share of variance explained"),
    "mse": (float, [pa.Check.ge(0)], True, "mean squared error, in units of the standardised target"),
    "flip_rate": (float, [_UNIT], True, "share of samples whose predicted class differs from the reference's"),
    "rms_distance": (float, [pa.Check.ge(0)], True, "root mean square difference of outputs from the reference's"),
    "kl": (float, [pa.Check.ge(0)], True, "mean KL(reference ‖ prediction), nats"),
    "metric": (str, [pa.Check.isin(METRICS)], False, "metric that the row is about"),
    "gap": (float, [], True, "own − batch: the sum of the four terms"),
    "own": (float, [], True, "metric under the convention's own stored statistic"),
    "batch": (float, [], True, "metric under the batch's own statistics, as in training"),
    "bessel": (float, [], True, "own − k·ema_unbiased: the constant that the convention chose"),
    "lag": (float, [], True, "k·ema_unbiased − k·population_unbiased: lag and noise of the moving average"),
    "pooling": (float, [], True, "k·population_unbiased − k·population_pooled: variance of the batch means"),
    "noise": (float, [], True, "k·population_pooled − batch: what no constant can remove"),
    "train": (float, [], True, "metric on the training split"),
    "test": (float, [], True, "metric on the test split"),
    "quantity": (str, [pa.Check.isin(["own", "batch", "gap", *TERMS])], False, "what is averaged; see `gaps`"),
    "mean": (float, [], True, "mean over seeds"),
    "low": (float, [], True, "lower end of the 95 % t interval over seeds"),
    "high": (float, [], True, "upper end of the 95 % t interval over seeds"),
    "seeds": (int, [pa.Check.ge(0)], False, "seeds averaged; diverged ones are left out"),
    "diverged": (int, [pa.Check.ge(0)], False, "seeds that diverged"),
    "steps": (int, [pa.Check.ge(0)], False, "optimizer steps"),
    "seconds": (float, [pa.Check.ge(0)], False, "wall time of the job"),
    "first_seed": (int, [pa.Check.ge(0)], False, "smallest seed of the block"),
    "last_seed": (int, [pa.Check.ge(0)], False, "largest seed of the block"),
    "replicas": (int, [pa.Check.ge(1)], False, "seeds that trained as one module"),
}

TABLES: dict[str, tuple[str, ...]] = {
    "jobs": ("job", "training", *CELL, "first_seed", "last_seed", "replicas", "steps", "seconds", "diverged"),
    "metrics": ("job", *CELL, "seed", "epoch", "split", "statistic", "n"),
    "distances": ("job", *CELL, "seed", "split", "statistic", "reference", "rms_distance"),
    "gaps": ("job", *CELL, "seed", "convention", "split", "metric", "gap", *TERMS, "own", "batch"),
    "generalisation": ("job", *CELL, "seed", "convention", "metric", "gap", "train", "test"),
    "summary": (*CELL, "convention", "split", "metric", "quantity", "mean", "low", "high", "seeds", "diverged"),
}
"""Tables and the columns that each always has; further columns are metrics, or configuration that varies in the study."""


def describe_columns() -> Mapping[str, str]:
    """Every column's meaning, for the dictionary in results/README.md."""
    return {name: column[3] for name, column in _COLUMNS.items()}


def checked(name: str, table: pd.DataFrame, where: str = "") -> pd.DataFrame:
    """A table that satisfies its schema.

    Args:
        name: which table.
        table: its rows.
        where: what to name in the error, such as a file.

    Returns:
        The table.

    Raises:
        UserError: a column is missing or holds what it cannot hold.

    Source: DESIGN.md, section 4.
    """
    # Not every known name: a column of configuration that varies may bear one, such as `steps`.
    present = {column: _COLUMNS[column] for column in table.columns if column in (*METRICS, "flip_rate", "kl")}
    required = {column: _COLUMNS[column] for column in TABLES[name]}
    schema = pa.DataFrameSchema(
        {
            column: pa.Column(kind, checks, nullable=nullable, description=meaning)
            for column, (kind, checks, nullable, meaning) in (required | present).items()
        },
        coerce=False,
    )
    try:
        validated: pd.DataFrame = schema.validate(table)
    except (SchemaError, SchemaErrors) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"{where or name}: not a table of {name!r}: {reason}; build it again with `bnstudy report`"
        ) from error
    return validated
