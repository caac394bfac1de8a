"""What docs/method.md shows is true: its program's ratios are its recursion's, and its tables are those of its formulas."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest
from scipy.special import gamma

PAGE = (Path(__file__).parent.parent / "docs" / "method.md").read_text()
GAUSSIAN_MEAN, GAUSSIAN_VARIANCE = 1 / math.sqrt(2 * math.pi), (1 - 1 / math.pi) / 2


def relu_of_the_sphere(m: int) -> tuple[float, float, float]:
    """Mean, variance and 1/m_eff of the ReLU of a normalised batch of m values."""
    mean = math.sqrt(m - 1) * gamma((m - 1) / 2) / (math.sqrt(math.pi) * gamma(m / 2)) / 2
    variance = 0.5 - mean**2
    angle = math.acos(-1 / (m - 1))
    product = (math.sin(angle) + (math.pi - angle) * math.cos(angle)) / (2 * math.pi)
    return mean, variance, (variance + (m - 1) * (product - mean**2)) / (m * variance)


def recursion(convention: str, m: int, depth: int) -> list[float]:
    """The ratio of each layer."""
    c = m / (m - 1)
    mean, variance, inverse = relu_of_the_sphere(m)
    factor = {"paper": 1 / c, "consistent_biased": 1.0, "inverted": c, "total": 1 - inverse}[convention]
    ratios = [{"paper": 1.0, "consistent_biased": c, "inverted": c**2, "total": 1.0}[convention]]
    while len(ratios) < depth:
        shift = math.sqrt(ratios[-1]) * GAUSSIAN_MEAN - mean
        ratios.append(factor * (ratios[-1] * GAUSSIAN_VARIANCE + shift**2) / (variance * (1 - inverse)))
    return ratios


def residual(m: int, branches: int) -> float:
    """The paper's ratio in the last branch of a residual stream."""
    c = m / (m - 1)
    mean, variance, inverse = relu_of_the_sphere(m)
    total, between, moment, ratio = 1.0, 1 / m, 1.0, 1.0
    for _ in range(branches):
        ratio = moment / (c * (total - between))
        moment += ratio * GAUSSIAN_VARIANCE + (math.sqrt(ratio) * GAUSSIAN_MEAN - mean) ** 2
        total, between = total + variance, between + variance * inverse
    return ratio


def row(start: str) -> list[float]:
    """The numbers of the table row that starts so."""
    cells = next(line for line in PAGE.splitlines() if line.startswith(f"| {start} |")).split("|")[2:-1]
    return [math.inf if "∞" in cell else float(cell.replace(",", "")) for cell in cells]


def test_the_program_measures_the_ratios_of_the_recursion() -> None:
    program = re.search(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert program is not None
    found: dict[str, dict[str, list[float]]] = {}
    exec(program[1], found)
    assert set(found["ratios"]) == {"paper", "consistent_biased", "total"}
    for convention, ratios in found["ratios"].items():
        np.testing.assert_allclose(ratios, recursion(convention, 4, 6), rtol=0.03)


def test_the_table_of_the_sphere_is_that_of_its_formulas() -> None:
    sizes = [2, 3, 4, 8, 16, 32, 64]
    expected = np.array([relu_of_the_sphere(m) for m in sizes])
    np.testing.assert_allclose(row("M_t"), expected[:, 0], atol=6e-5)
    np.testing.assert_allclose(row("V_t"), expected[:, 1], atol=6e-5)
    np.testing.assert_allclose(1 / np.array(row("m_eff")), expected[:, 2], rtol=5e-3, atol=1e-12)
    assert 1 / relu_of_the_sphere(300)[2] / 300 == pytest.approx(2 * (math.pi - 1) / (math.pi - 3), rel=0.01)


@pytest.mark.parametrize(
    ("start", "convention"),
    [
        ("`paper`", "paper"),
        ("`consistent_unbiased`, `consistent_biased`", "consistent_biased"),
        ("`inverted`", "inverted"),
        ("`total`", "total"),
    ],
)
def test_the_ratios_after_eight_layers_are_the_recursions(start: str, convention: str) -> None:
    table = PAGE.partition("| ratio after 8 layers |")[2]
    line = next(line for line in table.splitlines() if line.startswith(f"| {start} |"))
    stated = [float(cell.replace(",", "")) for cell in line.split("|")[2:-1]]
    np.testing.assert_allclose(stated, [recursion(convention, m, 8)[-1] for m in (2, 4, 8, 32)], rtol=5e-3)


def test_skip_connections_dilute_the_error_as_stated() -> None:
    assert f"{residual(32, 24):.3f}"[1:] + " in the 24th branch" in PAGE
    assert f"{residual(4, 12):.3f}"[1:] + " in the 12th branch" in PAGE
