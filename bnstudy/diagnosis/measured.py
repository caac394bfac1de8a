"""Numbers with their standard errors, and how they are written for reading."""

from __future__ import annotations

import math
from dataclasses import dataclass

from bnstudy.analysis.wording import amount, fixed, number
from bnstudy.metric import metric_of


@dataclass(frozen=True)
class Measured:
    """A number with its standard error over batches; NaN where it was not measured, or where one batch leaves no error."""

    value: float
    error: float = math.nan

    def level(self, metric: str, error: bool = True) -> str:
        """As a metric's value, with its unit: "91.20 % ± 0.33"; "–" where it is not a number."""
        return self._text(metric, metric_of(metric).level_unit, error)

    def change(self, metric: str) -> str:
        """As a difference of a metric, with its unit: "−3.20 pp ± 0.25"."""
        return self._text(metric, metric_of(metric).unit, True)

    def spread(self, metric: str) -> str:
        """The standard error without its unit; "" where there is none, as of a term that is zero by definition."""
        if not (math.isfinite(self.value) and math.isfinite(self.error)) or self.value == self.error == 0:
            return ""
        return amount(self.error, metric_of(metric), unit=False)

    def _text(self, metric: str, unit: str, error: bool) -> str:
        if math.isnan(self.value):
            return "–"
        shown, spread = metric_of(metric), self.spread(metric)
        value, coarse = self.value * shown.factor, bool(spread) and self.error * shown.factor >= 0.5 * 10.0**-shown.decimals
        # Digits beyond those of the error say nothing.
        text = fixed(value, shown.decimals) if coarse and math.isfinite(value) else number(value, shown.decimals)
        return f"{text}{f' {unit}' if unit else ''}{f' ± {spread}' if spread and error else ''}"


@dataclass(frozen=True)
class Effect:
    """What a finding accounts for: the change of a metric, in the metric's own units, with its standard error."""

    metric: str
    value: float
    error: float

    @property
    def text(self) -> str:
        """The change: "−3.20 pp ± 0.25"."""
        return "no number (NaN)" if math.isnan(self.value) else Measured(self.value, self.error).change(self.metric)

    @property
    def clause(self) -> str:
        """The change, as a sentence without its end: "accuracy changes by −3.20 pp ± 0.25"."""
        return f"{self.metric} {'is no number (NaN)' if math.isnan(self.value) else f'changes by {self.text}'}"

    @property
    def label(self) -> str:
        """The change, in as few words as there are: "accuracy −3.20 pp ± 0.25"."""
        return f"{metric_of(self.metric).label} {'is not a number' if math.isnan(self.value) else self.text}"


def short(value: float) -> str:
    """A number of any size in three or so digits: 0.0032, 0.996, 8.49, 74.9, 7,479."""
    size = abs(value)
    if not math.isfinite(value) or size < 1e-4:
        return number(value, 0 if size == 0 else 3)
    if size >= 1e7:
        return f"{value:.2e}".replace("e+0", "e").replace("e+", "e").replace("-", "−")
    decimals = next((count for least, count in ((100, 0), (10, 1), (1, 2), (0.1, 3)) if size >= least), 1 - _exponent(size))
    return f"{value:,.{decimals}f}".replace("-", "−")


def with_error(value: float, error: float) -> str:
    """A number with its standard error, both to the error's second digit; without one where there is none."""
    if not (math.isfinite(value) and math.isfinite(error) and error > 0 and abs(value) < 1e7):
        return short(value)
    decimals = max(0, min(6, 1 - _exponent(error)))
    return f"{value:,.{decimals}f} ± {error:,.{decimals}f}".replace("-", "−")


def percent(share: float, decimals: int = 1) -> str:
    """A share in percent; the word for what is not finite."""
    return f"{100 * share:,.{decimals}f} %" if math.isfinite(share) else short(share)


def _exponent(value: float) -> int:
    return math.floor(math.log10(value))
