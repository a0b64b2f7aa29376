"""View of segmentation rows before any model exists: the mask over the image, values that do not count, gaps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from topwork import Row
from topwork_tasks._vision.headers import size_of
from topwork_tasks._vision.images import shrink_map
from topwork_tasks._vision.preview import MOST_DECODED, ImageView, spread
from topwork_tasks.image_segmentation.doubts import mask_doubts
from topwork_tasks.image_segmentation.drawing import overlay
from topwork_tasks.image_segmentation.masks import open_mask

if TYPE_CHECKING:
    from PIL.Image import Image


class SegmentationView(ImageView):
    """Masks as the task reads them."""

    def draw(self, image: Image, row: Row, options: Any) -> tuple[Image, str]:
        """Return the image with its mask (or instances) laid over it."""
        column = "mask" if row.get("mask") is not None else "instances"
        if row.get(column) is None:
            return super().draw(image, row, options)
        values = shrink_map(open_mask(row[column], None, column, size_of(row.get("image"))), image.size)
        flat = values if values.ndim == 2 else values.argmax(-1)
        shown = flat.astype(int)
        shown[shown == options.ignore_index] = -1
        present = sorted(set(flat.reshape(-1).tolist()))
        text = ", ".join(str(value) for value in present[:12]) + (" ..." if len(present) > 12 else "")
        return overlay(image, [shown]), f"values of the {column}: {text}"

    def doubts(self, rows: Sequence[Row], options: Any) -> list[str]:
        """Name values that cannot be labels: 255 beside one class, dozens of grey levels, gaps, unused labels."""
        return mask_doubts(spread(rows, MOST_DECODED), options)
