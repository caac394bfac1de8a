"""What the columns of every table are; checked by pandera on the way in and on the way out."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
import pandera.pandas as pa
from pandera.errors import SchemaError, SchemaErrors

from bnstudy.analysis.comparable import SIDES
from bnstudy.analysis.contrasts import contrasts_schema
from bnstudy.batchnorm.conventions import ARMS, MATCHED_TOTAL, STATISTICS
from bnstudy.errors import UserError, first_line
from bnstudy.metric import metric_of, metrics_for

CELL = ("dataset", "model", "norm", "normalize", "batch_size")
"""Columns that name a training in every table; whatever else varies in a study follows them."""
_CONTRASTS = ("dataset", "model", "batch_size")  # arms of one cell may differ in the other two
TERMS = ("lag", "constant", "noise")
"""What adds up to a gap; see `bnstudy.analysis.gaps`."""
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
        [pa.Check.isin([*STATISTICS, MATCHED_TOTAL, "online", "none"])],
        False,
        "statistic that normalised: see docs/method.md; matched_ is k·v; online: training batches as they went by",
    ),
    "n": (int, [pa.Check.ge(1)], False, "samples measured"),
    **{name: (float, [pa.Check.in_range(*metric_of(name).bounds)], True, metric_of(name).meaning) for name in metrics_for()},
    "metric": (str, [pa.Check.isin(metrics_for())], False, "metric that the row is about"),
    "gap": (float, [], True, "own − batch: the sum of the three terms"),
    "own": (float, [], True, "metric under the convention's own stored statistic"),
    "batch": (float, [], True, "metric under the batch's own statistics, as in training"),
    "lag": (float, [], True, "own − its population twin: lag and noise of the moving average"),
    "constant": (float, [], True, "population twin − k·population_total: the constant that the convention stores"),
    "noise": (float, [], True, "k·population_total − batch: the batch's own noise, which no stored number removes"),
    "train": (float, [], True, "metric on the training split"),
    "test": (float, [], True, "metric on the test split"),
    "quantity": (str, [pa.Check.isin(["own", "batch", "gap", *TERMS])], False, "what is averaged; see `gaps`"),
    "mean": (float, [], True, "mean over seeds"),
    "low": (float, [], True, "lower end of the 95 % t interval over seeds"),
    "high": (float, [], True, "upper end of the 95 % t interval over seeds"),
    "seeds": (int, [pa.Check.ge(0)], False, "seeds averaged; diverged ones are left out"),
    "diverged": (int, [pa.Check.ge(0)], False, "seeds that diverged"),
    "unstable": (int, [pa.Check.ge(0)], False, "seeds whose activations exploded while their losses stayed finite"),
    "steps": (int, [pa.Check.ge(0)], False, "optimizer steps"),
    "seconds": (float, [pa.Check.ge(0)], False, "wall time of the job"),
    "first_seed": (int, [pa.Check.ge(0)], False, "smallest seed of the block"),
    "last_seed": (int, [pa.Check.ge(0)], False, "largest seed of the block"),
    "replicas": (int, [pa.Check.ge(1)], False, "seeds that trained as one module"),
    "layer": (str, [], False, "BatchNorm layer, as the network of one seed names it"),
    "layer_index": (int, [pa.Check.ge(0)], False, "place of the layer in the network, from 0"),
    "batches": (int, [pa.Check.ge(4)], False, "batches drawn, half for m_eff and half for everything else in the row"),
    "m": (int, [pa.Check.ge(2)], False, "values per channel that share statistics"),
    "m_eff": (float, [pa.Check.ge(0)], True, "independent samples a batch is worth, σ²/Var(μ_B); inf: μ_B does not vary"),
    "biased_ratio": (float, [_UNIT], True, "E[s²_biased]/σ²"),
    "variation": (float, [pa.Check.ge(0)], True, "CV² of s², Var(s²)/E[s²]²"),
    "growth": (float, [pa.Check.ge(0)], True, "scale of the layer's inputs after training over that before"),
    "train_moment": (float, [pa.Check.ge(0)], True, "second moment of the normalised activation in batch mode"),
    "eval_moment": (float, [pa.Check.ge(0)], True, "the same, the whole network under the statistic"),
    "ratio": (float, [pa.Check.ge(0)], True, "eval_moment/train_moment"),
    "predicted_ratio": (float, [pa.Check.ge(0)], True, "the ratio that theory expects of m_eff"),
}
PROBED = ("m_eff", "biased_ratio", "variation", "ratio")
"""Columns of `layers` that have a standard error."""
_COLUMNS |= {
    f"{name}_se": (float, [pa.Check.ge(0)], True, f"standard error of {name}, over batches or parts of the split")
    for name in PROBED
}

TABLES: dict[str, tuple[str, ...]] = {
    "jobs": ("job", "training", *CELL, "first_seed", "last_seed", "replicas", "steps", "seconds", "diverged", "unstable"),
    "metrics": ("job", *CELL, "seed", "epoch", "split", "statistic", "n"),
    "layers": (
        *("job", *CELL, "seed", "layer", "layer_index", "statistic", "batches", "m"),
        *(column for name in PROBED[:3] for column in (name, f"{name}_se")),
        *("train_moment", "eval_moment", "ratio", "ratio_se", "predicted_ratio", "growth"),
    ),
    "gaps": ("job", *CELL, "seed", "convention", "split", "metric", "gap", *TERMS, "own", "batch"),
    "generalisation": ("job", *CELL, "seed", "convention", "metric", "gap", "train", "test"),
    "summary": (*CELL, "convention", "split", "metric", "quantity", "mean", "low", "high", "seeds", "diverged"),
    "contrasts": (*_CONTRASTS, *contrasts_schema(()).columns),
}
"""Tables and the columns that each always has; further columns are metrics, or configuration that varies in the study."""

OPTIONAL = ("layers",)
"""Tables that a study of baselines without BatchNorm, or one without probes, does not have."""


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
    present = {column: _COLUMNS[column] for column in table.columns if column in metrics_for()}
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
