"""Labels of a segmentation: their names, learned once, and the label that a number in a mask stands for.

Entry points: `learn_state` for `Task.learn`, `LabelNumbers` for reading rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from topwork import Base, DataError, Row, State, TopworkError, UsageError, listed, nearest
from topwork_tasks._classification.labels import Declared, LabelNames, check_alike, given_names, source_names
from topwork_tasks._vision.boxes import categories_of, columns_of, declared_names
from topwork_tasks._vision.inputs import find_pixel_range
from topwork_tasks.image_segmentation import models
from topwork_tasks.image_segmentation.colours import (
    MOST_COLOURS,
    RowColours,
    colours_in,
    colours_in_tables,
    grey,
    is_coloured,
)
from topwork_tasks.image_segmentation.masks import one_channel, open_mask, segment_categories, tells_segments

if TYPE_CHECKING:
    from topwork_tasks.image_segmentation.options import ImageSegmentationOptions

#: the largest number of a label without a name
_MOST = 10_000


# ---------------------------------------------------------------- once


def learn_state(rows: Any, base: Base, options: ImageSegmentationOptions, notes: list[str]) -> State:
    """Learn the task's state.

    It holds `label_names`, `declared` (names of the data's numbers), `reduce_labels`, `stuff`, the image processor, and
    `colours`, the colour of each name where the rows name tables of colours.

    Args:
        rows: training rows, or None.
        base: the base.
        options: of the task.
        notes: for the log, to which others are added.

    Raises:
        UsageError: options that contradict each other or the labels.
    """
    if options.kind != "semantic" and options.reduce_labels:
        raise UsageError("`reduce_labels` is for semantic masks", place="task.reduce_labels")
    universal = models.learns_masks(base.config, options)
    pixel_range = find_pixel_range(rows, options, base.config, notes)
    processor = models.find_processor(rows, base, options, pixel_range, universal)
    reduce = options.reduce_labels
    if reduce is None:
        reduce = options.kind == "semantic" and bool(getattr(processor, "do_reduce_labels", False))
    auto = models.UNIVERSAL if universal else models.SEMANTIC
    if options.colours and (options.kind != "semantic" or reduce):
        raise UsageError("`colours` is for semantic masks, without `reduce_labels`", place="task.colours")
    given: Any = options.label_names or (list(options.colours) if options.colours else None)
    colours: dict[str, list[int]] = {}
    if options.kind == "semantic" and rows is not None and "colour_table" in _columns_in(rows):
        narrow = rows.select_columns(["colour_table"]) if hasattr(rows, "select_columns") else rows
        names_of_tables, colours = colours_in_tables(narrow)
        given = given or names_of_tables or None
    names, declared = learn_mask_labels(rows, base, auto, options.kind, given, options.ignore_index, reduce)
    if RowColours(options, names).learned:
        labelled = f"{len(names)} colours are labels ({listed(names)})"
        notes.append(f"the masks are colour images: {labelled}; `colours` names them")
    for name in options.stuff or ():
        if name not in names:
            raise UsageError(f"`{name}` is no label", place="task.stuff", hint=f"labels: {listed(names)}")
    if options.kind == "semantic" and options.ignore_index < len(names) and not reduce:
        raise UsageError(f"`ignore_index` {options.ignore_index} is the number of a label", place="task.ignore_index")
    stuff = options.stuff
    if stuff is None:
        stuff = _declared_stuff(rows, names, declared) if options.kind == "panoptic" else []
    values: dict[str, Any] = {"label_names": names, "declared": declared, "reduce_labels": reduce, "stuff": list(stuff)}
    values["pixel_range"] = pixel_range
    if colours:
        values["colours"] = colours
    return State(values, {"image_processor": processor}, notes)


def _declared_stuff(rows: Any, names: Sequence[str], declared: Declared) -> list[str]:
    """Return the labels of segments whose `isthing` is 0, as COCO's panoptic files have it; none where it is absent."""
    if rows is None or "segments_info" not in _columns_in(rows):
        return []
    numbers, stuff = LabelNumbers(names, declared), set()
    narrow = rows.select_columns(["segments_info"]) if hasattr(rows, "select_columns") else rows
    for index, row in enumerate(narrow):
        try:
            entries = columns_of(row.get("segments_info"), index, "segments_info")
            for value, thing in zip(segment_categories(entries), entries.get("isthing", ())):
                if thing is not None and not thing:
                    stuff.add(numbers(value, index, "segments_info"))
        except DataError:
            continue  # reading the row for training or evaluation refuses it, or skips and counts it
    return [names[label] for label in sorted(stuff)]


def learn_mask_labels(
    rows: Any, base: Base, auto: Sequence[str], kind: str, option: LabelNames, ignored: int, reduce: bool
) -> tuple[list[str], Declared]:
    """Return label names in the order of the outputs, and the names of the data's numbers where they are declared.

    Those of a trained checkpoint win; else the option, else those that `objects` or `segments_info` declares, else the
    numbers that occur.
    """
    trained = base.trained_labels(*auto)
    declared, by_number = given_names(option)
    if isinstance(by_number, Mapping) and str(ignored) in by_number and kind == "semantic":
        raise UsageError(
            f"`label_names` names {ignored}, which is `ignore_index` and does not count",
            place="task.label_names",
            hint="set another `ignore_index`, such as 254",
        )
    if declared is None and kind != "semantic" and rows is not None and uses_objects(next(iter(rows), {})):
        declared = declared_names(rows)
    if declared is None and (kind == "panoptic" or _has_segment_masks(rows)):
        declared = declared_names(rows, "segments_info")
    if trained is not None:
        for name in declared or ():
            if name not in trained:
                raise UsageError(
                    f"the checkpoint has no label `{name}`{nearest(name, trained)}",
                    place="task.label_names",
                    hint="name the data's labels as the checkpoint does, or set `head: new`",
                )
        return list(trained), by_number or declared
    names = (declared and source_names(declared, "objects")) or _occurring(rows, kind, ignored, reduce)
    if len(names) < (2 if kind == "semantic" else 1):
        raise DataError(f"has only the label {names}", column="mask", hint="give rows with two labels or more")
    return list(names), by_number or declared


def uses_objects(row: Row, index: int | None = None) -> bool:
    """Return whether a row's instances stand in `objects`: no mask, or objects with a segmentation."""
    if row.get("objects") is None:
        return False
    return row.get("mask") is None or "segmentation" in columns_of(row["objects"], index)


def _has_segment_masks(rows: Any) -> bool:
    """Return whether semantic rows are panoptic ones: the mask of the first holds ids of segments."""
    if rows is None or "segments_info" not in (getattr(rows, "features", None) or {}):
        return False
    row: Row = next(iter(rows), {})
    return "mask" in row and tells_segments(row, open_mask(row["mask"], 0, "mask"))


def _occurring(rows: Any, kind: str, ignored: int, reduce: bool) -> list[str]:
    """Return the labels that occur, the numbers 0 ... largest as strings, or the names, sorted."""
    if rows is None:
        raise TopworkError(
            "the label names are not known",
            hint="give training rows, `label_names`, or a base with a trained task head",
        )
    values: set[Any] = set()
    colours: set[str] = set()
    coloured_row, has_numbers = None, False
    wanted = [name for name in ("mask", "objects", "segments_info") if name in _columns_in(rows)]
    narrow = rows.select_columns(wanted) if hasattr(rows, "select_columns") else rows
    for index, row in enumerate(narrow):
        column, row_values = _values(row, index, kind)
        has_numbers = has_numbers or column == "numbers"
        column = "mask" if column == "numbers" else column
        if column == "colours":
            coloured_row = index if coloured_row is None else coloured_row
            colours.update(row_values)
            if len(colours) > MOST_COLOURS:
                hint = "write labels as 0, 1, 2 ... in PNG files, or give `colours`; JPEG changes colours"
                cause = f"is a colour image, and makes {len(colours)} colours with those before"
                raise DataError(cause, row=index, column="mask", hint=hint)
            continue
        for value in row_values:
            check_alike(value, values, index, column)
            if not isinstance(value, str) and not 0 <= value <= _MOST and value != ignored:
                cause, hint = f"holds the number {value}", f"labels count from 0 to {_MOST}; or give `label_names`"
                raise DataError(cause, row=index, column=column, hint=hint)
            values.add(value)
    if coloured_row is not None and has_numbers:
        hint = "give the numbers of labels (mode L, P or I), or `colours`"
        raise DataError("is a colour image, others are numbers", row=coloured_row, column="mask", hint=hint)
    if colours:
        return sorted(colours | {grey(value) for value in values if value <= 255})
    if ignored in values and len(values) == 2 and kind == "semantic":
        cause = f"has only the label {sorted(values - {ignored})}, and {ignored}, which does not count (`ignore_index`)"
        raise DataError(cause, column="mask", hint="write labels as 0, 1, 2 ..., or set another `ignore_index`")
    values -= {ignored, *((0,) if reduce else ())}
    if any(isinstance(value, str) for value in values):
        return sorted(values)
    if not values:
        raise DataError("holds no label at all", column="mask", hint="give rows with labels, or `label_names`")
    return [str(value) for value in range(max(values) + (0 if reduce else 1))]


def _columns_in(rows: Any) -> list[str]:
    """Return the names of the columns of rows of any kind."""
    names = getattr(rows, "column_names", None)
    return list(names) if names is not None else list(dict.fromkeys(name for row in rows for name in row))


def _values(row: Row, index: int, kind: str) -> tuple[str, list[Any]]:
    """Return the column that holds a row's labels, and those labels.

    Of semantic masks "numbers" for a map of numbers, and "colours" with the colours of a colour image.
    """
    import numpy

    if kind != "semantic" and uses_objects(row, index):
        return "objects", categories_of(row["objects"], index)
    mask = open_mask(row["mask"], index, "mask") if kind == "semantic" and "mask" in row else None
    panoptic = kind == "panoptic" and row.get("segments_info") is not None
    if panoptic or (mask is not None and tells_segments(row, mask)):
        return "segments_info", segment_categories(columns_of(row["segments_info"], index, "segments_info"))
    if "mask" not in row:
        raise DataError("is missing", row=index, column="mask", hint="map it in `data.columns`")
    mask = open_mask(row["mask"], index, "mask") if mask is None else mask
    if kind == "semantic" and is_coloured(mask):
        return "colours", list(colours_in(mask))
    if kind == "semantic" and mask.ndim == 2:
        return "numbers", numpy.unique(mask).tolist()
    labels = mask[..., 0] if mask.ndim == 3 and kind != "semantic" else one_channel(mask, index, "mask")
    return "mask", numpy.unique(labels).tolist()


# ---------------------------------------------------------------- of each row


class LabelNumbers:
    """Values of the data -> label indices.

    Args:
        names: label names in the order of the outputs.
        declared: names of the data's numbers, by position or by number; None when these are the outputs' own.

    Raises:
        UsageError: a mapping whose keys are no numbers of masks.
    """

    def __init__(self, names: Sequence[str], declared: Declared) -> None:
        self.names = list(names)
        if isinstance(declared, Mapping):
            if wrong := [key for key in declared if not key.isdigit() or int(key) > _MOST]:
                raise UsageError(f"`{wrong[0]}` is no number of a mask", place="task.label_names")
            by_number = {int(key): name for key, name in declared.items()}
        else:
            by_number = dict(enumerate(declared or self.names))
        self.table = {number: self.names.index(name) for number, name in by_number.items()}

    def __call__(self, value: Any, index: int | None, column: str) -> int:
        """Return the label of one value; `index` is that of the row, for messages."""
        if isinstance(value, str):
            if value not in self.names:
                raise self._unknown(repr(value), index, column, nearest(value, self.names))
            return self.names.index(value)
        if isinstance(value, bool) or (not isinstance(value, int) and not hasattr(value, "__index__")):
            raise self._unknown(repr(value), index, column)
        if value not in self.table:
            raise self._unknown(str(value), index, column)
        return self.table[int(value)]

    def of_map(self, labels: Any, ignored: int, reduce: bool, index: int | None) -> Any:
        """Return labels as int32 [height, width]; `ignored` stays.

        With `reduce`, 0 does not count and the other numbers are lowered by one.

        Raises:
            DataError: a number that is no label.
        """
        import numpy

        if reduce:
            labels = numpy.where((labels == 0) | (labels == ignored), ignored, labels - 1)
        valid = labels != ignored
        table = numpy.full(max(self.table) + 1, -1, dtype=numpy.int32)
        table[list(self.table)] = list(self.table.values())
        outside = (labels < 0) | (labels >= len(table))
        wrong = valid & (outside | (table[numpy.where(outside, 0, labels)] < 0))
        if wrong.any():
            raise self._unknown(str(int(labels[wrong][0])), index, "mask")
        return numpy.where(valid, table[numpy.where(valid, labels, 0)], ignored).astype(numpy.int32)

    def _unknown(self, value: str, index: int | None, column: str, suggestion: str = "") -> DataError:
        return DataError(
            f"holds {value}, which is none of the {len(self.table)} labels{suggestion}",
            row=index,
            column=column,
            hint=f"known labels: {listed(self.names)}; `label_names` names the numbers, `ignore_index` is no label",
        )
