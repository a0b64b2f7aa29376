"""Corrections of p-values where many comparisons are made at once, such as one for each attention head."""

from __future__ import annotations

from collections.abc import Sequence

from topwork import UsageError


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values that hold for all comparisons together (Holm 1979): family-wise, whatever their dependence.

    The i-th smallest of m p-values is multiplied by m - i + 1; none becomes smaller than one before it, none larger
    than 1.

    Raises:
        UsageError: a value is no probability.

    Example:
        >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03])]
        [0.03, 0.06, 0.06]
    """
    for index, p in enumerate(p_values):
        if not 0 <= p <= 1:
            raise UsageError(f"{p} is no p-value", place=f"index {index}", hint="give numbers from 0 to 1")
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, p_values[index] * (len(p_values) - rank)))
        adjusted[index] = highest
    return adjusted
