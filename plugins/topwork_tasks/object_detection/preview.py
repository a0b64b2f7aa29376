"""View of detection rows before any model exists: boxes over the image, counts, boxes that leave their image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from topwork import DataError, Row
from topwork_tasks._vision.boxes import categories_of, columns_of, draw_boxes, objects_of
from topwork_tasks._vision.headers import size_of
from topwork_tasks._vision.images import magnified
from topwork_tasks._vision.preview import LEAST_SIDE, ImageView, counted

if TYPE_CHECKING:
    from PIL.Image import Image


class DetectionView(ImageView):
    """Boxes as the task reads them."""

    def measure(self, row: Row, options: Any) -> Mapping[str, float]:
        """Return width, height and the number of boxes."""
        measures = dict(super().measure(row, options))
        with suppress(DataError):
            measures["boxes"] = float(len(categories_of(row.get("objects"), None)))
        return measures

    def draw(self, image: Image, row: Row, options: Any) -> tuple[Image, str]:
        """Return the image with its boxes and their categories."""
        objects = objects_of(row, None, image.size, options.box_format, drop=True)
        large = magnified(image, LEAST_SIDE)
        boxes = [(box, str(name), "lime") for box, name in zip(objects.boxes.tolist(), objects.categories)]
        return draw_boxes(large, boxes, large.width / image.width), counted(objects.categories) or "no objects"

    def doubts(self, rows: Sequence[Row], options: Any) -> list[str]:
        """Name boxes that leave their image or cannot be used, and rows without any box."""
        form, outside, unusable, boxes = options.box_format, 0, 0, 0
        for row in rows:
            size = size_of(row.get("image"))
            if size is None:
                continue
            with suppress(DataError):
                written = _boxes_of(row)
                boxes += len(written)
                unusable += len(written) - len(objects_of(row, None, size, form, drop=True).categories)
                outside += sum(_leaves(box, size, form) for box in written)
        doubts = []
        if outside:
            doubts.append(f"{outside} of {boxes} boxes reach out of their image (`box_format: {form}`)")
        if unusable:
            doubts.append(f"{unusable} of {boxes} boxes cannot be used: another format than `{form}` may fit")
        if rows and not boxes:
            doubts.append("no row has a box")
        return doubts


def _boxes_of(row: Row) -> list[Any]:
    columns = columns_of(row.get("objects"), None)
    return next((columns[name] for name in ("bbox", "bboxes", "boxes", "box") if name in columns), [])


def _leaves(box: Any, size: tuple[int, int], form: str) -> bool:
    """Return whether a box as written reaches out of its image by more than a pixel; fractions are of its sides."""
    if not isinstance(box, Sequence) or len(box) != 4 or not all(isinstance(value, int | float) for value in box):
        return False
    width, height = size
    if form == "coco":
        left, top, right, bottom = box[0], box[1], box[0] + box[2], box[1] + box[3]
    elif form == "yolo":
        left, top = (box[0] - box[2] / 2) * width, (box[1] - box[3] / 2) * height
        right, bottom = (box[0] + box[2] / 2) * width, (box[1] + box[3] / 2) * height
    else:
        left, top, right, bottom = box
    return left < -1 or top < -1 or right > width + 1 or bottom > height + 1
