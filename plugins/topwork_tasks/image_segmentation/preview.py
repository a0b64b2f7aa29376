"""View of segmentation rows before any model exists: the mask over the image, values that do not count, gaps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from topwork import Row
from topwork_tasks._vision.headers import size_of
from topwork_tasks._vision.images import magnified
from topwork_tasks._vision.maps import shrink_map
from topwork_tasks._vision.preview import LEAST_SIDE, MOST_DECODED, ImageView, spread
from topwork_tasks.image_segmentation.colours import Colours, RowColours, colours_in, is_coloured
from topwork_tasks.image_segmentation.doubts import mask_doubts
from topwork_tasks.image_segmentation.drawing import overlay
from topwork_tasks.image_segmentation.masks import open_mask, palette_colours

if TYPE_CHECKING:
    import numpy
    from PIL.Image import Image


class SegmentationView(ImageView):
    """Masks as the task reads them."""

    def draw(self, image: Image, row: Row, options: Any) -> tuple[Image, str]:
        """Return the image with its mask (or instances) laid over it."""
        column = "mask" if row.get("mask") is not None else "instances"
        if row.get(column) is None:
            return super().draw(image, row, options)
        colours = RowColours(options, []).of(row)
        written = palette_colours(row[column]) if colours else row[column]
        values = shrink_map(open_mask(written, None, column, size_of(row.get("image"))), image.size)
        if column == "mask" and options.kind == "semantic" and row.get("segments_info") is None and is_coloured(values):
            return _draw_colours(image, values, colours or {})
        flat = values if values.ndim == 2 else values.argmax(-1)
        shown = flat.astype(int)
        shown[shown == options.ignore_index] = -1
        present = sorted(set(flat.reshape(-1).tolist()))
        text = ", ".join(str(value) for value in present[:12]) + (" ..." if len(present) > 12 else "")
        return overlay(image, [shown]), f"values of the {column}: {text}"

    def doubts(self, rows: Sequence[Row], options: Any) -> list[str]:
        """Name values that cannot be labels: 255 beside one class, dozens of grey levels, gaps, unused labels."""
        return mask_doubts(spread(rows, MOST_DECODED), options)


def _draw_colours(image: Image, mask: numpy.ndarray, colours: Colours) -> tuple[Image, str]:
    """Return the image with a colour mask laid over it, and the names of its colours."""
    import numpy
    from PIL import Image as pil

    named = {f"#{red:02x}{green:02x}{blue:02x}": name for name, (red, green, blue) in colours.items()}
    present = [named.get(colour, colour) for colour in sorted(colours_in(mask))]
    large = magnified(image, LEAST_SIDE)
    layer = pil.fromarray(mask.astype(numpy.uint8)).resize(large.size, pil.Resampling.NEAREST)
    text = ", ".join(present[:12]) + (" ..." if len(present) > 12 else "")
    return pil.blend(large, layer, 0.55), f"colours of the mask: {text}"
