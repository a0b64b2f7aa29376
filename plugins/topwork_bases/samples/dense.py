"""Samples for tasks with a number for every pixel, as `sample:<name>`: rendered scenes with exact depth. How they are
made stands in `_depth_scenes.py`; scenes with masks are `sample:digit-scenes`, of another plugin.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from topwork import UsageError, hookimpl

if TYPE_CHECKING:
    from topwork import RowsOptions

_NAME = "depth-scenes"


@hookimpl
def register_samples() -> Mapping[str, str]:
    return {_NAME: "rendered rooms with spheres, 64 x 64, exact depth in metres: image, depth"}


@hookimpl
def load_rows(source: str, options: RowsOptions) -> Any | None:
    """The sample's rows as a `datasets.Dataset`, or None when `source` is no sample of this plugin."""
    if source != f"sample:{_NAME}":
        return None
    from topwork_bases.rows.splits import choose

    if options.options:
        raise UsageError(f"`{source}` has no options", hint="leave out `options`")
    rows = choose(_Splits(), options.split, source)
    return rows.to_iterable_dataset() if options.streaming else rows


class _Splits(Mapping[str, Any]):
    """The splits, each made only when it is asked for, then read from the cache of `datasets`, whose key holds the code
    that makes them."""

    def __init__(self) -> None:
        self._made: dict[str, Any] = {}

    def __getitem__(self, split: str) -> Any:
        if split not in ("train", "test"):
            raise KeyError(split)
        if split not in self._made:
            self._made[split] = _make(split)
        return self._made[split]

    def __iter__(self) -> Iterator[str]:
        return iter(("train", "test"))

    def __len__(self) -> int:
        return 2


def _make(split: str) -> Any:
    import datasets

    from topwork_bases.samples import depth_scenes as _depth_scenes

    return datasets.Dataset.from_generator(
        _depth_scenes.scenes,
        features=datasets.Features({"image": datasets.Image(), "depth": datasets.Image()}),
        gen_kwargs={"split": split, "code": inspect.getsource(_depth_scenes)},
        split=split,
    )
