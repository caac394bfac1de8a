"""The table of contrasts: each cell's arms compared pair by pair, with verdicts over the family declared beforehand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pandera.pandas import Check, Column, DataFrameSchema

from bnstudy.analysis.comparable import KINDS, kind_of, sampling_errors
from bnstudy.analysis.families import KEYS, REFERENCE, STORAGE, TRAINING, Family, pairs_of
from bnstudy.analysis.power import ALPHA, FEWEST_SEEDS, POWER
from bnstudy.analysis.statistics import VERDICTS, compare, decidable, holm, verdict
from bnstudy.errors import UserError


def contrast_table(
    frame: pd.DataFrame,
    cell: Sequence[str],
    *,
    family: Family | Mapping[str, Any] | None = None,
    contrasts: Sequence[str | Sequence[str]] | None = None,
    margins: Mapping[str, float] | None = None,
    folds: pd.DataFrame | None = None,
    alpha: float = ALPHA,
    power: float = POWER,
) -> pd.DataFrame:
    """The `contrasts` table: per cell, contrast and number compared, what the seeds say of arm − reference.

    A value that is not finite marks a diverged seed. It takes its pair out of every arm, metric and split of its cell, at
    the statistic where it shows (a network that diverged shows it at all of them), and is counted in `diverged`; a seed that
    only one of the two arms has is counted in `missing`. Where the two are more than a tenth of the pairs, or fewer than
    three pairs are left, the verdict is inconclusive, and a row of the family counts in it as not rejected. A metric that
    does not apply to a cell must be absent from `frame`, not NaN.

    Rows of the family have adjusted p-values, and `mde` and `seeds_needed` at α/(family size). The others are exploratory
    (`in_family` False): adjusted p-values NaN, verdict and power at α. Intervals are never adjusted.

    Args:
        frame: see `comparable`, with a column `unstable` that marks seeds whose activations exploded; in its comparisons
            they take part, and `verdict_stable` is the verdict without them.
        cell: columns whose values make a cell (dataset, model, batch_size, …): all that vary, apart from those named above.
        family: the declared family, or its mapping; its alpha serves every row, its margin every row of its metric.
        contrasts: arms against `paper`, or pairs (arm, reference), besides the family's; default: every arm against `paper`.
            Storage and training comparisons are always made.
        folds: see `fold_means`, for the error that the test split's size leaves. Default: not known.
        margins: margins of further metrics, in their units, for exploratory rows.
        alpha: level where no family is declared.
        power: of the minimum detectable effect and the number of seeds needed.

    Returns:
        A row per comparison, checked by `contrasts_schema(cell)`. Contrasts of the family have a row (n = 0, inconclusive)
        also where an arm has no run yet; the others only where both arms have runs.

    Raises:
        UserError: a column is missing, `cell` does not tell two rows apart, or the family names what the frame lacks.

    Source: docs/method.md, "Contrasts and verdicts".
    """
    declared = None if family is None else Family.parse(family)
    cell = list(cell)
    _check(frame, cell, declared)
    if "unstable" not in frame:
        frame = frame.assign(unstable=False)
    made = partial(_verdicts, cell=cell, declared=declared, contrasts=contrasts, margins=margins, alpha=alpha, power=power)
    table = made(frame)
    keys = [*cell, *KEYS]
    table["sampling_error"] = np.nan if folds is None else sampling_errors(table, folds, keys)
    table["unstable"], table["verdict_stable"] = 0, table["verdict"]
    if frame["unstable"].any():
        # A seed is left out of a whole cell where any of its networks exploded, so that pairs stay pairs.
        spoilt = frame.loc[frame["unstable"], [*cell, "seed"]].drop_duplicates()
        rest = frame.merge(spoilt.assign(spoilt=True), how="left", on=[*cell, "seed"])
        stable = made(frame[rest["spoilt"].isna().to_numpy()])
        found = table[[*keys, "arm", "reference"]].merge(
            stable[[*keys, "arm", "reference", "n", "verdict"]], how="left", on=[*keys, "arm", "reference"]
        )
        table["unstable"] = (table["n"] - found["n"].fillna(0).to_numpy()).clip(lower=0).astype("int64")
        table["verdict_stable"] = found["verdict"].fillna("inconclusive").to_numpy()
    schema = contrasts_schema(cell)
    validated: pd.DataFrame = schema.validate(table[list(schema.columns)])
    return validated


def _verdicts(
    frame: pd.DataFrame,
    cell: list[str],
    declared: Family | None,
    contrasts: Sequence[str | Sequence[str]] | None,
    margins: Mapping[str, float] | None,
    alpha: float,
    power: float,
) -> pd.DataFrame:
    """The table of a frame's comparisons, but for what takes another frame."""
    runs = _arrange(frame, cell)
    primary = declared.pairs if declared else []
    arms = [arm for arm in runs.arms if kind_of(arm) == "arm" and arm != REFERENCE] if contrasts is None else contrasts
    others = [*pairs_of(arms), *STORAGE, TRAINING]
    covered = declared.covers(runs.conditions) if declared else np.zeros(len(runs.conditions), dtype=bool)
    margins = {**(margins or {}), **({declared.metric: declared.margin} if declared and declared.margin is not None else {})}
    alpha = declared.alpha if declared else alpha

    parts = []
    for pair in dict.fromkeys([*primary, *others]) or [("", REFERENCE)]:  # the latter gives an empty table its columns
        has_arm, has_reference = (runs.present[runs.plane(name)].any(axis=0) for name in pair)
        kind = kind_of(pair[0])
        in_family = covered & (pair in primary) & (runs.conditions["kind"] == kind).to_numpy()
        if kind != "arm":  # which trainings a cell has is planned, and counted in the family's size
            in_family &= has_arm & has_reference
        keep = np.flatnonzero(in_family | (has_arm & has_reference))
        part = runs.conditions.iloc[keep].assign(arm=pair[0], reference=pair[1], in_family=in_family[keep])
        parts.append((pair, keep, part.assign(margin=part["metric"].map(margins).astype(np.float64), alpha=alpha)))
    size = sum(int(part["in_family"].sum()) for _, _, part in parts)
    if declared and declared.size is not None:
        if declared.size < size:
            raise UserError(f"size: {declared.size} comparisons declared, but the family has {size}; declare them all")
        size = declared.size
    tables = [_compared(runs, pair, keep, part, size, alpha, power) for pair, keep, part in parts]
    table = pd.concat(tables, ignore_index=True)

    # A row that can have no verdict must not lend the family its small p: Holm would count it as won and ease the rest.
    lost = table["diverged"] + table["missing"]
    counted = table["in_family"] & decidable(table["n"], lost)
    for name in ("p", "p_equivalence"):
        table[f"{name}_holm"] = holm(table[name].where(counted), size=size)
    p, p_equivalence = (table[f"{name}_holm"].where(table["in_family"], table[name]) for name in ("p", "p_equivalence"))
    table["verdict"] = verdict(p, p_equivalence, table["identical"], table["n"], lost, alpha)
    return table


@dataclass(frozen=True)
class _Runs:
    """The tidy frame as arrays; a condition is a cell with what is compared of it."""

    conditions: pd.DataFrame
    arms: tuple[str, ...]
    values: NDArray[np.floating[Any]]  # (arms + 1, seeds, conditions); the last plane is empty, for arms without runs
    present: NDArray[np.bool_]  # (arms + 1, seeds, conditions)
    diverged: NDArray[np.bool_]  # (seeds, conditions)

    def plane(self, arm: str) -> int:
        return self.arms.index(arm) if arm in self.arms else len(self.arms)


def _arrange(frame: pd.DataFrame, cell: list[str]) -> _Runs:
    keys = [*cell, *KEYS]
    # Missing keys (norm_batch_size is null where the batch is not split) are values like any other: dropna=False.
    condition = frame.groupby(keys, dropna=False, sort=False).ngroup().to_numpy()
    conditions = frame[keys].iloc[np.unique(condition, return_index=True)[1]].reset_index(drop=True)
    arm, arms = pd.factorize(frame["convention"])
    seed, seeds = pd.factorize(frame["seed"])
    kind = np.float32 if frame["value"].dtype == np.float32 else np.float64
    shape = (len(arms) + 1, len(seeds), len(conditions))
    values, present = np.full(shape, np.nan, dtype=kind), np.zeros(shape, dtype=bool)
    values[arm, seed, condition] = frame["value"].to_numpy(dtype=kind, na_value=np.nan)
    present[arm, seed, condition] = True

    broken = (present & ~np.isfinite(values)).any(axis=0)  # (seeds, conditions)
    scope = conditions.groupby([*cell, "statistic"], dropna=False, sort=False).ngroup().to_numpy()
    spread = np.zeros((scope.max(initial=-1) + 1, len(seeds)), dtype=bool)
    np.logical_or.at(spread, scope, broken.T)
    return _Runs(conditions, tuple(str(name) for name in arms), values, present, spread[scope].T)


def _compared(
    runs: _Runs, pair: tuple[str, str], keep: NDArray[np.intp], part: pd.DataFrame, size: int, alpha: float, power: float
) -> pd.DataFrame:
    """The raw numbers of one contrast, beside its conditions; `keep` says which of all conditions those are."""
    first, second = (runs.plane(name) for name in pair)
    has_arm, has_reference, diverged = runs.present[first][:, keep], runs.present[second][:, keep], runs.diverged[:, keep]
    usable = has_arm & has_reference & ~diverged  # (seeds, conditions)
    numbers = {name: np.full(len(keep), np.nan) for name in _COMPARED}
    numbers["identical"] = np.zeros(len(keep), dtype=bool)
    tests = np.where(part["in_family"], size, 1)
    # Conditions that lost the same seeds share an array; as a rule none is lost, and all go through at once.
    for seeds in np.unique(usable, axis=1).T if len(keep) else ():
        same = np.flatnonzero((usable == seeds[:, None]).all(axis=0))
        arm, reference = (runs.values[plane][np.ix_(seeds, keep[same])] for plane in (first, second))
        result = compare(arm, reference, margin=part["margin"].iloc[same], alpha=alpha, power=power, tests=tests[same])
        for name, column in numbers.items():
            column[same] = getattr(result, name)
    return part.assign(
        **numbers,
        n=usable.sum(axis=0),
        diverged=((has_arm | has_reference) & diverged).sum(axis=0),
        missing=((has_arm ^ has_reference) & ~diverged).sum(axis=0),
    )


def _check(frame: pd.DataFrame, cell: list[str], family: Family | None) -> None:
    needed = [*cell, "convention", "seed", *KEYS, "value"]
    if absent := [name for name in needed if name not in frame]:
        raise UserError(f"frame: column '{absent[0]}' is missing; it has {', '.join(map(str, frame.columns))}")
    if unnamed := [name for name in ("convention", "seed") if frame[name].isna().any()]:
        raise UserError(f"frame: column '{unnamed[0]}' has empty values; every row belongs to a convention and a seed")
    twice = frame.groupby(needed[:-1], dropna=False, sort=False).ngroup().duplicated()
    if twice.any():
        row = frame.loc[twice, needed[:-1]].iloc[0].to_dict()
        raise UserError(f"cell: {', '.join(cell)} leave more than one value for {row}; name every column that varies")
    if family is None:
        return
    for key in ("metric", "split", "statistic"):
        if key == "statistic" and "arm" not in family.kinds:
            continue
        known = frame.loc[frame["kind"] == "arm", key].unique().tolist()
        if getattr(family, key) not in known:
            raise UserError(f"family: {key} '{getattr(family, key)}' was not measured; use {', '.join(map(str, known))}")
    if unknown := [key for key in family.cells or {} if key not in cell]:
        raise UserError(f"family: cells: '{unknown[0]}' does not make cells; use {', '.join(cell)}")


def contrasts_schema(cell: Sequence[str]) -> DataFrameSchema:
    """The pandera schema of the `contrasts` table whose cells are made by the columns `cell`; strict, a row per comparison.

    Source: docs/method.md, "Contrasts and verdicts".
    """
    keys = [*cell, "arm", "reference", *KEYS]
    return DataFrameSchema(
        {
            **{name: Column(nullable=True, description="makes the cell") for name in cell},
            "arm": Column(str, description="convention compared"),
            "reference": Column(str, description="convention it is compared with"),
            "kind": Column(str, Check.isin(KINDS), description="arm, storage or training: what the comparison is about"),
            "weights": Column(
                str,
                Check.isin(["own", "biased", "unbiased", "both"]),
                description="whose weights are compared: each arm's own, or those that this variance normalised; both: mean",
            ),
            "metric": Column(str, description="number compared"),
            "statistic": Column(str, description="what normalised at inference; own, stored: what each arm names"),
            "split": Column(str, description="train or test"),
            "difference": _number("mean over seeds of arm − reference, in the metric's units"),
            "ci_low": _number("1-α interval of the difference, t over seeds, not adjusted"),
            "ci_high": _number("1-α interval of the difference, t over seeds, not adjusted"),
            "equivalence_low": _number("1-2α interval of the difference"),
            "equivalence_high": _number("1-2α interval of the difference"),
            "p": _number("paired t test of no difference", Check.in_range(0, 1)),
            "p_equivalence": _number("two one-sided t tests against the margin", Check.in_range(0, 1)),
            "p_holm": _number("p adjusted over the family", Check.in_range(0, 1)),
            "p_equivalence_holm": _number("p_equivalence adjusted over the family", Check.in_range(0, 1)),
            "mde": _number("true difference found with the stated power at n pairs", Check.gt(0)),
            "seeds_needed": _number(
                "seeds that would settle the row if its estimate were the truth; inf: over a million", Check.ge(FEWEST_SEEDS)
            ),
            "sampling_error": _number(
                "standard error of the difference from the finite test split, paired by sample", Check.ge(0)
            ),
            "n": Column("int64", Check.ge(0), description="pairs compared"),
            "diverged": Column("int64", Check.ge(0), description="pairs left out because a seed of the cell diverged"),
            "missing": Column("int64", Check.ge(0), description="pairs left out because one arm lacks the seed"),
            "margin": _number("largest difference that does not matter, in the metric's units", Check.gt(0)),
            "alpha": Column(float, Check.in_range(0, 0.5), description="level of the tests"),
            "in_family": Column(bool, description="declared before the run and adjusted; otherwise exploratory"),
            "verdict": Column(str, Check.isin(VERDICTS), description="by adjusted p-values in the family, else by raw ones"),
            "unstable": Column("int64", Check.ge(0), description="pairs among n of which a network's activations exploded"),
            "verdict_stable": Column(str, Check.isin(VERDICTS), description="the verdict without those pairs"),
        },
        checks=[
            Check(lambda table: ~(table["ci_low"] > table["difference"]), name="ci_low is at most the difference"),
            Check(lambda table: ~(table["ci_high"] < table["difference"]), name="ci_high is at least the difference"),
            Check(lambda table: ~(table["p_holm"] < table["p"]), name="p_holm is at least p"),
            Check(lambda table: table["in_family"] | table["p_holm"].isna(), name="p_holm belongs to the family"),
        ],
        unique=keys,
        strict=True,
        name="contrasts",
    )


def _number(description: str, check: Check | None = None) -> Column:
    return Column(float, check, nullable=True, description=description)


_COMPARED = (
    "difference", "ci_low", "ci_high", "equivalence_low", "equivalence_high", "p", "p_equivalence", "mde", "seeds_needed",
)  # fmt: skip
