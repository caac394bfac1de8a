"""How numbers, differences, p-values, counts and lists are written in sentences."""

from __future__ import annotations

import math

from bnstudy.metric import Metric


def number(value: float, decimals: int = 3) -> str:
    """A number for reading: a true minus sign, "–" where there is none, more digits where it is small but not zero."""
    if not math.isfinite(value):
        return "–" if math.isnan(value) else ("∞" if value > 0 else "−∞")
    if abs(value) < 1e-9:  # what rounding leaves of a zero
        value = 0.0
    if value != 0 and abs(value) < 10.0**-decimals:
        mantissa, _, exponent = f"{value:.1e}".partition("e")
        if int(exponent) < -5:
            return f"{mantissa}e{int(exponent)}".replace("-", "−")
        return f"{value:.{-int(exponent) + 1}f}".replace("-", "−")
    return fixed(value, decimals)


def fixed(value: float, decimals: int) -> str:
    """A finite number with so many digits after the point, and a true minus sign."""
    text = f"{value:.{decimals}f}"
    return text.lstrip("-") if float(text) == 0 else text.replace("-", "−")


def amount(value: float, metric: Metric, unit: bool = True) -> str:
    """A difference in a metric, with its unit: 0.0123 of accuracy is "1.23 pp"."""
    text = number(value * metric.factor, metric.decimals)
    return f"{text} {metric.unit}" if unit and metric.unit and text != "–" else text


def p_value(p: float) -> str:
    """A p-value for reading."""
    if not math.isfinite(p):
        return "–"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def plural(count: int, noun: str) -> str:
    """A count with its noun: "1 seed", "8 seeds", "2 batches"."""
    return f"{count:,} {noun}{'' if count == 1 else 'es' if noun.endswith('ch') else 's'}"


def listed(items: list[str], most: int = 8) -> str:
    """Items in a sentence; of a long list the first, and how many more there are."""
    if len(items) > most:
        return f"{', '.join(items[:most])} and {len(items) - most} more"
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}" if items else ""
