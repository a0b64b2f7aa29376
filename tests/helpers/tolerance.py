"""Tolerances for results of floating-point arithmetic: `close`, `about` and `steps_apart`.

Kernels of other CPUs, and batches of other shapes, add in another order. Two such results differ by some rounding
steps: multiples of the dtype's eps, relative to the largest number among them. A fixed tolerance fits numbers of one
size; these are derived from the dtype and from the reference.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pytest
import torch

#: Rounding steps that a tiny model may add up. The most that kernels of AVX-512, AVX2 and SSE4.1 were seen to differ by
#: in these tests, with every product and sum changed by another step on top, is a quarter of it.
STEPS = 256


def close(
    actual: Any,
    expected: Any,
    steps: float = STEPS,
    *,
    dtype: torch.dtype | None = None,
    scale: float | None = None,
    equal_nan: bool = False,
) -> None:
    """Assert that numbers computed in two ways are equal but for rounding.

    Args:
        actual: a tensor, an array, a number, or a list of numbers.
        expected: the reference, of the same shape.
        steps: how many rounding steps of the largest reference value each number may be off.
        dtype: of the arithmetic, where it is coarser than that of the values; by default the coarser of both. Integers
            are equal or not.
        scale: the size of the numbers that were added up, where the reference does not show it, as when it is zero.
        equal_nan: whether not-a-numbers are equal to each other.
    """
    atol = steps * _step(actual, expected, dtype, scale)
    torch.testing.assert_close(_tensor(actual), _tensor(expected), atol=atol, rtol=0, equal_nan=equal_nan)


def steps_apart(actual: Any, expected: Any, *, dtype: torch.dtype | None = None, scale: float | None = None) -> float:
    """How many rounding steps the worst number is off, as `close` counts them."""
    gap = (_tensor(actual) - _tensor(expected)).abs().max()
    return float(gap) / _step(actual, expected, dtype, scale)


def about(
    expected: Any,
    steps: float = STEPS,
    *,
    dtype: torch.dtype = torch.float32,
    scale: float | None = None,
    nan_ok: bool = False,
) -> Any:
    """Stand for numbers in a comparison with `==`, as `pytest.approx` does, with the tolerance of `close`.

    Args:
        expected: a number, or a list, dict or array of numbers.
        steps, scale: as in `close`.
        dtype: of the arithmetic that the numbers come from.
        nan_ok: whether not-a-numbers are equal to each other.
    """
    values = list(expected.values()) if isinstance(expected, Mapping) else expected
    return pytest.approx(expected, rel=0, abs=steps * _step(values, values, dtype, scale), nan_ok=nan_ok)


def _step(actual: Any, expected: Any, dtype: torch.dtype | None, scale: float | None) -> float:
    """One rounding step of the largest reference value."""
    dtypes = {dtype} if dtype else _dtypes(actual) | _dtypes(expected)
    if scale is None:
        values = _tensor(expected)
        finite = values[values.isfinite()].abs()
        scale = float(finite.max()) if finite.numel() else 0.0
    return max((torch.finfo(each).eps for each in dtypes), default=0.0) * scale


def _tensor(values: Any) -> torch.Tensor:
    if isinstance(values, Iterable) and not hasattr(values, "dtype"):
        values = [float(value) if getattr(value, "ndim", None) == 0 else value for value in values]
    return torch.as_tensor(values).detach().double()


def _dtypes(values: Any) -> set[torch.dtype]:
    """The floating dtypes of values; of Python's numbers float32, in which models answer, not float64."""
    if isinstance(values, Iterable) and not hasattr(values, "dtype"):
        return set().union(*map(_dtypes, values))
    found = torch.as_tensor(values).dtype if hasattr(values, "dtype") else torch.float32
    return {found} if found.is_floating_point else set()
