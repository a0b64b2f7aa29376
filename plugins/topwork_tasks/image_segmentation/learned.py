"""What image-segmentation learns once: label names, which of them are stuff, and the image processor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from topwork import Base, DataError, State, UsageError
from topwork_tasks._vision import boxes as _boxes
from topwork_tasks.image_segmentation import models
from topwork_tasks.image_segmentation.labels import Numbers, columns_in, learn_labels

if TYPE_CHECKING:
    from topwork_tasks.image_segmentation.options import ImageSegmentationOptions


def learned(rows: Any, base: Base, options: ImageSegmentationOptions) -> State:
    """The task's state: `label_names`, `declared` (names of the data's numbers), `reduce_labels`, `stuff`, and the
    image processor.

    Raises:
        UsageError: options that contradict each other or the labels.
    """
    if options.kind != "semantic" and options.reduce_labels:
        raise UsageError("`reduce_labels` is for semantic masks", place="task.reduce_labels")
    universal = models.learns_masks(base.config, options)
    processor = models.find_processor(rows, base, options.image_size, universal)
    reduce = options.reduce_labels
    if reduce is None:
        reduce = options.kind == "semantic" and bool(getattr(processor, "do_reduce_labels", False))
    auto = models.UNIVERSAL if universal else models.SEMANTIC
    names, declared = learn_labels(rows, base, auto, options.kind, options.label_names, options.ignore_index, reduce)
    for name in options.stuff or ():
        if name not in names:
            raise UsageError(f"`{name}` is no label", place="task.stuff", hint=f"labels: {', '.join(names)}")
    if options.kind == "semantic" and options.ignore_index < len(names) and not reduce:
        raise UsageError(f"`ignore_index` {options.ignore_index} is the number of a label", place="task.ignore_index")
    stuff = options.stuff
    if stuff is None:
        stuff = _told_stuff(rows, names, declared) if options.kind == "panoptic" else []
    values = {"label_names": names, "declared": declared, "reduce_labels": reduce, "stuff": list(stuff)}
    return State(values, {"image_processor": processor})


def _told_stuff(rows: Any, names: Sequence[str], declared: Sequence[str] | None) -> list[str]:
    """Labels of segments whose `isthing` is 0, as COCO's panoptic files have it; none where the data do not say."""
    if rows is None or "segments_info" not in columns_in(rows):
        return []
    number, found = Numbers(names, declared), set()
    only = rows.select_columns(["segments_info"]) if hasattr(rows, "select_columns") else rows
    for position, row in enumerate(only):
        try:
            entries = _boxes.columns_of(row.get("segments_info"), position, "segments_info")
            key = next((key for key in ("category_id", "category", "label") if key in entries), "")
            for value, thing in zip(entries.get(key, ()), entries.get("isthing", ())):
                if thing is not None and not thing:
                    found.add(number(value, position, "segments_info"))
        except DataError:
            continue  # reading the row for training or evaluation refuses it, or skips and counts it
    return [names[place] for place in sorted(found)]
