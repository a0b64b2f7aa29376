"""Which labels a segmentation has, and which label a number in a mask stands for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from topwork import Base, DataError, Row, TopworkError, UsageError, nearest
from topwork_tasks._classification.labels import check_alike
from topwork_tasks._vision import boxes as _boxes
from topwork_tasks.image_segmentation.rows import flat, open_map, tells_segments
from topwork_tasks.object_detection import detectors as _detectors

#: the largest number of a label that nobody named
_MOST = 10_000


def uses_objects(row: Row, number: int | None = None) -> bool:
    """Whether a row's instances stand in `objects`: it has no mask, or its objects have a segmentation."""
    if row.get("objects") is None:
        return False
    return row.get("mask") is None or "segmentation" in _boxes.columns_of(row["objects"], number)


def learn_labels(
    rows: Any, base: Base, auto: Sequence[str], kind: str, given: Sequence[str] | None, ignored: int, reduce: bool
) -> tuple[list[str], list[str] | None]:
    """Label names in the order of the outputs, and the names of the data's numbers where they are declared.

    Those of a trained checkpoint win; else `given`, else those that `objects` or `segments_info` declares, else the
    numbers that occur.
    """
    trained = base.trained_labels(*auto)
    declared = list(given) if given else None
    if declared is None and kind != "semantic" and rows is not None and uses_objects(next(iter(rows), {})):
        declared = _detectors.declared_names(rows)
    if declared is None and (kind == "panoptic" or _told_in_segments(rows)):
        declared = _detectors.declared_names(rows, "segments_info")
    if declared is not None and len(set(declared)) != len(declared):
        raise UsageError(f"`label_names` has a name twice: {declared}", place="task.label_names")
    if trained is not None:
        for name in declared or ():
            if name not in trained:
                raise UsageError(
                    f"the checkpoint has no label `{name}`{nearest(name, trained)}",
                    place="task.label_names",
                    hint="name the data's labels as the checkpoint does, or set `head: new`",
                )
        return list(trained), declared
    names = declared or _occurring(rows, kind, ignored, reduce)
    if len(names) < (2 if kind == "semantic" else 1):
        raise DataError(f"has only the label {names}", column="mask", hint="give rows with two labels or more")
    return list(names), declared


def _told_in_segments(rows: Any) -> bool:
    """Whether semantic rows are panoptic ones: the mask of the first tells segments."""
    if rows is None or "segments_info" not in (getattr(rows, "features", None) or {}):
        return False
    row: Row = next(iter(rows), {})
    return "mask" in row and tells_segments(row, open_map(row["mask"], 0, "mask"))


def _occurring(rows: Any, kind: str, ignored: int, reduce: bool) -> list[str]:
    if rows is None:
        raise TopworkError(
            "the label names are not known",
            hint="give training rows, `label_names`, or a base with a trained task head",
        )
    values: set[Any] = set()
    wanted = [name for name in ("mask", "objects", "segments_info") if name in columns_in(rows)]
    only = rows.select_columns(wanted) if hasattr(rows, "select_columns") else rows
    for number, row in enumerate(only):
        column, found = _values(row, number, kind)
        for value in found:
            check_alike(value, values, number, column)
            if not isinstance(value, str) and not 0 <= value <= _MOST and value != ignored:
                cause, hint = f"holds the number {value}", f"labels count from 0 to {_MOST}; or give `label_names`"
                raise DataError(cause, row=number, column=column, hint=hint)
            values.add(value)
    values -= {ignored, *((0,) if reduce else ())}
    if any(isinstance(value, str) for value in values):
        return sorted(values)
    if not values:
        raise DataError("holds no label at all", column="mask", hint="give rows with labels, or `label_names`")
    return [str(value) for value in range(max(values) + (0 if reduce else 1))]


def columns_in(rows: Any) -> list[str]:
    """Names of the columns of rows of any kind."""
    names = getattr(rows, "column_names", None)
    return list(names) if names is not None else list(dict.fromkeys(name for row in rows for name in row))


def _values(row: Row, number: int, kind: str) -> tuple[str, list[Any]]:
    """The column that holds a row's labels, and those labels."""
    import numpy

    if kind != "semantic" and uses_objects(row, number):
        return "objects", _boxes.categories_of(row["objects"], number)
    mask = open_map(row["mask"], number, "mask") if kind == "semantic" and "mask" in row else None
    told = kind == "panoptic" and row.get("segments_info") is not None
    if told or (mask is not None and tells_segments(row, mask)):
        entries = _boxes.columns_of(row["segments_info"], number, "segments_info")
        key = next((key for key in ("category_id", "category", "label") if key in entries), "category_id")
        return "segments_info", entries.get(key, [])
    if "mask" not in row:
        raise DataError("is missing", row=number, column="mask", hint="map it in `data.columns`")
    mask = open_map(row["mask"], number, "mask") if mask is None else mask
    labels = mask[..., 0] if mask.ndim == 3 and kind != "semantic" else flat(mask, number, "mask")
    return "mask", numpy.unique(labels).tolist()


class Numbers:
    """The data's values -> numbers of outputs.

    Args:
        names: label names in the order of the outputs.
        declared: names of the data's numbers; None when these are the outputs' own.
    """

    def __init__(self, names: Sequence[str], declared: Sequence[str] | None) -> None:
        self.names = list(names)
        self.table = [self.names.index(name) for name in declared] if declared else list(range(len(self.names)))

    def __call__(self, value: Any, row: int | None, column: str) -> int:
        """The output that one value stands for."""
        if isinstance(value, str):
            if value not in self.names:
                raise self._unknown(repr(value), row, column, nearest(value, self.names))
            return self.names.index(value)
        if isinstance(value, bool) or (not isinstance(value, int) and not hasattr(value, "__index__")):
            raise self._unknown(repr(value), row, column)
        if not 0 <= value < len(self.table):
            raise self._unknown(str(value), row, column)
        return self.table[int(value)]

    def of_map(self, labels: Any, ignored: int, reduce: bool, row: int | None) -> Any:
        """int32 [height, width] of outputs; `ignored` stays. With `reduce` 0 does not count and the others move down.

        Raises:
            DataError: a number that is no label.
        """
        import numpy

        if reduce:
            labels = numpy.where((labels == 0) | (labels == ignored), ignored, labels - 1)
        valid = labels != ignored
        wrong = valid & ((labels < 0) | (labels >= len(self.table)))
        if wrong.any():
            raise self._unknown(str(int(labels[wrong][0])), row, "mask")
        table = numpy.array(self.table, dtype=numpy.int32)
        return numpy.where(valid, table[numpy.where(valid, labels, 0)], ignored).astype(numpy.int32)

    def _unknown(self, value: str, row: int | None, column: str, hint: str = "") -> DataError:
        known = f"{', '.join(self.names[:12])}{', ...' if len(self.names) > 12 else ''}"
        return DataError(
            f"holds {value}, which is none of the {len(self.table)} labels{hint}",
            row=row,
            column=column,
            hint=f"known labels: {known}; `label_names` names the numbers, `ignore_index` is no label",
        )
