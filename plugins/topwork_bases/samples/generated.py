"""Samples that a generator makes once, kept in the cache of `datasets` under a key that holds the generator's code."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any


def generated_rows(
    make: Callable[..., Iterator[dict[str, Any]]], split: str, features: dict[str, Any], code: list[ModuleType]
) -> Any:
    """Return the rows of a generator as a `datasets.Dataset`, from the cache when the code has not changed.

    Args:
        make: called as `make(split, code)`; the second argument is there for the key of the cache alone.
        split: "train" or "test".
        features: types of the columns, as `datasets` has them.
        code: the modules whose source is part of the key.
    """
    import datasets

    return datasets.Dataset.from_generator(
        make,
        features=datasets.Features(features),
        gen_kwargs={"split": split, "code": "".join(inspect.getsource(module) for module in code)},
        split=split,
    )
