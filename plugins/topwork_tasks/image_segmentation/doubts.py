"""Masks that look wrong without being an error: labels in no pixel, gaps, JPEG noise, 255 that does not count."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

from topwork import DataError, Row, listed
from topwork_tasks.image_segmentation.colours import is_coloured
from topwork_tasks.image_segmentation.masks import open_mask

if TYPE_CHECKING:
    from topwork_tasks.image_segmentation.options import ImageSegmentationOptions

#: share of the pixels below which a label counts as rare
_RARE = 0.001
#: distinct values from which masks look like grey levels
_MANY_VALUES = 60
#: share of the pixels from which `ignore_index` is worth a word
_MANY = 0.05


def mask_doubts(rows: Iterable[Row], options: ImageSegmentationOptions) -> list[str]:
    """Return doubts about the masks of rows, one sentence each; only of semantic masks."""
    if options.kind != "semantic" or options.colours:
        return []
    counts = _pixel_counts(rows)
    total = sum(counts.values())
    if not total:
        return []
    ignored = counts.pop(options.ignore_index, 0)
    if options.reduce_labels:
        counts = Counter({value - 1: count for value, count in counts.items() if value})
    names = options.label_names or [str(value) for value in range(max(counts, default=-1) + 1)]
    named = {int(value): name for value, name in (names if isinstance(names, dict) else dict(enumerate(names))).items()}
    absent = [name for value, name in named.items() if not counts[value]]
    rare = sum(counts[value] < _RARE * total for value in named)
    doubts = []
    aside = f"{options.ignore_index}, which does not count (`ignore_index`), is in {ignored / total:.1%} of the pixels"
    if options.label_names and absent and (ignored > _MANY * total or 2 * len(absent) >= len(names)):
        unseen = listed([f"`{name}`" for name in absent], 8)
        doubts.append(f"no pixel of the masks has the label {unseen}" + (f"; {aside}" if ignored else ""))
    elif not options.label_names and (len(counts) > _MANY_VALUES or (len(names) > 2 and 2 * rare > len(names))):
        doubts.append(
            f"the masks hold {len(counts)} distinct values up to {max(counts)}, and make {len(names)} labels, of which "
            f"{rare} are in fewer than {_RARE:.1%} of the pixels: JPEG compression or grey levels make values that are "
            "no labels, and gaps make labels without pixels; store 0, 1, 2 ... as PNG, or give `label_names`"
        )
    elif not options.label_names and len(names) < 2 and ignored:
        doubts.append(f"the masks have only the label {names}; {aside}")
    return doubts


def _pixel_counts(rows: Iterable[Row]) -> Counter[int]:
    """Return the number of pixels of each value in the masks that can be read."""
    import numpy

    counts: Counter[int] = Counter()
    for index, row in enumerate(rows):
        if row.get("mask") is None or row.get("segments_info") is not None or row.get("colour_table") is not None:
            continue
        try:
            mask = open_mask(row["mask"], index, "mask")
        except DataError:
            continue  # reading the row for training refuses it, or skips and counts it
        if is_coloured(mask):
            continue
        values, pixels = numpy.unique(mask if mask.ndim == 2 else mask[..., 0], return_counts=True)
        counts.update(dict(zip(values.tolist(), pixels.tolist())))
    return counts
