"""Rows cut from training rows at random: stratified by label, or whole groups.

Entry points: `choose_rows`, and `choose_fold` for one of several folds. Which role is cut from which, and when, is
decided in `roles`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from topwork.data.cells import mark_of, value_in_text
from topwork.data.table import dataset_column
from topwork.errors import TopworkError, listed, nearest

if TYPE_CHECKING:
    import numpy as np

    from topwork.task import Task


#: kinds of targets with labels, and keys under which spans and boxes have theirs
LABELLED = ("label", "tags", "spans", "boxes")
_LABEL_KEYS = ("category", "category_id", "categories", "label", "labels", "class", "classes")


def choose_rows(
    count: int, size: int, seed: Sequence[int], strata: Sequence[Any] | None = None, groups: Sequence[Any] | None = None
) -> np.ndarray:
    """Choose rows to cut off, at random.

    Args:
        count: number of rows.
        size: how many are wanted; with groups the nearest sum of whole groups.
        seed: integers that the choice depends on.
        strata: the label of each row; every label gets its share, and a label with one row keeps it.
        groups: what each row belongs to (a speaker, a document); groups are never divided.

    Returns:
        the indices, ascending.

    Example:
        >>> len(choose_rows(10, 3, [0]))
        3
    """
    import numpy as np

    random = np.random.default_rng(list(seed))
    if groups is not None:
        return _choose_groups(random, size, groups)
    if strata is None:
        return np.sort(random.permutation(count)[:size])
    return _choose_stratified(random, size, strata)


def choose_fold(
    count: int,
    fold: tuple[int, int],
    seed: Sequence[int],
    strata: Sequence[Any] | None = None,
    groups: Sequence[Any] | None = None,
) -> np.ndarray:
    """Choose the rows of one of several folds: every row is in one, and the same seed gives the same folds.

    Args:
        count: number of rows.
        fold: its position, from 0, and the number of folds.
        seed: of the order of rows.
        strata: the label of each row; every fold gets its share of every label.
        groups: what each row belongs to; groups are never divided.

    Returns:
        the indices, ascending.
    """
    import numpy as np
    from sklearn.model_selection import GroupKFold

    position, folds = fold
    random = np.random.default_rng(list(seed))
    if groups is not None:
        splitter = GroupKFold(folds, shuffle=True, random_state=int(random.integers(2**31)))
        parts = list(splitter.split(np.zeros(count), groups=_codes(groups)))
        return np.sort(parts[position][1])
    order = random.permutation(count)
    if strata is not None:  # rows of one label beside each other, dealt out in turn
        order = order[np.argsort(_codes(strata)[order], kind="stable")]
    return np.sort(order[position::folds])


def _choose_stratified(random: np.random.Generator, size: int, strata: Sequence[Any]) -> np.ndarray:
    """Largest remainders: each stratum gives floor or ceil of its share, at most all rows but one."""
    import numpy as np

    codes = _codes(strata)
    counts = np.bincount(codes)
    exact = counts * (size / len(codes))
    takes = np.minimum(np.floor(exact), np.maximum(counts - 1, 0)).astype(int)
    order = np.lexsort((random.permutation(len(counts)), -(exact - np.floor(exact))))
    for least in (1, 0):  # only when rows are still missing may a label lose its last one
        while takes.sum() < size:
            before = takes.sum()
            for stratum in order:
                if takes.sum() < size and takes[stratum] < counts[stratum] - least:
                    takes[stratum] += 1
            if takes.sum() == before:
                break
    shuffled = random.permutation(len(codes))
    shuffled = shuffled[np.argsort(codes[shuffled], kind="stable")]
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    chosen = [shuffled[start : start + take] for start, take in zip(starts, takes)]
    return np.sort(np.concatenate(chosen))


def _choose_groups(random: np.random.Generator, size: int, groups: Sequence[Any]) -> np.ndarray:
    import numpy as np

    codes = _codes(groups)
    counts = np.bincount(codes)
    chosen: list[int] = []
    total = 0
    for group in random.permutation(len(counts)):
        if abs(total + counts[group] - size) < abs(total - size) and len(chosen) < len(counts) - 1:
            chosen.append(group)
            total += counts[group]
    return np.flatnonzero(np.isin(codes, chosen))


def _codes(values: Sequence[Any]) -> np.ndarray:
    """Return an integer for each value, numbered in the order in which the values come."""
    import numpy as np

    known: dict[Any, int] = {}
    return np.array([known.setdefault(value, len(known)) for value in values], dtype=np.int64)


def label_strata(
    rows: Any, task: type[Task], columns: Mapping[str, Any], kinds: Sequence[str] = LABELLED
) -> list[Any] | None:
    """Return the label of each row, by which a cut keeps proportions; None where rows have no labels.

    A row with several labels (tags of words, labels of spans, categories of boxes) counts for its rarest. Floats, and
    values of which each occurs once, are no labels.
    """
    values = _label_values(rows, task, columns, kinds)
    if values is None or any(isinstance(value, float) for value in values):
        return None
    several = any(isinstance(value, list | tuple) for value in values)
    entries = [_hashable(value) for value in values]
    if several:
        counts = Counter(label for labels in entries if isinstance(labels, tuple) for label in labels)
        entries = [
            min(labels, key=counts.__getitem__) if isinstance(labels, tuple) and labels else None for labels in entries
        ]
    return entries if 1 < len(set(entries)) < len(entries) else None


def _label_values(rows: Any, task: type[Task], columns: Mapping[str, Any], kinds: Sequence[str]) -> list[Any] | None:
    """Return the labels, tags, labels of spans or categories of boxes that the rows have; None where there are none."""
    for name, column in task.columns.items():
        source = columns.get(name, name)
        if not column.target or column.kind not in kinds:
            continue
        if not isinstance(source, str):  # columns of which each marks one label
            marks = [column_values(rows, label) for label in source]
            if all(values is not None for values in marks):
                return [[label for label, mark in zip(source, row) if mark_of(mark)] for row in zip(*marks)]
        elif (values := column_values(rows, source)) is not None and any(value is not None for value in values):
            return values if column.kind == "label" else [_names_in(value, column.kind) for value in values]
    return None


def _names_in(value: Any, kind: str) -> list[Any]:
    """Return the tags of a row, or the labels of its spans or boxes: one dict of lists, or a list of dicts."""
    if isinstance(value, str):
        value = value.split() if kind == "tags" and not value.lstrip().startswith("[") else value_in_text(value)
    if isinstance(value, Mapping):
        value = next((value[key] for key in _LABEL_KEYS if value.get(key) is not None), None)
    entries = value if isinstance(value, list | tuple) else []
    names = (
        next((entry[key] for key in _LABEL_KEYS if key in entry), None) if isinstance(entry, Mapping) else entry
        for entry in entries
    )
    return [name for name in names if isinstance(name, str | int)]


def _hashable(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return tuple(_hashable(entry) for entry in value)
    return value if isinstance(value, str | int | bool) or value is None else repr(value)


def column_values(rows: Any, name: str) -> list[Any] | None:
    """Return the values of a column of a table or a list of dicts; None if there is no such column."""
    if hasattr(rows, "column_names"):
        return list(dataset_column(rows, name)) if name in rows.column_names else None
    return [row.get(name) for row in rows] if any(name in row for row in rows) else None


def group_values(rows: Any, name: str, role: str) -> list[Any]:
    """Return what each row belongs to, for a cut by groups.

    Raises:
        TopworkError: the rows have no such column, or all belong to one group.
    """
    values = column_values(rows, name)
    if values is None:
        names = list(getattr(rows, "column_names", None) or dict.fromkeys(key for row in rows for key in row))
        raise TopworkError(
            f"no column `{name}` to cut by{nearest(name, names)}",
            place=f"data.{role}.by",
            hint=f"there are {listed(names, 24)}",
        )
    values = [_hashable(value) for value in values]
    if len(set(values)) < 2:
        raise TopworkError(
            f"all rows have the same `{name}`, so none can be cut off", place=f"data.{role}", hint="leave out `by`"
        )
    return values
