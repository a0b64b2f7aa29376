"""Products of two tensors, as the functions of torch that compute them take their factors.

Entry points: `factors_of_product`, `argument` and `with_arguments`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch


def factors_of_product(function: Any, args: tuple, kwargs: dict[str, Any]) -> tuple[int | str, int | str] | None:
    """Return where a product has its two factors: indices of arguments, or names; None for a form that is not read."""
    if function in (torch.baddbmm, torch.Tensor.baddbmm):
        first: int | str = "batch1" if "batch1" in kwargs else 1
        return first, "batch2" if "batch2" in kwargs else 2
    if function in (torch.einsum, torch.Tensor.__rmatmul__):
        return None
    second = next((name for name in ("other", "mat2") if name in kwargs), None)
    return (0, second or 1) if second or len(args) > 1 else None


def argument(name: int | str, args: tuple, kwargs: dict[str, Any]) -> Any:
    """Return an argument by its index or name."""
    return kwargs[name] if isinstance(name, str) else args[name]


def with_arguments(
    names: Sequence[int | str], values: Sequence[Any], args: tuple, kwargs: dict[str, Any]
) -> tuple[tuple, dict[str, Any]]:
    """Return arguments with other values in some indices or names."""
    listed, named = list(args), dict(kwargs)
    for name, value in zip(names, values, strict=True):
        if isinstance(name, str):
            named[name] = value
        else:
            listed[name] = value
    return tuple(listed), named
