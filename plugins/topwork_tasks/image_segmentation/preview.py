"""View of segmentation rows before any model exists: the mask over the image, values that do not count, gaps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from topwork import DataError, Row
from topwork_tasks._vision.preview import ImageView, decoded
from topwork_tasks.image_segmentation.drawing import overlay
from topwork_tasks.image_segmentation.masks import open_mask

if TYPE_CHECKING:
    from PIL.Image import Image

#: more distinct values than this in masks look like grey levels or compression noise, not labels
MANY_VALUES = 60


class SegmentationView(ImageView):
    """Masks as the task reads them."""

    def draw(self, image: Image, row: Row, options: Any) -> tuple[Image, str]:
        """Return the image with its mask (or instances) laid over it."""
        column = "mask" if row.get("mask") is not None else "instances"
        if row.get(column) is None:
            return super().draw(image, row, options)
        values = open_mask(row[column], None, column, image.size)
        flat = values if values.ndim == 2 else values.argmax(-1)
        shown = flat.astype(int)
        shown[shown == options.ignore_index] = -1
        present = sorted(set(flat.reshape(-1).tolist()))
        text = ", ".join(str(value) for value in present[:12]) + (" ..." if len(present) > 12 else "")
        return overlay(image, [shown]), f"values of the {column}: {text}"

    def doubts(self, rows: Sequence[Row], options: Any) -> list[str]:
        """Name values that cannot be labels: 255 beside one class, dozens of grey levels, gaps, unused labels."""
        if options.kind != "semantic":
            return []
        pixels: Counter[int] = Counter()
        for _, row in decoded(rows):
            try:
                values = open_mask(row.get("mask"), None, "mask")
            except DataError:
                continue
            if values.ndim == 2:
                pixels.update(dict(zip(*_counts(values))))
        return _mask_doubts(pixels, options) if pixels else []


def _counts(values: Any) -> tuple[list[int], list[int]]:
    import numpy

    labels, counts = numpy.unique(values, return_counts=True)
    return labels.tolist(), counts.tolist()


def _mask_doubts(pixels: Counter[int], options: Any) -> list[str]:
    ignored = options.ignore_index
    labels = sorted(value for value in pixels if value != ignored)
    share = pixels[ignored] / sum(pixels.values())
    doubts = []
    if ignored in pixels and len(labels) <= 1:
        doubts.append(
            f"the masks hold {labels or 'nothing'} and {ignored}, which does not count (`ignore_index`):"
            f" {share:.0%} of the pixels teach nothing; if {ignored} is a class, map it to 1"
        )
    if len(labels) > MANY_VALUES:
        doubts.append(
            f"the masks hold {len(labels)} distinct values: JPEG compression or grey levels make values that are no"
            " labels; store masks as PNG"
        )
    elif labels and max(labels) > 2 * len(labels):
        doubts.append(
            f"the masks hold {len(labels)} distinct values up to {max(labels)}: labels without pixels lie between them"
        )
    if options.label_names is not None:
        empty = [name for index, name in enumerate(options.label_names) if index not in pixels]
        if empty:
            doubts.append(f"no pixel of the rows looked at is {', '.join(repr(name) for name in empty[:8])}")
    return doubts
