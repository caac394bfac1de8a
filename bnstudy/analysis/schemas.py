"""What the columns of every table are; checked by pandera on the way in and on the way out."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
import pandera.pandas as pa
from pandera.errors import SchemaError, SchemaErrors

from bnstudy.analysis.contrasts import contrasts_schema
from bnstudy.batchnorm.conventions import ARMS, CONVENTIONS, MATCHED_STATISTICS, RESCALED, STATISTICS
from bnstudy.errors import UserError, first_line
from bnstudy.metric import metric_of, metrics_for

CELL = ("dataset", "model", "norm", "normalize", "batch_size")
"""Columns that name a training in every table; whatever else varies in a study follows them."""
SIDES = {name: convention.normalize for name, convention in CONVENTIONS.items()} | {RESCALED: "biased_rescaled"}
"""What `normalize` says of the training that serves an arm."""
_CONTRASTS = ("dataset", "model", "batch_size")  # arms of one cell may differ in the other two
TERMS = ("bessel", "lag", "pooling", "noise")
_SPLITS = ["train", "test"]

_UNIT = pa.Check.in_range(0, 1)
_COLUMNS: dict[str, tuple[type, list[pa.Check], bool, str]] = {
    "job": (str, [], False, "job that measured the row"),
    "training": (str, [], False, "training that the job is a block of"),
    "dataset": (str, [], False, "data set"),
    "model": (str, [], False, "model"),
    "norm": (str, [], False, "normalisation layer: batch, or a baseline (group, layer, none)"),
    "normalize": (
        str,
        [pa.Check.isin(sorted(set(SIDES.values())))],
        False,
        "variance that normalised the training batches; biased_rescaled: the identity control's",
    ),
    "batch_size": (int, [pa.Check.ge(1)], False, "samples a step"),
    "convention": (str, [pa.Check.isin([*ARMS, "none"])], False, "variance convention; none for a baseline"),
    "seed": (int, [pa.Check.ge(0)], False, "seed of the run"),
    "epoch": (int, [pa.Check.ge(1)], False, "epochs done, from 1"),
    "split": (str, [pa.Check.isin(_SPLITS)], False, "split measured on"),
    "statistic": (
        str,
        [pa.Check.isin([*STATISTICS, *MATCHED_STATISTICS, "online", "none"])],
        False,
        "statistic that normalised: see docs/method.md; matched_ is k·v; online: training batches as they went by",
    ),
    "reference": (str, [pa.Check.isin(STATISTICS)], False, "statistic compared with"),
    "n": (int, [pa.Check.ge(1)], False, "samples measured"),
    **{name: (float, [pa.Check.in_range(*metric_of(name).bounds)], True, metric_of(name).meaning) for name in metrics_for()},
    "flip_rate": (float, [_UNIT], True, "share of samples whose predicted class differs from the reference's"),
    "rms_distance": (float, [pa.Check.ge(0)], True, "root mean square difference of outputs from the reference's"),
    "kl": (float, [pa.Check.ge(0)], True, "mean KL(reference ‖ prediction), nats"),
    "metric": (str, [pa.Check.isin(metrics_for())], False, "metric that the row is about"),
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
    "layer": (str, [], False, "BatchNorm layer, as the network of one seed names it"),
    "batches": (int, [pa.Check.ge(4)], False, "batches drawn, half for m_eff and half for everything else in the row"),
    "m": (int, [pa.Check.ge(2)], False, "values per channel that share statistics"),
    "m_eff": (float, [pa.Check.ge(0)], True, "independent samples a batch is worth, σ²/Var(μ_B); inf: μ_B does not vary"),
    "biased_ratio": (float, [_UNIT], True, "E[s²_biased]/σ²"),
    "train_moment": (float, [pa.Check.ge(0)], True, "second moment of the normalised activation in batch mode"),
    "eval_moment": (float, [pa.Check.ge(0)], True, "the same, the whole network under the statistic"),
    "ratio": (float, [pa.Check.ge(0)], True, "eval_moment/train_moment"),
    "predicted_ratio": (float, [pa.Check.ge(0)], True, "the ratio that theory expects of m_eff"),
    "std_discrepancy": (float, [pa.Check.ge(0)], True, "mean |σ̂/σ_B − 1|, of what the layer divides by in either mode"),
    "mean_discrepancy": (float, [pa.Check.ge(0)], True, "mean |μ̂ − μ_B|/σ_B"),
}
PROBED = ("m_eff", "biased_ratio", "train_moment", "eval_moment", "ratio", "predicted_ratio")
DISCREPANCIES = ("std_discrepancy", "mean_discrepancy")
_COLUMNS |= {
    f"{name}_se": (float, [pa.Check.ge(0)], True, f"standard error of {name} over batches")
    for name in (*PROBED, *DISCREPANCIES)
}

TABLES: dict[str, tuple[str, ...]] = {
    "jobs": ("job", "training", *CELL, "first_seed", "last_seed", "replicas", "steps", "seconds", "diverged"),
    "metrics": ("job", *CELL, "seed", "epoch", "split", "statistic", "n"),
    "distances": ("job", *CELL, "seed", "split", "statistic", "reference", "rms_distance"),
    "layers": (
        *("job", *CELL, "seed", "layer", "statistic", "batches", "m"),
        *(column for name in (*PROBED, *DISCREPANCIES) for column in (name, f"{name}_se")),
    ),
    "gaps": ("job", *CELL, "seed", "convention", "split", "metric", "gap", *TERMS, "own", "batch"),
    "generalisation": ("job", *CELL, "seed", "convention", "metric", "gap", "train", "test"),
    "summary": (*CELL, "convention", "split", "metric", "quantity", "mean", "low", "high", "seeds", "diverged"),
    "contrasts": (*_CONTRASTS, *contrasts_schema(()).columns),
}
"""Tables and the columns that each always has; further columns are metrics, or configuration that varies in the study."""

OPTIONAL = ("distances", "layers")
"""Tables that a study of baselines without BatchNorm does not have; nor `layers` one without probes."""


def describe_columns(table: str | None = None) -> Mapping[str, str]:
    """Every column's meaning, for the dictionary in results/README.md; in `contrasts` some names mean something else."""
    usual = {name: column[3] for name, column in _COLUMNS.items()}
    if table != "contrasts":
        return usual
    own = {str(name): str(column.description) for name, column in contrasts_schema(()).columns.items()}
    return {name: usual[name] for name in _CONTRASTS} | own


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

    Source: docs/architecture.md, "The store".
    """
    if name == "contrasts":
        own = contrasts_schema(()).columns
        cell = [*_CONTRASTS, *(str(column) for column in table if column not in (*_CONTRASTS, *own))]
        return _validated(contrasts_schema(cell), name, table, where)
    # Not every known name: a column of configuration that varies may bear one, such as `steps`.
    present = {column: _COLUMNS[column] for column in table.columns if column in (*metrics_for(), "flip_rate", "kl")}
    required = {column: _COLUMNS[column] for column in TABLES[name]}
    schema = pa.DataFrameSchema(
        {
            column: pa.Column(kind, checks, nullable=nullable, description=meaning)
            for column, (kind, checks, nullable, meaning) in (required | present).items()
        },
        coerce=False,
    )
    return _validated(schema, name, table, where)


def _validated(schema: pa.DataFrameSchema, name: str, table: pd.DataFrame, where: str) -> pd.DataFrame:
    try:
        validated: pd.DataFrame = schema.validate(table)
    except (SchemaError, SchemaErrors) as error:
        raise UserError(
            f"{where or name}: not a table of {name!r}: {first_line(error)}; build it again with `bnstudy report`"
        ) from error
    return validated
