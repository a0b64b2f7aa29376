"""Plugin of object-detection: the declaration of the task, and COCO and Pascal VOC files as rows for all tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from topwork import Declaration, UsageError, hookimpl

if TYPE_CHECKING:
    from topwork import RowsOptions


@hookimpl
def register_tasks() -> list[Declaration]:
    """Declare object-detection."""
    about = "Find objects in images. `bad_input.md` says what becomes of bad rows."
    return [Declaration("object-detection", "topwork_tasks.object_detection:ObjectDetection", about)]


@hookimpl
def load_rows(source: str, options: RowsOptions) -> Any | None:
    """Read COCO files of boxes, instances or panoptic segments (`format: coco`), and folders of Pascal VOC."""
    from topwork_tasks.object_detection.coco_files import coco_rows, format_of
    from topwork_tasks.object_detection.voc_files import voc_rows

    form = format_of(source, options)
    if form == "coco" and options.split not in (None, "train"):
        raise UsageError("a COCO file has no splits", place=source, hint="give each split's file its own `path`")
    read = {"voc": voc_rows, "coco": coco_rows}.get(form or "")
    return None if read is None else read(source, options)
