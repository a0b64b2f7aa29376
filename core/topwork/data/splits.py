"""Splits of a source: the one that a recipe names, by slices too (`train[:20%]+test`), and usual names of folders."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from topwork.data.table import Table
from topwork.errors import UsageError, listed, nearest

_NAMES = {
    **dict.fromkeys(("train", "training", "tr"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
_YEAR = re.compile(r"[_-]?(19|20)\d\d$")


class SeveralSplits(UsageError):
    """A source has several splits, and none was named.

    Attributes:
        names: of the splits.
    """

    def __init__(self, source: str, names: Sequence[str]) -> None:
        super().__init__(f"`{source}` has several splits: {listed(names, 24)}", hint="name one of them as `split`")
        self.names = list(names)


def split_named(name: str) -> str | None:
    """Return the split that the name of a folder or file stands for; None for any other name.

    Example:
        >>> split_named("Val"), split_named("train2017"), split_named("cats")
        ('validation', 'train', None)
    """
    return _NAMES.get(_YEAR.sub("", name.lower()))


def choose_split(splits: Any, wanted: str | None, source: str) -> Any:
    """Return one data set out of what was loaded.

    Args:
        splits: a mapping from split names to data sets (`DatasetDict`, `IterableDatasetDict`), or one data set.
        wanted: a split, sums and slices of splits as `datasets` writes them; None takes the only split.
        source: name of the source, for messages.

    Raises:
        UsageError: several splits and none named, an unknown split, a bad slice, a slice of a stream.
    """
    if not isinstance(splits, Mapping):
        splits = {str(splits.split or "train"): splits}
    splits = {str(name): rows for name, rows in splits.items()}
    names = ", ".join(splits)
    if wanted is None:
        if len(splits) == 1:
            return next(iter(splits.values()))
        raise SeveralSplits(source, list(splits))
    if wanted in splits:
        return splits[wanted]
    return _slice(splits, wanted, source, names)


def _slice(splits: Mapping[str, Any], wanted: str, source: str, names: str) -> Any:
    import datasets

    unknown = UsageError(f"`{source}` has no split `{wanted}`{nearest(wanted, splits)}", hint=f"its splits: {names}")
    if not all(hasattr(rows, "__len__") for rows in splits.values()):
        if "[" in wanted or "+" in wanted:
            raise UsageError(f"`split: {wanted}` slices a stream", hint="use `limit`, or leave out `streaming`")
        raise unknown
    lengths = {name: len(rows) for name, rows in splits.items()}
    try:
        parts = datasets.ReadInstruction.from_spec(wanted).to_absolute(lengths)
    except (ValueError, AssertionError) as error:
        bare = [part.split("[")[0].strip() for part in wanted.split("+")]
        if all(name in splits for name in bare):
            raise UsageError(
                f"`split: {wanted}` is no slice of `{source}`: {error}",
                hint="write slices like train[:20%] or test[100:200]",
            ) from error
        raise unknown from error
    taken = [splits[part.splitname].select(range(part.from_ or 0, _end(part, lengths))) for part in parts]
    if len(taken) == 1:
        return taken[0]
    tables = all(isinstance(rows, Table) for rows in taken)
    return Table.concatenate(taken) if tables else datasets.concatenate_datasets(taken)


def _end(part: Any, lengths: Mapping[str, int]) -> int:
    return lengths[part.splitname] if part.to is None else part.to
