"""View of detection rows before any model exists: boxes over the image, counts, boxes that leave their image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from topwork import DataError, Row
from topwork_tasks._classification.labels import spelling_doubts
from topwork_tasks._vision.boxes import box_doubts, categories_of, draw_boxes, objects_of
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
        """Return the image with its boxes and their categories; the image alone where a row has no boxes."""
        if row.get("objects") is None:
            return super().draw(image, row, options)
        size = size_of(row.get("image")) or image.size
        objects = objects_of(row, None, size, options.box_format, drop=True)
        large = magnified(image, LEAST_SIDE)
        boxes = [(box, str(name), "lime") for box, name in zip(objects.boxes.tolist(), objects.categories)]
        return draw_boxes(large, boxes, large.width / size[0]), counted(objects.categories) or "no objects"

    def doubts(self, rows: Sequence[Row], options: Any) -> list[str]:
        """Name boxes that leave their image or cannot be used, rows without any box, categories that look alike."""
        boxed = [row for row in rows if row.get("objects") is not None]
        names: list[str] = []
        for row in boxed:
            with suppress(DataError):
                names += categories_of(row["objects"], None)
        doubts = box_doubts(boxed, options.box_format) if boxed else []
        return [*doubts, *spelling_doubts(names, "objects")]
