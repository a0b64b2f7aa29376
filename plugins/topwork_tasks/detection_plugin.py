"""Plugin of object-detection: the declaration of the task, and COCO and Pascal VOC files as rows for all tasks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from topwork import Declaration, choose_split, hookimpl

if TYPE_CHECKING:
    from topwork import RowsOptions


@hookimpl
def register_tasks() -> list[Declaration]:
    """Declare object-detection."""
    about = "Find objects in images. `bad_input.md` says what becomes of bad rows."
    return [Declaration("object-detection", "topwork_tasks.object_detection:ObjectDetection", about)]


@hookimpl
def register_formats() -> Mapping[str, str]:
    """Return the two layouts, with a line about each."""
    return {
        "coco": "COCO's JSON of boxes, instances or panoptic segments, or a folder with it: image, objects",
        "voc": "a folder of Pascal VOC, or its Annotations/*.xml: image, objects",
    }


@hookimpl
def load_rows(source: str, options: RowsOptions) -> Any | None:
    """Read COCO files of boxes, instances or panoptic segments (`format: coco`), and folders of Pascal VOC.

    Raises:
        UsageError: no such split, or several and none named.
        DataError: an entry that is wrong, or an image that is missing.
    """
    from topwork_tasks.object_detection.coco_files import coco_rows, format_of
    from topwork_tasks.object_detection.voc_files import voc_rows

    form = format_of(source, options)
    if form == "voc":
        rows = voc_rows(source, options)
    elif form == "coco":
        rows = choose_split(coco_rows(source, options), options.split, source)
    else:
        return None
    return rows.stream() if options.streaming else rows
