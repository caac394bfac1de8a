"""The answer: what the law says here, what the declared comparisons say, the largest effect, and what stays open."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from bnstudy.analysis.cells import arms_of
from bnstudy.analysis.figures.equivalence import equivalence_rows
from bnstudy.analysis.figures.panels import seeds_phrase
from bnstudy.analysis.figures.theme import NULL_ARM, NULL_REFERENCE
from bnstudy.analysis.power import FEWEST_SEEDS, POWER
from bnstudy.analysis.report.law import law_of, where
from bnstudy.analysis.statistics import decidable
from bnstudy.analysis.subject import Subject, Tables
from bnstudy.analysis.wording import amount, listed, p_value, plural
from bnstudy.batchnorm.conventions import CONVENTIONS


def answer_of(tables: Tables, subject: Subject) -> list[str]:
    """Sentences generated from layers and contrasts; they say so where nothing was declared, compared or settled.

    Args:
        tables: of the study; needs `contrasts` for an answer.
        subject: what the study asks.

    Source: docs/method.md, "Contrasts and verdicts".
    """
    contrasts = tables.get("contrasts", pd.DataFrame())
    rows = _asked(contrasts, subject) if len(contrasts) else contrasts
    if rows.empty:
        return _nothing_compared(tables, subject)
    if rows["n"].max() < FEWEST_SEEDS:
        return _too_few(rows, subject)
    return [*law_of(tables, subject), _verdicts(rows, subject), _largest(rows, subject), _open(rows, subject)]


def null_arm_warning(tables: Tables, subject: Subject) -> str | None:
    """What the null arm says of the harness; None without one."""
    contrasts = tables.get("contrasts", pd.DataFrame())
    if contrasts.empty:
        return None
    rows = contrasts[(contrasts["arm"] == NULL_ARM) & (contrasts["reference"] == NULL_REFERENCE)]
    rows = rows[(rows["metric"] == subject.metric.name) & (rows["split"] == subject.split)]
    rows = rows[rows["statistic"] == subject.statistic]
    if rows.empty:
        return None
    wrong = rows[rows["verdict"].isin(["different", "different but negligible"])]
    sizes = rows["difference"].abs()
    if sizes.isna().all():
        return "The null arm, one function computed in two ways, has no pair of seeds to be compared."
    if wrong.empty:
        most = records(rows.loc[[sizes.idxmax()]])[0]
        inconclusive = int((rows["verdict"] == "inconclusive").sum())
        unsettled = f" ({inconclusive} inconclusive)" if inconclusive else ""
        return (
            f"The null arm, one function computed in two ways, is never called different from its twin in "
            f"{plural(len(rows), 'comparison')}{unsettled}; its largest difference is "
            f"{amount(float(sizes.max()), subject.metric)}, for {where(most, subject)}. That is rounding amplified by "
            f"training: differences of this size mean nothing there."
        )
    return (
        f"Do not trust these verdicts: the null arm, whose differences are rounding only, is called different in "
        f"{len(wrong)} of {plural(len(rows), 'comparison')} ({listed([where(row, subject) for row in records(wrong)], 4)})."
    )


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as dictionaries with text keys."""
    return [{str(key): value for key, value in row.items()} for row in frame.to_dict("records")]


def _asked(contrasts: pd.DataFrame, subject: Subject) -> pd.DataFrame:
    rows = contrasts[contrasts["in_family"]]
    if len(rows):
        return rows
    rows = equivalence_rows(contrasts, subject)
    return rows[rows["arm"] != NULL_ARM]


def _pairs(rows: pd.DataFrame) -> str:
    references = list(dict.fromkeys(rows["reference"]))
    if len(references) == 1:
        return f"{listed(list(dict.fromkeys(rows['arm'])))} against {references[0]}"
    return listed(
        [f"{arm} against {reference}" for arm, reference in dict.fromkeys(zip(rows["arm"], rows["reference"], strict=True))]
    )


def _verdicts(rows: pd.DataFrame, subject: Subject) -> str:
    counts = {str(name): int(count) for name, count in rows["verdict"].value_counts().items()}
    declared = bool(rows["in_family"].any())
    waiting = _waiting(rows, subject)
    settled = len(rows) - counts.get("inconclusive", 0)
    margin = f" within ±{amount(subject.margin, subject.metric)}" if subject.margin is not None else ""
    than = f" than the margin of {amount(subject.margin, subject.metric)}" if subject.margin is not None else ""
    words = {
        "different": ("differs", "differ"),
        "different but negligible": (f"differs, but by less{than}", f"differ, but by less{than}"),
        "equivalent": (f"is equivalent{margin}", f"are equivalent{margin}"),
        "identical": ("is identical", "are identical"),
        "inconclusive": ("is inconclusive", "are inconclusive"),
    }
    outcomes = [
        f"{counts[name]} {singular if counts[name] == 1 else several}"
        for name, (singular, several) in words.items()
        if name in counts
    ]
    if counts.get("different"):
        lead = "The choice makes a difference in some of the cells"
    elif settled == len(rows) and not waiting:
        lead = "The choice makes no difference that matters here"
    elif settled:
        lead = "No comparison shows a difference that matters, but not all are settled"
    else:
        lead = "The study does not settle its question"
    if waiting:
        outcomes.append(f"{waiting} {'has' if waiting == 1 else 'have'} no run yet")
    how = (
        f"Holm-adjusted over the family at α = {subject.alpha:g}"
        if declared
        else "exploratory, unadjusted: no family was declared"
    )
    return (
        f"{lead}: of {plural(len(rows) + waiting, 'declared comparison' if declared else 'comparison')} of {subject.what} "
        f"({_pairs(rows)}), {listed(outcomes)} ({how}; {seeds_phrase(rows.loc[rows['n'] > 0, 'n'])})."
    )


def _waiting(rows: pd.DataFrame, subject: Subject) -> int:
    """Declared comparisons of cells in which nothing has run: they have no row."""
    return max(0, (subject.declared or 0) - len(rows)) if rows["in_family"].any() else 0


def _largest(rows: pd.DataFrame, subject: Subject) -> str:
    known = rows[rows["difference"].notna()]
    different = known[known["verdict"] == "different"]
    pool = different if len(different) else known
    row = records(pool.loc[[pool["difference"].abs().idxmax()]])[0]
    holm = row["in_family"] and np.isfinite(row["p_holm"])
    p, adjusted = (row["p_holm"], "adjusted p") if holm else (row["p"], "unadjusted p" if row["in_family"] else "p")
    shown = p_value(float(p))
    tested = f", {adjusted} {shown if shown.startswith('<') else f'= {shown}'}" if shown != "–" else ""
    which = "The largest difference that the tests find" if len(different) else "The largest estimate"
    return (
        f"{which} is {row['arm']} − {row['reference']} for {where(row, subject)}: {interval(row, subject)}{tested}, "
        f"{row['n']} seeds: {row['verdict']}."
    )


def interval(row: dict[str, Any], subject: Subject) -> str:
    """An effect with its interval: "−1.2 pp (95 % interval −1.5 to −0.9)"."""
    effect = amount(float(row["difference"]), subject.metric)
    if not np.isfinite(row["ci_low"]):
        return f"{effect} (no interval)"
    low, high = (amount(float(row[end]), subject.metric, unit=False) for end in ("ci_low", "ci_high"))
    return f"{effect} ({100 * (1 - float(row['alpha'])):g} % interval {low} to {high})"


def _open(rows: pd.DataFrame, subject: Subject) -> str:
    detectable = rows["mde"].dropna()
    power = f"{100 * POWER:g} % power"
    if subject.margin is None:
        found = ""
        if len(detectable):
            size = amount(float(detectable.median()), subject.metric)
            found = (
                f"; with these seeds a true difference of {size} (median over the comparisons) would be found with {power}"
            )
        return f"No margin was declared, so no comparison can be called equivalent{found}."
    unsettled = rows[rows["verdict"] == "inconclusive"]
    if unsettled.empty and (waiting := _waiting(rows, subject)):
        return f"{plural(waiting, 'declared comparison')} cannot be settled before their cells have run."
    if unsettled.empty:
        return f"Every comparison is settled at the declared margin of ±{amount(subject.margin, subject.metric)}."
    undecidable = ~decidable(unsettled["n"], unsettled["diverged"] + unsettled["missing"])
    needed = unsettled.loc[~undecidable, "seeds_needed"].dropna()
    finite = needed[np.isfinite(needed)].clip(lower=float(unsettled["n"].max()) + 1)
    reasons = {
        "would need more than a million": int(np.isinf(needed).sum()),
        "have too few seeds, or lost too many, for any verdict": int(undecidable.sum()),
    }
    rest = "; ".join(f"{count} {reason}" for reason, count in reasons.items() if count)
    if finite.empty and rest:
        return f"Of the inconclusive comparisons, {rest}."
    if finite.empty:
        return "These runs do not tell how many seeds would settle the inconclusive comparisons."
    least, most = _count(finite.min()), _count(finite.max())
    seeds = least if least == most else f"{least} to {most} (median {_count(finite.median())})"
    return (
        f"Settling the inconclusive comparisons at ±{amount(subject.margin, subject.metric)} with {power} would take "
        f"{seeds} seeds, judged by the spread seen here{f'; {rest}' if rest else ''}."
    )


def _count(value: float) -> str:
    return f"{math.ceil(value):,}"


def _too_few(rows: pd.DataFrame, subject: Subject) -> list[str]:
    most, lost = int(rows["n"].max()), int(rows["diverged"].sum())
    why = f" {lost} pairs were lost to seeds that diverged." if lost else ""
    first = (
        f"There is no verdict: a comparison needs at least {FEWEST_SEEDS} pairs of seeds, and the "
        f"{plural(len(rows), 'comparison')} of {subject.what} ({_pairs(rows)}) have at most {most}.{why}"
    )
    known = rows[rows["difference"].notna()]
    if known.empty:
        second = "No pair of seeds is left to estimate a difference from."
    else:
        row = records(known.loc[[known["difference"].abs().idxmax()]])[0]
        second = (
            f"The largest estimate is {row['arm']} − {row['reference']} for {where(row, subject)}: "
            f"{interval(row, subject)}, {plural(int(row['n']), 'seed')}."
        )
    return [first, second, f"More seeds would say more: a verdict needs at least {FEWEST_SEEDS}, an interval at least 2."]


def _nothing_compared(tables: Tables, subject: Subject) -> list[str]:
    owners = tables.get("generalisation", pd.DataFrame())
    arms = [] if owners.empty else sorted(arms_of(owners).unique())
    conventions = [arm for arm in arms if arm in CONVENTIONS]
    if not arms:
        first = "There is no answer: these runs hold no measurement."
    elif not conventions:
        first = f"There is no answer about conventions: only baselines without BatchNorm were run ({listed(arms)})."
    else:
        first = f"There is no answer: no cell has two arms to compare in {subject.what}; the arms run are {listed(arms)}."
    second = "Nothing was compared, so there is no effect, no interval and no verdict."
    return [first, second, "What was measured is in the tables below."]
