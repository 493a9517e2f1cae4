"""Pairs of figures, and the results that are printed for them."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

Row = dict[str, object]


def quarters(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the lower quartile, the median and the upper quartile."""
    if len(values) < 2:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def ratio(what: str, ours: Sequence[float], base: Sequence[float]) -> Row:
    """Return a row with the median quotient of the pairs, its quartiles, and both medians."""
    low, middle, high = quarters([one / other for one, other in zip(ours, base, strict=True)])
    figures = {"ratio": middle, "low": low, "high": high}
    medians = {"median": statistics.median(ours), "base": statistics.median(base)}
    return {"what": what, **figures, **medians, "pairs": len(ours)}


def format_row(row: Row) -> str:
    """Return a row as a line."""
    figures = [f"{name} {_number(value)}" for name, value in row.items() if name != "what"]
    return f"{row['what']}: {', '.join(figures)}"


def _number(value: object) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:.4g}" if abs(value) < 1_000 else f"{value:,.0f}"
