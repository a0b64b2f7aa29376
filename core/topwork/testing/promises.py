"""Helpers of the checks: `promised` names the broken promise; comparisons of items and predictions."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from topwork.items import Item


@contextmanager
def promised(name: str, promise: str) -> Iterator[None]:
    """Turn whatever the block raises into an AssertionError that names the promise, the error and its line."""
    try:
        yield
    except AssertionError:
        raise
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        frame = next((frame for frame in reversed(frames) if "topwork/testing" not in frame.filename), frames[-1])
        location = f"{Path(frame.filename).name}:{frame.lineno}"
        raise AssertionError(f"{name}: {promise}; it raised {type(error).__name__}: {error} ({location})") from error


def kind_of(value: Any) -> str:
    """Return the name of a value's type, for messages."""
    return type(value).__name__


def not_json(value: Any, path: str) -> str | None:
    """Say which part of a value JSON does not have; None when all of it is JSON."""
    if value is None or isinstance(value, bool | str | int):
        return None
    if isinstance(value, float):
        return None if value == value and abs(value) != float("inf") else f"{path} is {value}"
    if isinstance(value, Mapping):
        wrong = next((key for key in value if not isinstance(key, str)), None)
        if wrong is not None:
            return f"{path} has the key {wrong!r}"
        return next((fault for key in value if (fault := not_json(value[key], f"{path}.{key}"))), None)
    if isinstance(value, list | tuple):
        return next((fault for i, part in enumerate(value) if (fault := not_json(part, f"{path}[{i}]"))), None)
    return f"{path} is a {kind_of(value)}"


def same_items(first: Sequence[Item], second: Sequence[Item]) -> bool:
    """Return whether two lists of items are equal in row, cost and inputs."""
    import numpy as np
    import torch

    def flat(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return value.tolist()
        if isinstance(value, np.ndarray):
            return value.tolist()
        if isinstance(value, dict):
            return {key: flat(part) for key, part in value.items()}
        if isinstance(value, list | tuple):
            return [flat(part) for part in value]
        return value

    def key(item: Item) -> Any:
        return item.row, item.cost, flat(item.inputs)

    return [key(item) for item in first] == [key(item) for item in second]


def same_predictions(first: Any, second: Any, tolerance: float = 1e-5) -> bool:
    """Return whether two predictions are equal: texts and counts exactly, measures within the tolerance.

    Args:
        first: JSON, arrays and images.
        second: the same.
        tolerance: relative to the larger of 1 and the largest measure.
    """
    import numpy as np

    if isinstance(first, Mapping) and isinstance(second, Mapping):
        return first.keys() == second.keys() and all(same_predictions(first[k], second[k], tolerance) for k in first)
    if isinstance(first, list | tuple) and isinstance(second, list | tuple):
        return len(first) == len(second) and all(same_predictions(a, b, tolerance) for a, b in zip(first, second))
    if isinstance(first, float) or hasattr(first, "__array__") or hasattr(first, "getbands"):
        left, right = np.asarray(first), np.asarray(second)
        if left.shape != right.shape:
            return False
        if not np.issubdtype(left.dtype, np.floating):  # a picture: rounding may turn a grey value by one
            return bool((abs(left.astype(int) - right.astype(int)) <= 1).all())
        return bool(
            np.allclose(left, right, rtol=0, atol=tolerance * max(1.0, np.abs(left).max(initial=0)), equal_nan=True)
        )
    return bool(first == second)
